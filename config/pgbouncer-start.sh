#!/bin/sh
# usage: sh start.sh COORDINATOR
# Writes PgBouncer's own password and a certificate for clients that request encryption, then replaces itself with
# PgBouncer. These files must not be in a folder of the host: they are in memory, and every start creates them again.
#
# The script also resolves the service COORDINATOR once a second, and makes PgBouncer reload its settings when the
# address or a file in /etc/citus-cluster has changed. PgBouncer cannot do this itself: its resolver (c-ares) caches
# answers of Docker's DNS server for 10 minutes and ignores dns_max_ttl. By then, another node may have the address of a
# recreated container.
set -eu
umask 077

settings=/etc/citus-cluster
coordinator=$1

fail() {
	echo "start.sh: $1" >&2
	exit 1
}

# Print the section [databases]. If the name does not resolve, PgBouncer must not connect anywhere: the last address may
# belong to another node by now.
databases() {
	address=$(RES_OPTIONS='timeout:1 attempts:1' getent hosts "$coordinator" | { read -r first rest && echo "$first"; }) || address=
	sed "s/=ADDRESS /=${address:-127.0.0.1} /; s/ port=5432 / port=$([ "$address" ] && echo 5432 || echo 1) /" "$settings/databases.ini"
}

# Print everything that PgBouncer reloads on SIGHUP.
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

# Each client and each server connection needs a file descriptor. Engines set a low soft limit and a higher hard limit.
ulimit -Sn "$(ulimit -Hn)" || true

at_start=$(reread) || fail "the settings in $settings cannot be read"
databases >/tmp/databases.ini
watch "$at_start" &

exec pgbouncer "$settings/pgbouncer.ini"
