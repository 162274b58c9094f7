#!/bin/sh
# usage: healthcheck.sh SERVICE
# Exit 0 once this server of the pair answers a query over TCP with the password, be it the primary or
# the replica; a replica serves reads also while its primary is away. What is missing is printed, for
# `docker inspect`.
if [ -s /run/citus-cluster.state ]; then
    # Line 1 is a word for programs, line 2 a sentence.
    copied=$(du -sm "$PGDATA.partial" 2>/dev/null | cut -f 1)
    case $(sed -n 1p /run/citus-cluster.state) in
    copying) echo "$1 $(sed -n 2p /run/citus-cluster.state) (${copied:-0} MB so far)" ;;
    *) echo "$1 $(sed -n 2p /run/citus-cluster.state)" ;;
    esac
    exit 1
fi
PGPASSWORD=$(cat /run/secrets/pg14_password) || exit 1
export PGPASSWORD PGCONNECT_TIMEOUT=4 PGOPTIONS='-c statement_timeout=4s'
standby=$(psql -X -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -Atqc 'SELECT pg_is_in_recovery()') || exit 1
[ "$standby" = t ] && exit 0
primary=$(cat /var/lib/citus-cluster/primary)
[ "$primary" = "$1" ] && exit 0
echo "$1 takes writes, but $primary was chosen as the primary: stop one of them" \
    "(citus-cluster pg14 promote, or rebuild-replica)"
exit 1
