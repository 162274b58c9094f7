"""The command ``completion``, and the completion of names; the parser completes commands, options and choices.

The scripts are typer's: Tab runs the program with a variable in its environment, and the parser answers.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.completion

from citus_cluster.cli.examples import PROGRAM
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.component_name import GROUPS, ComponentName
from citus_cluster.model.layout import COMPOSE_FILE
from citus_cluster.model.token_role import NAMED_TOKENS_FILE

_VARIABLE = "_CITUS_CLUSTER_COMPLETE"
_ROLES_FOLDER = "generated/secrets/roles"
_TOKENS_FILE = f"generated/config/admin-api/{NAMED_TOKENS_FILE}"
_ROLE_FILE = re.compile(r"([a-z_][a-z0-9_-]*)_password")
# The first line names the command that a file in zsh's fpath completes.
_ZSH_HEAD = """\
#compdef citus-cluster
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }"""
# zsh loads such a file at the first Tab, and the file must answer that Tab too.
_ZSH_FOOT = """\
[[ $zsh_eval_context[-1] == loadautofunc ]] && _citus_cluster_completion "$@"
true"""


class Shell(StrEnum):
    """Shells with a completion script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print a script that completes commands, options and names. Install it once.

    For the current session only:

    \b
    bash, zsh: eval "$(citus-cluster completion bash)"  (or zsh)
    fish:      citus-cluster completion fish | source

    For every session (bash needs the package bash-completion):

    \b
    bash: mkdir -p ~/.local/share/bash-completion/completions
          citus-cluster completion bash > ~/.local/share/bash-completion/completions/citus-cluster
    zsh:  mkdir -p ~/.zfunc
          citus-cluster completion zsh > ~/.zfunc/_citus-cluster
          and in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)
    fish: mkdir -p ~/.config/fish/completions
          citus-cluster completion fish > ~/.config/fish/completions/citus-cluster.fish
    """
    if shell is Shell.ZSH:
        typer.echo(_ZSH_HEAD)
    root: Any = context.find_root().command
    typer.completion.shell_complete(root, {}, PROGRAM, _VARIABLE, f"source_{shell}")
    if shell is Shell.ZSH:
        typer.echo(_ZSH_FOOT)


def prepare() -> None:
    """Register the shells with the parser, and rejoin ``--flag=value``, which bash splits. Call this first."""
    # Typer's own two options would do this too, but they write into the start-up files of shells.
    typer.completion.get_completion_inspect_parameters()
    if is_asked() and "COMP_WORDS" in os.environ:
        words = os.environ["COMP_WORDS"].split("\n")
        current = int(os.environ.get("COMP_CWORD", len(words) - 1))
        # Bash splits the word at the =, and the parser accepts an = only in the last word.
        before = [word for word in words[:current] if word != "="]
        os.environ["COMP_WORDS"] = "\n".join([*before, *words[current:]])
        os.environ["COMP_CWORD"] = str(len(before))


def is_asked() -> bool:
    """Return whether a shell runs the program for completion."""
    return _VARIABLE in os.environ


def prepare_parameter(parameter: Any) -> None:
    """Make the completion of a parameter fast, and let it complete ``--flag=value`` too.

    The words before the current one are not validated, which would import pydantic. zsh and fish replace the whole
    word, but the parser answers with only the value.
    """
    complete: Callable[..., Any] = parameter.shell_complete
    joined = re.search(r"(?:^|\s)(--[a-z0-9-]+=)\S*$", os.environ.get("_TYPER_COMPLETE_ARGS", ""))

    def completed(context: Any, incomplete: str) -> Any:
        found = complete(context, incomplete)
        for item in found if joined else ():
            item.value = f"{joined[1]}{item.value}" if joined else item.value
        return found

    parameter.shell_complete = completed
    parameter.process_value = lambda context, value: value


def _services(directory: Path) -> Iterable[str]:
    from citus_cluster.model.yaml_text import load_yaml

    with suppress(OSError, UnicodeDecodeError, CitusClusterError):
        found = load_yaml((directory / COMPOSE_FILE).read_text(encoding="utf-8"), COMPOSE_FILE)
        return [str(name) for name in found["services"]] if isinstance(found, dict) and "services" in found else ()
    return ()


def _roles(directory: Path) -> Iterable[str]:
    with suppress(OSError):
        found = (_ROLE_FILE.fullmatch(path.name) for path in (directory / _ROLES_FOLDER).iterdir())
        return sorted(one[1] for one in found if one)
    return ()


def _tokens(directory: Path) -> Iterable[str]:
    with suppress(OSError, ValueError, LookupError, TypeError):
        found = json.loads((directory / _TOKENS_FILE).read_bytes())
        return [str(token["name"]) for token in found["tokens"]]
    return ()


def _completer(of: Callable[[Path], Iterable[str]], kind: str = r"[a-z0-9_-]+") -> Callable[..., list[str]]:
    """Return a completer for names of the cluster in ``--dir`` that match a pattern; a shell must get no other text."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        directory = Path(context.params.get("directory") or ".")
        return [name for name in of(directory) if name.startswith(incomplete) and re.fullmatch(kind, name)]

    return complete


services = _completer(_services)
workers = _completer(_services, r"citus-worker\d+")
servers = _completer(_services, r"citus-(coordinator|worker\d+)|pg14-[a-z]+")
pair = _completer(_services, r"pg14-[a-z]+")
roles = _completer(_roles)
tokens = _completer(_tokens, r"[A-Za-z0-9._-]+")


def wanted_services(incomplete: str) -> list[str]:
    """Return the services that ``--services`` accepts; after a comma, those not chosen yet."""
    chosen, _, begun = incomplete.rpartition(",")
    parts = [one for one in chosen.split(",") if one]
    there = {name for part in parts for name in GROUPS.get(part, (part,))}
    rest = [service.value for service in ComponentName if service not in there]
    names = [*rest, *(group for group, members in GROUPS.items() if not there & {*members})]
    return [f"{chosen},{name}" if chosen else name for name in names if name.startswith(begun)]
