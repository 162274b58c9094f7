#!/bin/sh
# usage: healthcheck.sh SERVICE
# Exits 0 once this server of the pair, primary or replica, answers a query over TCP with the password; a
# replica also serves reads while its primary is down. Otherwise prints what is missing, for
# `docker inspect`.

# An orphan of this check becomes a child of the server, which treats any exit status except 0 and 1 as the crash of a
# session, and restarts. So the process that the engine ends on a busy machine is the timeout itself; the process below
# it survives the signal, waits for psql, and exits with 0 or 1.
[ -n "$CHECK_IS_BOUNDED" ] || CHECK_IS_BOUNDED=1 exec timeout 8 sh "$0" "$@"
trap : TERM
state=/run/citus-cluster.state
roles=/var/lib/citus-cluster
if [ -s $state ]; then
    # Its first line is a word, its second a sentence. "fenced" means that a person must decide.
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
# For a promotion after a crash: records whether the commits of all roles, in all databases, waited for the standby when
# this check last ran.
if [ "$answer" = 'f|t' ]; then touch "$roles/synchronous-$1"; else rm -f "$roles/synchronous-$1"; fi
[ "${answer%|*}" = t ] && exit 0
primary=$(cat $roles/primary)
[ "$primary" = "$1" ] && exit 0
echo "$1 takes writes, but $primary was chosen as the primary: stop one of them" \
    "(citus-cluster pg14 promote, or rebuild-replica)"
exit 1
