#!/bin/sh
# usage: sh start.sh COORDINATOR
# Writes what PgBouncer reads and no folder of the host may hold, and becomes PgBouncer: its own password, and a
# certificate for clients that ask for encryption. All of it lies in memory and is new at each start.
#
# It also finds the address of the service COORDINATOR, once a second, and has PgBouncer read its settings again when
# that changes, or when a file in /etc/citus-cluster does. PgBouncer cannot do so by itself: its resolver (c-ares) keeps
# an answer of Docker's for 10 minutes, whatever dns_max_ttl says, and the address of a container that was made anew may
# be another node's by then.
set -eu
umask 077

settings=/etc/citus-cluster
coordinator=$1

fail() {
	echo "start.sh: $1" >&2
	exit 1
}

# Print [databases]. Without an address PgBouncer must connect to nothing: the last one may belong to another node now.
databases() {
	address=$(RES_OPTIONS='timeout:1 attempts:1' getent hosts "$coordinator" | { read -r first rest && echo "$first"; }) || address=
	sed "s/=ADDRESS /=${address:-127.0.0.1} /; s/ port=5432 / port=$([ "$address" ] && echo 5432 || echo 1) /" "$settings/databases.ini"
}

# Print all that PgBouncer reads again on SIGHUP.
reread() {
	databases && cat "$settings/pgbouncer.ini" "$settings/hba.conf"
}

watch() {
	known=$1
	while sleep 1; do
		found=$(reread) || continue
		[ "$found" != "$known" ] || continue
		known=$found
		databases >/tmp/databases.ini.new && mv /tmp/databases.ini.new /tmp/databases.ini && kill -HUP $$
	done
}

password=$(tr -d '\r\n' </run/secrets/pgbouncer_password) || fail "the secret pgbouncer_password cannot be read"
[ -n "$password" ] || fail "the secret pgbouncer_password is empty"
printf '"pgbouncer" "%s"\n' "$(printf %s "$password" | sed 's/"/""/g')" >/tmp/users.txt
unset password

command -v openssl >/dev/null ||
	fail "the image has no openssl, which makes the certificate: use another image (images.pgbouncer)"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=pgbouncer \
	-keyout /tmp/server.key -out /tmp/server.crt 2>/tmp/openssl.log || fail "no certificate: $(tail -n 1 /tmp/openssl.log)"

# One file descriptor for each client and each server connection; engines give few at first and allow more.
ulimit -Sn "$(ulimit -Hn)" || true

at_start=$(reread) || fail "the settings in $settings cannot be read"
databases >/tmp/databases.ini
watch "$at_start" &

exec pgbouncer "$settings/pgbouncer.ini"
