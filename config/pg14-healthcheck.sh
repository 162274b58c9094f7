#!/bin/sh
# usage: healthcheck.sh SERVICE
# Exit 0 once this server of the pair answers a query over TCP with the password, be it the primary or
# the replica; a replica serves reads also while its primary is away. What is missing is printed, for
# `docker inspect`.
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
# It must end before the engine's time-out: an orphan would become the server's child, and its failure would look
# like a crash to the server, which then restarts.
answer=$(timeout 8 psql -X -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -Atq <<'SQL'
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
