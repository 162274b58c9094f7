#!/bin/sh
# Exits 0 once PgBouncer answers on its admin console. PgBouncer is healthy while the coordinator restarts;
# `citus-cluster status` shows whether it reaches the coordinator. Otherwise prints the problem, for `docker inspect`.

# The engine ends only the process that it started. So that process is the timeout itself, which ends psql too, and this
# script survives the signal and prints the problem.
[ -n "$CHECK_IS_BOUNDED" ] || CHECK_IS_BOUNDED=1 exec timeout 4 sh "$0"
trap : TERM
PGPASSWORD=$(tr -d '\r\n' </run/secrets/pgbouncer_password) || exit 1
export PGPASSWORD PGCONNECT_TIMEOUT=3
# Debian's psql is a wrapper that takes 20 times as long to choose a version.
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
