-- ARGV: visibility_s, worker, type … Returns {id, the job's fields} or {seconds until there may be one}.
local visibility_s, worker = tonumber(ARGV[1]), ARGV[2]

-- No process watches the clock: whoever asks for a job first makes ready what is due.
for _, id in ipairs(redis.call('ZRANGE', key('delayed'), '-inf', now(), 'BYSCORE', 'LIMIT', 0, 100)) do
    redis.call('ZREM', key('delayed'), id)
    make_ready(id)
end
for _, id in ipairs(redis.call('ZRANGE', key('leased'), '-inf', now(), 'BYSCORE', 'LIMIT', 0, 100)) do
    redis.call('ZREM', key('leased'), id)
    local job = redis.call('HMGET', job_key(id), 'attempts', 'max_attempts', 'worker')
    if job[1] then
        count('timed_out')
        count_in_second('failed')
        if tonumber(job[1]) >= tonumber(job[2]) then
            make_dead(id, 'worker ' .. job[3] .. ' did not finish within the visibility time-out')
        else
            make_ready(id)
        end
    end
end

local best, best_type, best_place
for index = 3, #ARGV do
    local first = redis.call('ZRANGE', key('ready:' .. ARGV[index]), 0, 0, 'WITHSCORES')
    if first[1] and (not best or tonumber(first[2]) < best_place) then
        best, best_type, best_place = first[1], ARGV[index], tonumber(first[2])
    end
end
if best then
    redis.call('ZREM', key('ready:' .. best_type), best)
    if redis.call('EXISTS', job_key(best)) == 0 then
        return {'0'}  -- somebody has deleted the job; ask again
    end
    redis.call('ZADD', key('leased'), now() + visibility_s, best)
    redis.call('HINCRBY', job_key(best), 'attempts', 1)
    redis.call('HSET', job_key(best), 'state', 'leased', 'worker', worker, 'token', redis.call('INCR', key('tokens')))
    return {best, redis.call('HGETALL', job_key(best))}
end

local due = math.huge
for _, name in ipairs({'delayed', 'leased'}) do
    local first = redis.call('ZRANGE', key(name), 0, 0, 'WITHSCORES')
    if first[1] then
        due = math.min(due, tonumber(first[2]))
    end
end
return {tostring(due - now())}
