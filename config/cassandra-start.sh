# usage: bash start.sh SERVICE
# Starts the node of the Compose service SERVICE as the user of the image, and replaces itself with Cassandra. At the
# first start of a node, the first node replaces the default superuser, and the others join the ring one after another.
# Then the script writes a marker file into the volume. Without the marker, the script repeats these steps; each of them
# can be repeated.
set -euo pipefail

service=$1
settings=/etc/citus-cluster
data=/var/lib/cassandra
mark=$data/.first-start-done
state=/tmp/cassandra-state
user='admin'

# say TEXT: write the text for the health check, and log it if it has changed.
say() {
    [ "$(cat "$state" 2>/dev/null)" = "$1" ] || printf 'start.sh: %s\n' "$1"
    printf '%s\n' "$1" >"$state"
}

fail() {
    say "$1" >&2
    exit 1
}

# cql_answers HOST
cql_answers() {
    bash "$settings/healthcheck.sh" "$1" >/dev/null
}

# cql CREDENTIALS HOST STATEMENT: log in with that credentials file, run the statement at consistency ONE, and print the
# result. The statement is sent through a pipe, because it may contain a password and lists of processes show arguments.
# If the login or the statement fails, the function fails too, and prints the reason without the password.
cql() {
    local said status=0
    said=$(printf '%s;\n' "$3" | timeout 60 cqlsh --no-color --connect-timeout=20 --request-timeout=20 \
        --credentials="$HOME/.cassandra/$1" "$2" 2>&1) || status=$?
    said=${said//"$password"/***}
    printf '%s\n' "${said//"$literal"/***}"
    return "$status"
}

# put_credentials NAME USER PASSWORD: write a credentials file for cqlsh.
put_credentials() (
    umask 077
    mkdir -p "$HOME/.cassandra"
    # cqlsh before 4.1 reads the second section, and later versions read parts of it.
    for section in PlainTextAuthProvider plain_text_auth; do
        printf '[%s]\nusername = %s\npassword = %s\n' "$section" "$2" "$3"
    done >"$HOME/.cassandra/$1"
)

# configure SEEDS ADDRESS: write Cassandra's settings, with CQL on ADDRESS.
configure() {
    local consistency=LOCAL_QUORUM
    # In a ring of two nodes, one must be enough to log in. Roles are written on both nodes, so both are up to date.
    [ ${#ring[@]} -gt 2 ] || consistency=LOCAL_ONE
    {
        cat "$settings/cassandra.yaml"
        printf '\n# -- Of this node -----------------------------------------------------------------\n'
        printf 'storage_port: %d\nauth_read_consistency_level: %s\n' "$((6999 + number))" "$consistency"
    } | put "$CASSANDRA_CONF/cassandra.yaml"
    printf 'dc=dc1\nrack=%s\n' "${racks[number - 1]}" | put "$CASSANDRA_CONF/cassandra-rackdc.properties"
    export CASSANDRA_SEEDS=$1 CASSANDRA_RPC_ADDRESS=$2
}

# put FILE: replace the file with the standard input. The file may be read-only in the image.
put() {
    rm -f "$1"
    cat >"$1"
}

# seeds NUMBER...: print the addresses of these nodes. Each node has its own port, because Docker may assign the address
# of one node to another: Cassandra identifies nodes by address and port, and refuses a node at the address of another.
seeds() {
    local list='' each
    for each; do list+=,${ring[each - 1]}:$((6999 + each)); done
    printf '%s' "${list#,}"
}

# replace_default_superuser: runs while only this container can reach CQL.
replace_default_superuser() {
    # Fails if an earlier attempt that was killed has already disabled the default superuser.
    cql default_superuser 127.0.0.1 "CREATE ROLE IF NOT EXISTS $user WITH PASSWORD = '$literal' \
AND SUPERUSER = true AND LOGIN = true" || true
    # The role is altered, not dropped: Cassandra creates it again if it finds no role.
    cql credentials 127.0.0.1 "ALTER ROLE IF EXISTS cassandra \
WITH PASSWORD = '$(od -An -N24 -v -tx1 /dev/urandom | tr -d ' \n')' AND SUPERUSER = false AND LOGIN = false"
}

# run OPTION...: start Cassandra in the background with these Java options; $jvm is its process.
run() {
    JVM_EXTRA_OPTS="$JVM_EXTRA_OPTS $*" docker-entrypoint.sh cassandra -f &
    jvm=$!
    trap 'kill -TERM "$jvm"; wait "$jvm"; exit 143' TERM INT
}

runs() {
    kill -0 "$jvm" 2>/dev/null
}

first_start_of_first_node() {
    local reason deadline
    say "starting, to replace the default superuser; CQL is closed to the outside until then"
    configure "$(seeds 1)" 127.0.0.1
    # No waits are necessary: there is no other node in the ring, and no client can connect.
    run -Dcassandra.ring_delay_ms=1000 -Dcassandra.skip_wait_for_gossip_to_settle=0 \
        -Dcassandra.superuser_setup_delay_ms=0 -Dcassandra.shutdown_announce_in_ms=0
    until cql_answers 127.0.0.1; do
        runs || fail "Cassandra ended while it started; its last lines above say why"
        sleep 0.5
    done
    say "replacing the default superuser"
    put_credentials default_superuser cassandra cassandra
    deadline=$((SECONDS + 120))
    until reason=$(replace_default_superuser 2>&1); do
        runs || fail "Cassandra ended while the default superuser was replaced; its last lines above say why"
        if [ $SECONDS -gt $deadline ]; then
            kill -TERM "$jvm"
            wait "$jvm" || true
            fail "the default superuser was not replaced: $reason. Neither $user with the password in \
generated/secrets/cassandra_password nor the default superuser may log in: was the volume made with another password?"
        fi
        sleep 0.5
    done
    say "the default superuser was replaced; starting again"
    kill -TERM "$jvm"
    wait "$jvm" || [ $? -eq 143 ] || fail "Cassandra did not stop cleanly; it is tried again"
    trap - TERM INT
    finish_first_start
}

# running_elsewhere: print a node of the ring that runs without this one, the first node. This happens if the volume of
# this node is lost. A second ring would then hide the data of the first. In a new ring, the others wait for this node.
running_elsewhere() {
    local each
    [ ${#ring[@]} -gt 1 ] || return
    for _ in {1..15}; do
        for each in $(seq 2 ${#ring[@]}); do
            if (exec 3<>"/dev/tcp/${ring[each - 1]}/$((6999 + each))") 2>/dev/null; then
                printf '%s' "${ring[each - 1]}"
                return
            fi
        done
        sleep 1
    done
    return 1
}

# join NODE NUMBER...: join the ring of that node; the numbers are those of the nodes in the ring.
join() {
    local member=$1 waited
    shift
    while :; do
        until cql_answers "$member"; do
            say "waiting until $member answers CQL: nodes join the ring one after the other"
            sleep 1
        done
        prepare_ring "$member" || continue
        say "joining the ring, which takes a minute, and as long as it takes to copy this node's part of the data"
        configure "$(seeds "$@")" 0.0.0.0 # a node that is its own seed does not join
        # Copy again what an earlier attempt that was killed has copied.
        run -Dcassandra.reset_bootstrap_progress=true
        waited=0
        while runs && ! cql_answers "$HOSTNAME"; do
            sleep 1
            waited=$((waited + 1))
            # If joining fails, Cassandra keeps running, but never answers.
            if [ $((waited % 60)) -eq 0 ] && nodetool netstats 2>/dev/null | grep -q '^Mode: JOINING_FAILED'; then
                kill -TERM "$jvm"
            fi
        done
        ! runs || break
        # After a failed attempt, the ring refuses the node for half a minute.
        say "joining the ring failed, as the lines above say; trying again in 10 s"
        sleep 10
    done
    finish_first_start
    say "in the ring"
    wait "$jvm"
    exit
}

# prepare_ring NODE: check and prepare the ring through one of its nodes, before this node joins. Returns 1 if this node
# must wait.
prepare_ring() {
    local wanted=$((number < 3 ? number : 3)) found
    if [ ! -e "$data/data" ]; then
        found=$(ask "$1" "SELECT CAST(peer_port AS text) FROM system.peers_v2") || return
        if [[ $found = *" $((6999 + number))"* ]]; then
            say "the volume of $service is empty, but the ring knows $service: remove the lost node from the ring first \
(docker compose exec $1 nodetool removenode, with its Host ID, which nodetool status shows); then this one joins"
            sleep 2
            return 1
        fi
    fi
    # Roles should be on three nodes. Their replication is changed before this node joins, so that joining copies the
    # roles, and no login ever reaches a node without them.
    found=$(ask "$1" "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = 'system_auth'") || return
    [[ $found =~ (dc1|replication_factor)[^0-9]+([0-9]+) ]] && [ "${BASH_REMATCH[2]}" -lt "$wanted" ] || return 0
    ask "$1" "ALTER KEYSPACE system_auth WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': $wanted}"
}

# ask NODE STATEMENT: run the statement on that node as the superuser, and print the result.
ask() {
    local found
    if found=$(cql credentials "$1" "$2"); then
        printf '%s' "$found"
    else
        say "$1 refused what must be done before this node joins: ${found:-no answer}" >&2
        sleep 2
        return 1
    fi
}

finish_first_start() {
    : >"$mark"
    sync "$mark" "$data"
}

ring=() racks=() number=0
while read -r name rack; do
    ring+=("$name") racks+=("$rack")
    [ "$name" != "$service" ] || number=${#ring[@]}
done <"$settings/ring.txt"
[ "$number" -gt 0 ] || fail "$service is not in the ring of $settings/ring.txt: run setup_citus_cluster.py again"
[ -w "$data" ] || fail "$data is not writable for user $(id -u): give it back, with docker run --rm --user root \
--volumes-from $HOSTNAME --entrypoint chown cassandra:5 -R cassandra: $data"
password=$(tr -d '\r\n' </run/secrets/cassandra_password) || fail "the secret cassandra_password cannot be read"
[ -n "$password" ] || fail "the secret cassandra_password is empty"
literal=${password//\'/\'\'} # in a string constant of CQL

# Users who can run commands in this container can then use cqlsh without a password, too.
put_credentials credentials "$user" "$password"

# Limits memory outside the heap, which the JVM does not limit itself, so that the container never reaches its limit.
JVM_EXTRA_OPTS="${JVM_EXTRA_OPTS-} -XX:MaxDirectMemorySize=256m -XX:+ExitOnOutOfMemoryError"
export JVM_EXTRA_OPTS

if [ ! -e "$mark" ]; then
    command -v cqlsh >/dev/null || fail "the image has no cqlsh, which the first start needs: use an image that has it, \
such as cassandra:5"
    # cqlsh strips spaces at the ends of values in a credentials file, and treats /* as a comment even in a string.
    [[ ! $password =~ ^[[:space:]]|[[:space:]]$|/\*|\*/ ]] || fail "the password in \
generated/secrets/cassandra_password begins or ends with a space, or holds /* or */, which cqlsh misreads: choose another \
one, then run citus-cluster up"
fi
if [ -e "$mark" ]; then
    : # done
elif [ "$number" -gt 1 ]; then
    join "${ring[number - 2]}" $(seq $((number - 1)))
else
    ! other=$(running_elsewhere) || join "$other" $(seq 2 ${#ring[@]})
    first_start_of_first_node
fi
say "starting"
# Every node is its own seed from now on, so that each can start while the others are down.
configure "$(seeds $(seq ${#ring[@]}))" 0.0.0.0
# A single node does not need to wait for gossip.
[ ${#ring[@]} -gt 1 ] || JVM_EXTRA_OPTS+=" -Dcassandra.skip_wait_for_gossip_to_settle=0"
exec docker-entrypoint.sh cassandra -f
