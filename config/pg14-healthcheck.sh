#!/bin/sh
# usage: healthcheck.sh SERVICE
# Exit 0 once this server of the pair answers a query over TCP with the password, be it the primary or
# the replica; a replica serves reads also while its primary is away. What is missing is printed, for
# `docker inspect`.

# An orphan of this check becomes a child of the server, which takes any exit status but 0 and 1 for the crash of a
# session, and restarts. So the process that the engine ends, when the machine is too busy, is the timeout itself; what is
# left below it outlives the signal, waits for psql, and ends with 0 or 1.
[ -n "$CHECK_IS_BOUNDED" ] || CHECK_IS_BOUNDED=1 exec timeout 8 sh "$0" "$@"
trap : TERM
state=/run/citus-cluster.state
roles=/var/lib/citus-cluster
if [ -s $state ]; then
    # Its first line is a word, its second a sentence. "fenced" means: nothing helps but a decision.
    said="$1 $(sed -n 2p $state)"
    case $(sed -n 1p $state) in
    fenced | lost | confused) echo "fenced: $said" ;;
    copying)
        copied=$(du -sm "$PGDATA.partial" 2>/dev/null | cut -f 1)
        echo "$said${copied:+ ($copied MB so far)}"
        ;;
    *) echo "$said" ;;
    esac
    exit 1
fi
PGPASSWORD=$(tr -d '\r\n' </run/secrets/pg14_password) || exit 1
export PGPASSWORD PGCONNECT_TIMEOUT=4 PGOPTIONS='-c statement_timeout=3s -c search_path=pg_catalog'
answer=$(psql -X -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -Atq <<'SQL'
SELECT pg_is_in_recovery(),
       current_setting('synchronous_standby_names') <> ''
       AND current_setting('synchronous_commit') NOT IN ('off', 'local')
       -- A role or database with a value of its own; it is kept as it was written: OFF, false, 0.
       AND NOT EXISTS (
           SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
           WHERE lower(setting) ~ '^synchronous_commit='
             AND lower(setting) !~ '=(on|remote_write|remote_apply)$');
SQL
) || exit 1
# For a promotion after a crash: were commits of all roles, in all databases, waiting for the standby when this server
# was last seen?
if [ "$answer" = 'f|t' ]; then touch "$roles/synchronous-$1"; else rm -f "$roles/synchronous-$1"; fi
[ "${answer%|*}" = t ] && exit 0
primary=$(cat $roles/primary)
[ "$primary" = "$1" ] && exit 0
echo "$1 takes writes, but $primary was chosen as the primary: stop one of them" \
    "(citus-cluster pg14 promote, or rebuild-replica)"
exit 1
