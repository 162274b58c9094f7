# usage: bash healthcheck.sh [HOST]
# Exit 0 once CQL answers on HOST, by default on the address on which clients reach this container: while the default
# superuser still works, it answers on the container's loopback only. What it waits for is printed, for `docker inspect`.

# cqlsh would tell too, but its start alone takes 0.4 s of a processor, every 5 s. The frame OPTIONS of CQL's protocol
# (version 4) needs no login, and its answer is SUPPORTED:
# https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec
answers() (
    exec 3<>"/dev/tcp/$1/9042" || exit 1
    printf '\4\0\0\0\5\0\0\0\0' >&3
    # 4 s, because the engine cuts the whole check off after 10 s, and then nobody hears why.
    [ "$(timeout 4 head -c 5 <&3 | od -An -tx1)" = ' 84 00 00 00 06' ]
) 2>/dev/null

answers "${1:-$HOSTNAME}" && exit 0
echo "CQL does not answer: $(cat /tmp/cassandra-state 2>/dev/null || echo starting)"
exit 1
