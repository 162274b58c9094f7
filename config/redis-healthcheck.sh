#!/bin/sh
# Exits 0 if Redis answers an authenticated PING with PONG, which it does not while it loads its data or if it cannot
# write them. Otherwise the script prints the problem, for `docker inspect`.
REDISCLI_AUTH=$(tr -d '\r\n' </run/secrets/redis_password) || exit 1
export REDISCLI_AUTH
answer=$(timeout 4 redis-cli -h 127.0.0.1 ping 2>&1)
status=$?
case $answer in
PONG) exit 0 ;;
*LOADING*) echo "Redis loads its data" ;;
*WRONGPASS* | *NOAUTH*) echo "Redis refuses the password of generated/secrets/redis_password" ;;
*MISCONF*) echo "Redis cannot write its data: $answer" ;;
*refused*) echo "Redis does not listen yet" ;;
'') echo "Redis does not answer (exit status $status of redis-cli; 124 is a time-out of 4 s)" ;;
*) echo "Redis answers: $answer" ;;
esac
exit 1
