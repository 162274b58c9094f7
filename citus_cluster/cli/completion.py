"""The command ``completion``: a script for bash, zsh or fish, made from the parser itself.

The script knows every command, option and choice, so that a Tab starts no program. Names of workers, servers and
roles it reads in the directory where the Tab is pressed.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from shlex import quote
from typing import Annotated, Any

import typer

from citus_cluster.cli.options import VALUE_MAY_BE_LEFT_OUT
from citus_cluster.console import screen
from citus_cluster.model.component_name import ComponentName

PROGRAM = "citus-cluster"


class Shell(StrEnum):
    """Shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


# What lists names, in POSIX words that all three shells take; errors (no cluster here) are nobody's business.
_WORKERS = r"sed -n 's/^  \(citus-worker[0-9]*\):$/\1/p' docker-compose.yml 2>/dev/null"
_SERVICES = r"sed -n '/^services:/,/^[^ ]/s/^  \([a-z0-9-]*\):$/\1/p' docker-compose.yml 2>/dev/null"
_SERVERS = (
    r"sed -n '/^services:/,/^[^ ]/{s/^  \(citus-[a-z0-9]*\):$/\1/p;s/^  \(pg14-[a-z]*\):$/\1/p;}' "
    "docker-compose.yml 2>/dev/null"
)
_PG14 = r"sed -n '/^services:/,/^[^ ]/s/^  \(pg14-[a-z]*\):$/\1/p' docker-compose.yml 2>/dev/null"
_ROLES = r"command ls generated/secrets/roles 2>/dev/null | sed -n 's/^\([a-z_][a-z0-9_-]*\)_password$/\1/p'"
# By the first word of the command, and the parameter.
_NAMES = {
    ("add-worker", "host"): _WORKERS,
    ("nodes", "host"): _WORKERS,
    ("nodes", "name"): _WORKERS,
    ("nodes", "names"): _WORKERS,
    ("pg14", "server"): _PG14,
    ("psql", "node"): _SERVERS,
    ("logs", "services"): _SERVICES,
    ("roles", "name"): _ROLES,
}
_CHOICES = {("setup", "services"): (*ComponentName, "all")}


@dataclass(frozen=True)
class Parameter:
    """An option (or, without flags, an argument). ``names`` is a command that lists what it takes."""

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    names: str | None


@dataclass(frozen=True)
class Command:
    """One command by its path, such as ``("rebalance", "start")``; the program itself is ``()``."""

    path: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    """Name and help of each subcommand."""
    parameters: tuple[Parameter, ...]

    @property
    def key(self) -> str:
        """The path as the scripts write it: each word after a space."""
        return "".join(f" {word}" for word in self.path)

    @property
    def options(self) -> Iterator[Parameter]:
        return (one for one in self.parameters if one.flags)

    @property
    def flags(self) -> Iterator[tuple[str, str]]:
        """Each flag with its help; a short form of a long one is left out."""
        for one in self.options:
            long = [flag for flag in one.flags if flag.startswith("--")]
            yield from ((flag, one.help) for flag in long or one.flags)

    @property
    def names(self) -> str | None:
        """What lists the values of its argument."""
        return next((one.names for one in self.parameters if not one.flags), None)


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print a script that completes commands and options, to be installed once.

    For this session alone:

    \b
    bash, zsh: eval "$(citus-cluster completion bash)"  (or zsh)
    fish:      citus-cluster completion fish | source

    For every session; the file of bash is read where the package bash-completion is installed:

    \b
    bash: mkdir -p ~/.local/share/bash-completion/completions
          citus-cluster completion bash > ~/.local/share/bash-completion/completions/citus-cluster
    zsh:  mkdir -p ~/.zfunc
          citus-cluster completion zsh > ~/.zfunc/_citus-cluster
          and in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)
    fish: mkdir -p ~/.config/fish/completions
          citus-cluster completion fish > ~/.config/fish/completions/citus-cluster.fish
    """
    script = {Shell.BASH: bash, Shell.ZSH: zsh, Shell.FISH: fish}[shell]
    screen.write(script(list(read_commands(context.find_root().command))))


def read_commands(command: Any, path: tuple[str, ...] = (), above: typer.Context | None = None) -> Iterator[Command]:
    """Read a command of the parser, and those below it."""
    context = typer.Context(command, above, path[-1] if path else PROGRAM, **command.context_settings)
    below = {name: one for name, one in getattr(command, "commands", {}).items() if not one.hidden}
    yield Command(
        path,
        tuple((name, _first_sentence(one.help)) for name, one in below.items()),
        tuple(_read_parameter(one, context, path) for one in command.get_params(context) if not one.hidden),
    )
    for name, one in below.items():
        yield from read_commands(one, (*path, name), context)


def _read_parameter(parameter: Any, context: typer.Context, path: tuple[str, ...]) -> Parameter:
    option = parameter.param_type_name == "option"
    place = (path[0] if path else "", parameter.name)
    # Sorted, because the parser keeps those of --help in a set.
    flags = sorted((*parameter.opts, *parameter.secondary_opts), key=lambda flag: not flag.startswith("--"))
    return Parameter(
        flags=tuple(flags) if option else (),
        help=_first_sentence(parameter.help),
        takes_value=not (option and parameter.is_flag) and not VALUE_MAY_BE_LEFT_OUT & set(parameter.opts),
        choices=_CHOICES.get(place) or tuple(str(item.value) for item in parameter.shell_complete(context, "")),
        names=_NAMES.get(place),
    )


def _first_sentence(text: str | None) -> str:
    first = re.split(r"(?<=[.;:])\s|\n\n", " ".join((text or "").split(" ")).strip(), maxsplit=1)[0]
    return " ".join(first.split()).rstrip(".;:")


_BASH = """\
# Completion of citus-cluster for bash, made by: citus-cluster completion bash
_citus_cluster() {
    local word path='' wanted='' values='' index current=${COMP_WORDS[COMP_CWORD]}
    # Bash takes --flag=value apart at the =.
    [[ $current == '=' ]] && current=''
    for (( index = 1; index < COMP_CWORD; index++ )); do
        word=${COMP_WORDS[index]}
        if [[ $word == '=' ]]; then
            continue
        elif [[ -n $wanted ]]; then
            wanted=''
            continue
        fi
        case $word in
            @TAKING@) wanted=$word ;;
            -*) ;;
            *) case "$path $word" in
                @PATHS@) path="$path $word" ;;
            esac ;;
        esac
    done
    if [[ -n $wanted ]]; then
        case "$path $wanted" in
@VALUES@
        esac
    elif [[ $current == -* ]]; then
        case $path in
@FLAGS@
        esac
    else
        case $path in
@COMMANDS@
        esac
    fi
    COMPREPLY=( $(compgen -W "$values" -- "$current") )
}
complete -o default -F _citus_cluster citus-cluster
"""

_ZSH = """\
#compdef citus-cluster
# Completion of citus-cluster for zsh, made by: citus-cluster completion zsh
_citus_cluster() {
    local word line='' wanted='' index current=${words[CURRENT]}
    local -a values
    for (( index = 2; index < CURRENT; index++ )); do
        word=${words[index]}
        if [[ -n $wanted ]]; then
            wanted=''
            continue
        fi
        case $word in
            (@TAKING@) wanted=$word ;;
            (-*) ;;
            (*) case "$line $word" in
                (@PATHS@) line="$line $word" ;;
            esac ;;
        esac
    done
    if [[ $current == --*=* ]]; then
        wanted=${current%%=*}
        compset -P '*='
    fi
    if [[ -n $wanted ]]; then
        case "$line $wanted" in
@VALUES@
            (*) _files; return ;;
        esac
        compadd -a values
    elif [[ $current == -* ]]; then
        case $line in
@FLAGS@
        esac
        _describe -o option values
    else
        case $line in
@COMMANDS@
            (*) _files; return ;;
        esac
        _describe value values
    fi
}
if [[ $funcstack[1] == _citus-cluster ]]; then
    _citus_cluster "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _citus_cluster citus-cluster
fi
"""

_FISH = """\
# Completion of citus-cluster for fish, made by: citus-cluster completion fish
function __citus_cluster_at
    set -l words (commandline -opc)
    set -l path ''
    set -l wanted ''
    for word in $words[2..-1]
        if test -n "$wanted"
            set wanted ''
            continue
        end
        switch $word
            case @TAKING@
                set wanted $word
            case '-*'
            case '*'
                switch "$path $word"
                    case @PATHS@
                        set path "$path $word"
                end
        end
    end
    test "$path" = "$argv[1]"
end
complete -c citus-cluster -f
@LINES@
"""


def bash(commands: list[Command]) -> str:
    """Write the script for bash."""
    values, flags, subcommands = [], [], []
    for command in commands:
        for option in command.options:
            if listed := _bash_values(option.choices, option.names):
                values.append(f"            {_either(_keys(command, option))}) values={listed} ;;")
        words = quote(" ".join(flag for flag, _ in command.flags))
        flags.append(f"            {quote(command.key)}) values={words} ;;")
        if listed := _bash_values([name for name, _ in command.commands] or _choices(command), command.names):
            subcommands.append(f"            {quote(command.key)}) values={listed} ;;")
    return _filled(_BASH, commands, VALUES=values, FLAGS=flags, COMMANDS=subcommands)


def _bash_values(words: tuple[str, ...] | list[str], names: str | None) -> str | None:
    return f"$({names})" if names else quote(" ".join(words)) if words else None


def zsh(commands: list[Command]) -> str:
    """Write the script for zsh, with descriptions."""
    values, flags, subcommands = [], [], []
    for command in commands:
        for option in command.options:
            if listed := _zsh_values([(word, "") for word in option.choices], option.names):
                values.append(f"            ({_either(_keys(command, option))}) values={listed} ;;")
        flags.append(f"            ({quote(command.key)}) values={_zsh_values(list(command.flags), None)} ;;")
        words = list(command.commands) or [(word, "") for word in _choices(command)]
        if listed := _zsh_values(words, command.names):
            subcommands.append(f"            ({quote(command.key)}) values={listed} ;;")
    return _filled(_ZSH, commands, VALUES=values, FLAGS=flags, COMMANDS=subcommands)


def _zsh_values(described: list[tuple[str, str]], names: str | None) -> str | None:
    if names:
        return f'(${{(f)"$({names})"}})'
    words = (quote(word + (f":{help}" if help else "")) for word, help in described)
    return f"({' '.join(words)})" if described else None


def fish(commands: list[Command]) -> str:
    """Write the script for fish, with descriptions."""
    lines = []
    for command in commands:
        here = f"complete -c {PROGRAM} -n {_fish_quote('__citus_cluster_at ' + _fish_quote(command.key))}"
        lines += [f"{here} -a {name} -d {_fish_quote(help)}" for name, help in command.commands]
        if command.names or _choices(command):
            lines.append(f"{here} -a {_fish_values(_choices(command), command.names)}")
        for option in command.options:
            words = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
            if option.takes_value:
                known = option.choices or option.names
                words.append(f"-x -a {_fish_values(option.choices, option.names)}" if known else "-r -F")
            lines.append(f"{here} {' '.join(words)} -d {_fish_quote(option.help)}")
    taking = " ".join(sorted(_taking(commands)))
    paths = " ".join(_fish_quote(command.key) for command in commands if command.path)
    return _FISH.replace("@TAKING@", taking).replace("@PATHS@", paths).replace("@LINES@", "\n".join(lines))


def _fish_values(choices: tuple[str, ...], names: str | None) -> str:
    return _fish_quote(f"({names})" if names else " ".join(choices))


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _filled(template: str, commands: list[Command], **blocks: list[str]) -> str:
    text = template.replace("@TAKING@", "|".join(sorted(_taking(commands))))
    text = text.replace("@PATHS@", _either(command.key for command in commands if command.path))
    for name, lines in blocks.items():
        text = text.replace(f"@{name}@", "\n".join(lines))
    return text


def _taking(commands: list[Command]) -> set[str]:
    """Flags that a value follows, of all commands: no two give one flag different meanings in that."""
    return {flag for command in commands for one in command.options if one.takes_value for flag in one.flags}


def _keys(command: Command, option: Parameter) -> Iterator[str]:
    return (f"{command.key} {flag}" for flag in option.flags)


def _either(words: Iterator[str]) -> str:
    return "|".join(quote(word) for word in words)


def _choices(command: Command) -> tuple[str, ...]:
    return next((one.choices for one in command.parameters if not one.flags), ())


def add_commands(app: typer.Typer, new: Callable[..., typer.Typer]) -> None:
    """Add the command of this module to the program."""
    app.command("completion")(completion)
