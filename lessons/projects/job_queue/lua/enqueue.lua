-- ARGV: id, type, priority, payload, max_attempts, delay_s. Returns 1, or 0 if a job with this id exists.
local id, delay_s = ARGV[1], tonumber(ARGV[6])
if redis.call('EXISTS', job_key(id)) == 1 then
    return 0
end
redis.call('HSET', job_key(id), 'type', ARGV[2], 'priority', ARGV[3], 'payload', ARGV[4], 'max_attempts', ARGV[5],
    'attempts', 0, 'enqueued_at', now())
redis.call('SADD', key('types'), ARGV[2])
count('enqueued')
if delay_s > 0 then
    redis.call('ZADD', key('delayed'), now() + delay_s, id)
    redis.call('HSET', job_key(id), 'state', 'delayed')
else
    make_ready(id)
end
return 1
