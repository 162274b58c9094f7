# Functions for bash: the little of CQL's native protocol (version 4) that is needed where no cqlsh is.
# https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec
# Every function opens a connection of its own in a subshell, so that a broken one ends with it.
# Passwords are arguments of functions, which are in no process list.

cql_port=9042
cql_patience=20 # seconds for one answer

# cql_answers HOST: exit 0 if CQL answers there. The frame OPTIONS needs no credentials.
cql_answers() (
    exec 3<>"/dev/tcp/$1/$cql_port" || exit 1
    cql_send 05 0
    [ "$(cql_receive)" = 06 ]
) 2>/dev/null

# cql HOST USER PASSWORD [STATEMENT...]: log in, run the statements at consistency ONE, and print what the
# last one gave, the printable characters of it. Exit 1 without an answer, 2 where the login was refused,
# 3 where a statement failed; the reason is printed, without the password.
cql() (
    local LC_ALL=C host=$1 user=$2 password=$3 answer length statement # C, because lengths count bytes
    shift 3
    { exec 3<>"/dev/tcp/$host/$cql_port"; } 2>/dev/null || exit 1
    trap 'exit 1' PIPE
    cql_send 01 22 '\0\1\0\13CQL_VERSION\0\0053.0.0'
    answer=$(cql_receive) || exit 1
    case $answer in
        02*) ;; # READY: this server asks for no login
        03*)
            length=$((${#user} + ${#password} + 2))
            cql_send 0f $((length + 4)) "$(cql_int $length)\0%s\0%s" "$user" "$password"
            answer=$(cql_receive) || exit 1
            case $answer in
                10*) ;;
                00*) cql_error "$answer" "$password" && exit 2 ;;
                *) exit 1 ;;
            esac
            ;;
        00*) cql_error "$answer" "$password" && exit 1 ;;
        *) exit 1 ;;
    esac
    for statement; do
        cql_send 07 $((${#statement} + 7)) "$(cql_int ${#statement})%s\0\1\0" "$statement"
        answer=$(cql_receive) || exit 1
        case $answer in
            08*) ;;
            00*) cql_error "$answer" "$password" && exit 3 ;;
            *) exit 1 ;;
        esac
    done
    cql_text "$answer"
)

# cql_literal TEXT: as a string constant of CQL.
cql_literal() {
    printf "'%s'" "${1//\'/\'\'}"
}

# cql_int NUMBER: four bytes, as escapes for printf.
cql_int() {
    printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 >> 24 & 255)) $(($1 >> 16 & 255)) $(($1 >> 8 & 255)) $(($1 & 255))
}

# cql_send OPCODE LENGTH [FORMAT ARGUMENT...]: one frame on descriptor 3; the body is what printf makes of the rest.
cql_send() {
    local opcode=$1 length=$2 format=${3-}
    shift 2
    [ $# -eq 0 ] || shift
    # shellcheck disable=SC2059 # a format of ours
    printf "\4\0\0\0\x$opcode$(cql_int "$length")$format" "$@" >&3
}

# cql_receive: one frame of descriptor 3 as hexadecimal digits: opcode, then body. Exit 1 if none came in time.
cql_receive() {
    local header length body
    header=$(timeout "$cql_patience" head -c 9 <&3 | od -An -v -tx1 | tr -d ' \n')
    [ ${#header} -eq 18 ] || return 1
    length=$((16#${header:10}))
    body=$(timeout "$cql_patience" head -c "$length" <&3 | od -An -v -tx1 | tr -d ' \n')
    [ ${#body} -eq $((length * 2)) ] || return 1
    # What a frame of this size tells fits; a health check need not carry all that SUPPORTED lists.
    case ${header:8:2} in
        06) printf 06 ;;
        *) printf '%s%s' "${header:8:2}" "$body" ;;
    esac
}

# cql_error FRAME PASSWORD: the message of an ERROR frame.
cql_error() {
    local text
    text=$(cql_text "00${1:14}")
    [ -z "$2" ] || text=${text//"$2"/***}
    printf '%s\n' "$text"
}

# cql_text FRAME: its printable characters; the others become spaces.
cql_text() {
    local bytes
    bytes=$(printf '%s' "${1:2}" | sed 's/../\\x&/g')
    # shellcheck disable=SC2059 # nothing but escapes
    printf "$bytes" | tr -c '[:print:]' ' '
}
