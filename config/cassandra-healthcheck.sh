# usage: bash healthcheck.sh [HOST]
# Exits 0 if CQL answers on HOST, by default the address at which clients reach this container. While the default
# superuser still works, CQL answers only on the container's loopback address. Otherwise the script prints the reason,
# for `docker inspect`.

# The check does not use cqlsh, whose start would take 0.4 s of processor time every 5 s. The frame OPTIONS of the CQL
# protocol (version 4) needs no login; the answer to it is SUPPORTED:
# https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec
answers() (
    exec 3<>"/dev/tcp/$1/9042" || exit 1
    printf '\4\0\0\0\5\0\0\0\0' >&3
    # 4 s, because the engine kills the whole check after 10 s, and its output is lost.
    [ "$(timeout 4 head -c 5 <&3 | od -An -tx1)" = ' 84 00 00 00 06' ]
) 2>/dev/null

answers "${1:-$HOSTNAME}" && exit 0
echo "CQL does not answer: $(cat /tmp/cassandra-state 2>/dev/null || echo starting)"
exit 1
