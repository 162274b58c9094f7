-- ARGV: id. Makes a dead letter a job again, with all its attempts. Returns 1, or 0 if it is no dead letter.
if redis.call('ZREM', key('dead'), ARGV[1]) == 0 then
    return 0
end
redis.call('HSET', job_key(ARGV[1]), 'attempts', 0)
count('replayed')
make_ready(ARGV[1])
return 1
