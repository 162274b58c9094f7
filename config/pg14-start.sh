#!/bin/bash
# usage: bash start.sh SERVICE PEER [SERVER OPTION ...]
# Starts one server of the PostgreSQL 14 pair: determines its role, creates its data if there are none, and replaces
# itself with the server. The script runs as root; the server does not, as in the image.
#
# The data determine the role of a server, not its name. The file "primary", in a volume that both servers mount, names
# the server that can accept writes; `citus-cluster pg14 promote` changes it. Data without standby.signal start only on
# that server: an old primary that returns is fenced.
#
#   primary   own data    action
#   -         none        pg14-primary creates new data; pg14-replica waits
#   -         primary     writes its own name into the file
#   -         standby     writes the peer's name into the file, because only the peer can be its primary
#   itself    primary     starts
#   itself    standby     starts as a standby: its promotion was interrupted, and can be run again
#   itself    none        refuses: with new data here, the old data on the standby would be lost
#   the peer  none        copies the peer's data, starts as its standby
#   the peer  standby     starts as its standby
#   the peer  primary     fenced
#
# The script creates data in *.partial and renames the folder once the data are complete. A server never starts on
# incomplete data, and the next start removes what a killed start left.
set -euo pipefail

service=$1
peer=$2
shift 2

# Precedes Debian's wrappers of the same names, which first choose a version.
PATH=/usr/lib/postgresql/${PG_MAJOR:-14}/bin:$PATH
initial_primary=pg14-primary
data=${PGDATA:?}
volume=$(dirname "$data")
partial=$data.partial
roles=/var/lib/citus-cluster
fenced=$volume/fenced # exists if the data were those of an old primary at the last check
rebuild=$roles/rebuild-$service # requests a new copy of the primary's data; may contain a new name for the old data
state_file=/run/citus-cluster.state # for the health check: a word, then a sentence; absent once the server starts
output=/run/citus-cluster.output
passfile=/var/lib/postgresql/.replicator.pgpass
slot=${service//-/_}
conninfo="host=$peer port=5432 user=replicator passfile=$passfile connect_timeout=5"
# With the standby's own name, a copy in progress would count as a synchronous standby.
copier="application_name=$service-copy"
options=(-c config_file=/etc/citus-cluster/postgresql.conf -c hba_file=/etc/citus-cluster/pg_hba.conf)

say() { echo "citus-cluster: $service $*"; }

# Write the state for the health check, and log each new state once.
report() {
    local word=$1 sentence=$2
    [[ $sentence == "${reported:-}" ]] || say "$sentence"
    reported=$sentence
    printf '%s\n' "$word" "$sentence" >"$state_file.new"
    mv "$state_file.new" "$state_file"
}

# Run a command in the background, so that a signal ends this script at once: bash runs no trap during a foreground
# command.
attend() {
    "$@" &
    wait $!
}

# Write the file "primary" if it does not exist. If both servers try, the first one succeeds.
claim() {
    local own=$roles/primary.$service
    printf '%s\n' "$1" >"$own"
    sync "$own"
    if ln "$own" "$roles/primary" 2>/dev/null; then
        say "records $1 as the primary"
    fi
    rm "$own"
    sync "$roles"
}

# Print the state of this server: the columns "primary" and "own data" of the table above.
situation() {
    local primary=- content=none
    [[ ! -e $roles/primary ]] || primary=$(<"$roles/primary")
    [[ ! -e $data/PG_VERSION ]] || content=primary
    [[ ! -e $data/standby.signal ]] || content=standby
    case $primary in
    "$service") primary=itself ;;
    "$peer") primary=peer ;;
    esac
    if [[ $primary == peer && $content != none && -e $rebuild ]]; then content=discarded; fi
    echo "$primary:$content"
}

# libpq reads passwords from a file whose fields are separated by colons.
write_passfile() {
    local password
    password=$(tr -d '\r\n' </run/secrets/replicator_password)
    password=${password//\\/\\\\}
    (umask 077 && printf '*:*:*:replicator:%s\n' "${password//:/\\:}" >"$passfile")
    chown postgres: "$passfile"
}

replication_command() {
    # `timeout` runs inside gosu: without the capability, root cannot signal a process of another user.
    attend gosu postgres timeout 90 psql -X -w -Atq -d "$conninfo $copier replication=true" -c "$1" >"$output" 2>&1
}

# Print why the last command failed. libpq may add a line that says where it found the password.
reason() { grep -m 1 -E 'FATAL|ERROR|error:' "$output" || tail -n 1 "$output"; }

primary_answers() {
    replication_command IDENTIFY_SYSTEM && return
    report waiting "waits for the primary $peer: $(reason)"
    return 1
}

# Move complete data to their final location. They survive a power failure from then on.
install_data() {
    sync "$partial" && mv -T "$partial" "$data" && rm -f "$fenced" && sync "$volume"
}

# The image's own entry point creates the data and becomes a server that listens only on the socket. This function
# creates the role on that server and stops it. Synchronous commits are off, because they would wait for a standby that
# cannot exist yet. Logging and pg_stat_statements are off, because a statement contains the password.
initialise() {
    report initialising "makes new data: there is no primary yet"
    local password
    password=$(tr -d '\r\n' </run/secrets/pg14_password)
    # A value instead of the file, because the image would keep a CR at the end of the file.
    POSTGRES_PASSWORD=$password POSTGRES_PASSWORD_FILE='' PGDATA=$partial docker-entrypoint.sh postgres "${options[@]}" -c listen_addresses= \
        -c synchronous_standby_names= -c shared_preload_libraries= -c log_statement=none -c log_min_duration_statement=-1 \
        -c log_min_duration_sample=-1 -c log_transaction_sample_rate=0 -c log_min_error_statement=panic &
    local server=$!
    # While it runs the init scripts, the server in postmaster.pid is another process.
    until [[ $(sed -n '1p;8s/ *$//p' "$partial/postmaster.pid" 2>/dev/null) == "$server"$'\n'ready ]]; do
        [[ -e /proc/$server ]] || return 1
        attend sleep 0.2
    done
    psql -X -w -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres <<'SQL' || return 1
\set password `tr -d '\r\n' </run/secrets/replicator_password`
CREATE ROLE replicator REPLICATION LOGIN PASSWORD :'password';
SQL
    # Not kill: without the capability, root cannot signal processes of another user.
    attend gosu postgres pg_ctl stop -D "$partial" -m fast -s || return 1
    wait "$server" || return 1
    # The peer may have reported in the meantime that it is the standby of data that were here.
    [[ ! -e $roles/primary ]] || return 0
    install_data
}

# pg_basebackup reports its progress each second; one line every ten seconds is enough.
thin_out() {
    local line next=0
    while IFS= read -r line; do
        if [[ $line == *' kB ('* ]]; then
            ((SECONDS >= next)) || continue
            next=$((SECONDS + 10))
        fi
        [[ $line != *error:* ]] || printf '%s\n' "$line" >"$output"
        [[ -z $line ]] || say "copies: ${line#"${line%%[! ]*}"}"
    done
}

# The slot makes the primary keep its WAL for this standby from here on. An old slot is dropped and created again,
# because it may be invalid.
copy() {
    report copying "copies the data of the primary $peer"
    install -d -o postgres -g postgres -m 700 "$partial"
    local make="CREATE_REPLICATION_SLOT $slot PHYSICAL RESERVE_WAL"
    if ! replication_command "$make" &&
        ! { replication_command "DROP_REPLICATION_SLOT $slot WAIT" && replication_command "$make"; }; then
        return 1
    fi
    : >"$output"
    { gosu postgres pg_basebackup -w -d "$conninfo $copier" -D "$partial" -X stream -S "$slot" -c fast -P 2>&1 |
        thin_out; } &
    wait $! &&
        gosu postgres touch "$partial/standby.signal" &&
        sync "$partial/standby.signal" &&
        install_data &&
        say "has copied the data of $peer"
}

# A standby refuses to start with lower limits than its primary had at the WAL position that the standby has reached.
# Limits can only be lowered after the standby has replayed the change on the primary. The control file contains them at
# fixed offsets in PostgreSQL 14 (src/include/catalog/pg_control.h, version 1300).
keep_limits() {
    local control=$data/global/pg_control names limits wanted i
    names=(max_connections max_worker_processes max_wal_senders max_prepared_transactions max_locks_per_transaction)
    [[ $(od -An -td4 -j8 -N4 "$control") -eq 1300 ]] || return 0
    read -r -a limits < <(od -An -td4 -w20 -j180 -N20 "$control")
    for i in "${!names[@]}"; do
        wanted=$(gosu postgres postgres -D "$data" "${options[@]}" -C "${names[i]}") || return 0
        if ((wanted < limits[i])); then
            say "keeps ${names[i]} = ${limits[i]}, as its primary had; ${wanted} after one more restart"
            options+=(-c "${names[i]}=${limits[i]}")
        fi
    done
}

# Another major version does not start on these data, and would create data on which the right version does not start.
refuse_other_major() {
    local version
    version=$(postgres -V)
    [[ $version =~ ' '14[.\ ] ]] && return
    report confused "has an image of another PostgreSQL ($version) than 14. Set the image back (--pg14-image postgres:14);\
 to move the data to another major: pg_dump here, pg_restore there, or pg_upgrade"
    while :; do attend sleep 60; done
}

serve() {
    [[ $1 == primary ]] || keep_limits
    say "starts as a $1"
    rm -f "$state_file" "$output"
    wait # the server would treat the failure of any remaining child as a crash
    exec gosu postgres postgres -D "$data" "${options[@]}" -c "primary_conninfo=$conninfo application_name=$service" \
        -c "primary_slot_name=$slot" "${@:2}"
}

refuse_lost() {
    report lost "was the primary and has no data now: it does not begin anew beside a replica that has them. To go on\
 with the replica's data: citus-cluster pg14 promote $peer. To begin with empty servers, remove the volumes of both,\
 and pg14-role"
}

refuse_unchosen() {
    report confused "has the data of an old primary, and who is the primary now is not written down any more: was the\
 volume pg14-role removed? It does not serve. If $peer has the newer data, start that first; otherwise choose this one:\
 citus-cluster pg14 promote $service"
}

refuse_fenced() {
    : >"$fenced"
    report fenced "has the data of an old primary, and $peer is the primary now: it does not serve. To make it a replica,\
 without what only it has: citus-cluster pg14 rebuild-replica. To make it the primary: citus-cluster pg14 promote $service"
}

trap 'exit 0' INT TERM # this also ends the container and every command that the script runs
report starting "starts"
install -d "$roles"

# Two containers that use one volume would corrupt the data: postmaster.pid does not protect them, because process IDs
# have no meaning in another container.
exec 9>>"$volume/lock"
until flock -n 9; do
    report locked "waits: another container uses its data"
    attend sleep 2
done

rm -rf "$volume"/*.partial
if [[ -d $data ]]; then find "$data" ! -user postgres -exec chown -h postgres: {} +; fi
write_passfile
refuse_other_major

while :; do
    case $(situation) in
    -:none)
        if [[ $service != "$initial_primary" ]]; then
            report waiting "waits until $peer has made its data"
        elif ! initialise; then
            say "could not create its data: see above" >&2
            exit 1
        else
            rm -rf "$partial"
            continue
        fi
        ;;
    -:primary)
        # If the file "primary" is lost, a server whose data were fenced must not become the primary.
        if [[ -e $fenced ]]; then refuse_unchosen; else claim "$service" && continue; fi
        ;;
    -:standby) claim "$peer" && continue ;;
    itself:primary)
        rm -f "$rebuild" "$fenced"
        serve primary "$@"
        ;;
    itself:standby) serve standby "$@" ;;
    itself:none) refuse_lost ;;
    peer:none)
        rm -f "$rebuild"
        if primary_answers; then
            copy && continue
            rm -rf "$partial"
            report retrying "could not copy the data of the primary $peer: $(reason). It tries again every 15 s"
            attend sleep 15
        fi
        ;;
    peer:standby) serve standby "$@" ;;
    peer:primary) refuse_fenced ;;
    peer:discarded)
        # Old data are removed only when the primary answers, so that there is something to copy.
        if primary_answers; then
            keep_as=$(<"$rebuild")
            if [[ $keep_as == pgdata.kept-* && ! -e $volume/$keep_as ]]; then
                say "keeps its old data as $keep_as, as rebuild-replica asked"
                mv -T "$data" "$volume/$keep_as"
                sync "$volume"
            else
                say "removes its old data, as rebuild-replica asked"
                mv -T "$data" "$volume/discarded.partial"
                sync "$volume"
                rm -rf "$volume/discarded.partial"
            fi
            continue
        fi
        ;;
    *)
        report confused "does not know who is the primary: $roles/primary names neither server of the pair. To choose one:\
 citus-cluster pg14 promote"
        ;;
    esac
    attend sleep 2
done
