#!/bin/sh
# usage: healthcheck.sh USER DATABASE
# Exits 0 if this node provides what the other nodes need: TCP (while the image runs its init scripts, the server only
# listens on the socket), the password, the extension, and the credentials with which this node connects to other nodes.
# Otherwise prints what is missing, for `docker inspect`.

# An orphaned process of this check becomes a child of the server. The server treats any exit status except 0 and 1 as
# the crash of a session, and restarts. Therefore the process that the engine kills on a busy machine is `timeout`. The
# process below it survives the signal, waits for psql, and exits with 0 or 1.
[ -n "$CHECK_IS_BOUNDED" ] || CHECK_IS_BOUNDED=1 exec timeout 8 sh "$0" "$@"
trap : TERM
PGPASSWORD=$(tr -d '\r\n' </run/secrets/superuser_password) || exit 1
export PGPASSWORD PGCONNECT_TIMEOUT=4
missing=$(psql -X -h 127.0.0.1 -U "$1" -d "$2" -v ON_ERROR_STOP=1 -Atq <<'SQL'
SET statement_timeout = '4s';
SET search_path = pg_catalog;
-- A separate query: without the extension, the next one fails and does not show the cause.
SELECT NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS without_citus \gset
\if :without_citus
    \echo the extension citus is missing in this database
    \quit
\endif
SELECT 'the credentials for other nodes are missing: the init script did not run'
  WHERE NOT EXISTS (SELECT FROM pg_dist_authinfo WHERE nodeid = 0 AND rolename = current_user);
-- Like every function of Citus, this one fails if the versions of the library and the extension differ.
DO $$ BEGIN PERFORM FROM citus_get_active_worker_nodes(); END $$;
SQL
) || exit 1
[ -z "$missing" ] && exit 0
echo "$missing"
exit 1
