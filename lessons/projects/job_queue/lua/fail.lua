-- ARGV: id, token, error, delay_s, permanent (1 or 0). Returns the new state, or '' if the lease had ended.
local id = ARGV[1]
local job = redis.call('HMGET', job_key(id), 'token', 'state', 'attempts', 'max_attempts')
if job[1] ~= ARGV[2] or job[2] ~= 'leased' then
    return ''
end
redis.call('ZREM', key('leased'), id)
count_in_second('failed')
if ARGV[5] == '1' or tonumber(job[3]) >= tonumber(job[4]) then
    make_dead(id, ARGV[3])
    return 'dead'
end
redis.call('ZADD', key('delayed'), now() + tonumber(ARGV[4]), id)
redis.call('HSET', job_key(id), 'state', 'delayed', 'error', ARGV[3])
count('retried')
return 'delayed'
