# usage: bash healthcheck.sh
# Exit 0 once CQL answers on the address on which clients reach this container: while the default superuser still
# works, it answers on the container's loopback only. What it waits for is printed, for `docker inspect`.
# shellcheck source=config/cassandra-cql.sh
. /etc/citus-cluster/cql.sh
cql_patience=4 # the engine cuts the whole check off after 10 s, and then nobody hears why
cql_answers "$HOSTNAME" && exit 0
echo "CQL does not answer: $(cat /tmp/cassandra-state 2>/dev/null || echo starting)"
exit 1
