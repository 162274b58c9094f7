#!/bin/sh
# usage: healthcheck.sh SERVICE
# Exits 0 if this server of the pair, primary or replica, answers a query over TCP with the password. A replica also
# answers while its primary is down. Otherwise prints what is missing, for `docker inspect`.

# An orphaned process of this check becomes a child of the server. The server treats any exit status except 0 and 1 as
# the crash of a session, and restarts. Therefore the process that the engine kills on a busy machine is `timeout`. The
# process below it survives the signal, waits for psql, and exits with 0 or 1.
[ -n "$CHECK_IS_BOUNDED" ] || CHECK_IS_BOUNDED=1 exec timeout 8 sh "$0" "$@"
trap : TERM
state=/run/citus-cluster.state
roles=/var/lib/citus-cluster
if [ -s $state ]; then
    # The first line is a word, the second a sentence. "fenced" means that the user must decide.
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
       -- A role or database may have its own value, which PostgreSQL stores as it was written: OFF, false, 0.
       AND NOT EXISTS (
           SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
           WHERE lower(setting) ~ '^synchronous_commit='
             AND lower(setting) !~ '=(on|remote_write|remote_apply)$');
SQL
) || exit 1
# A promotion after a crash reads this file: it records whether the commits of all roles in all databases waited for the
# standby when this check last ran.
if [ "$answer" = 'f|t' ]; then touch "$roles/synchronous-$1"; else rm -f "$roles/synchronous-$1"; fi
[ "${answer%|*}" = t ] && exit 0
primary=$(cat $roles/primary)
[ "$primary" = "$1" ] && exit 0
echo "$1 takes writes, but $primary was chosen as the primary: stop one of them" \
    "(citus-cluster pg14 promote, or rebuild-replica)"
exit 1
