-- In front of every script. KEYS[1] is the prefix of all keys. Redis runs a script as a whole: nothing comes between.
local prefix = KEYS[1]
local rank_of = {high = 0, normal = 1, low = 2}

local function key(name)
    return prefix .. name
end

local function job_key(id)
    return prefix .. 'job:' .. id
end

-- The server's clock counts, not those of the workers.
local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end

local function count(what)
    redis.call('HINCRBY', key('counts'), what, 1)
end

-- done and failed also count by the second, for the rates.
local function count_in_second(what)
    count(what)
    local second = key('rate:' .. what .. ':' .. redis.call('TIME')[1])
    redis.call('INCR', second)
    redis.call('EXPIRE', second, 660)
end

-- Ready jobs of a type are ordered by priority, then by arrival. 2^48 jobs of a priority fit in front of the next.
local function make_ready(id)
    local job = redis.call('HMGET', job_key(id), 'type', 'priority')
    if not job[1] then
        return  -- somebody has deleted the job
    end
    local place = rank_of[job[2]] * 2^48 + redis.call('INCR', key('sequence'))
    redis.call('ZADD', key('ready:' .. job[1]), place, id)
    redis.call('HSET', job_key(id), 'state', 'ready')
    -- Idle workers wait at this list. It is a bell and holds no jobs; ten rings wake ten workers.
    local bell = key('bell:' .. job[1])
    if redis.call('LLEN', bell) < 10 then
        redis.call('RPUSH', bell, '')
    end
end

local function make_dead(id, reason)
    redis.call('ZADD', key('dead'), now(), id)
    redis.call('HSET', job_key(id), 'state', 'dead', 'error', reason)
    count('dead')
end
