-- ARGV: id, token, visibility_s. Returns 1, or 0 if the lease has ended.
local job = redis.call('HMGET', job_key(ARGV[1]), 'token', 'state')
if job[1] ~= ARGV[2] or job[2] ~= 'leased' then
    return 0
end
redis.call('ZADD', key('leased'), now() + tonumber(ARGV[3]), ARGV[1])
return 1
