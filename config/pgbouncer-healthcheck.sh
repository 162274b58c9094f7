#!/bin/sh
# Exits 0 if PgBouncer answers on its admin console. Otherwise prints the problem, for `docker inspect`. PgBouncer stays
# healthy while the coordinator restarts; `citus-cluster status` shows whether PgBouncer reaches the coordinator.

# The engine kills only the process that it started. That process is `timeout`, which stops psql too. This script
# survives the signal and prints the problem.
[ -n "$CHECK_IS_BOUNDED" ] || CHECK_IS_BOUNDED=1 exec timeout 4 sh "$0"
trap : TERM
PGPASSWORD=$(tr -d '\r\n' </run/secrets/pgbouncer_password) || exit 1
export PGPASSWORD PGCONNECT_TIMEOUT=3
# Debian's psql is a wrapper that chooses a version, which takes 20 times as long.
for psql in /usr/lib/postgresql/*/bin/psql psql; do command -v "$psql" >/dev/null && break; done
answer=$("$psql" -XAtq "host=127.0.0.1 port=6432 user=pgbouncer dbname=pgbouncer sslmode=disable" \
	-c "SHOW VERSION" 2>&1)
case $answer in
PgBouncer*) exit 0 ;;
*refused*) echo "PgBouncer does not listen yet" ;;
*"password authentication failed"*) echo "PgBouncer refuses the password of generated/secrets/pgbouncer_password" ;;
*"no more connections allowed"*) echo "PgBouncer accepts no more clients (max_client_conn)" ;;
*"timeout expired"* | '') echo "PgBouncer does not answer" ;;
*) echo "PgBouncer answers: $answer" ;;
esac
exit 1
