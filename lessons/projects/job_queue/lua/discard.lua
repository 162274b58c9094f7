-- ARGV: id. Deletes a dead letter. Returns 1, or 0 if it is none.
if redis.call('ZREM', key('dead'), ARGV[1]) == 0 then
    return 0
end
redis.call('DEL', job_key(ARGV[1]))
count('discarded')
return 1
