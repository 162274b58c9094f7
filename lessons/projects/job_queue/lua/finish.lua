-- ARGV: id, token, keep_s. Returns 1, or 0 if another worker has claimed the job since.
local id = ARGV[1]
local job = redis.call('HMGET', job_key(id), 'token', 'state', 'type')
if job[1] ~= ARGV[2] then
    return 0
end
if job[2] == 'done' then
    return 1  -- the worker asks again, because the first answer was lost
end
-- If the lease has ended and nobody has claimed the job since, the work is done all the same.
redis.call('ZREM', key('leased'), id)
redis.call('ZREM', key('delayed'), id)
redis.call('ZREM', key('dead'), id)
redis.call('ZREM', key('ready:' .. job[3]), id)
redis.call('HSET', job_key(id), 'state', 'done', 'finished_at', now())
redis.call('EXPIRE', job_key(id), ARGV[3])
count_in_second('done')
return 1
