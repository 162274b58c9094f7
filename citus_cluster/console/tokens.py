"""Printing tokens of the admin API."""

from datetime import datetime

from citus_cluster.console.screen import err, escape, out, table, write
from citus_cluster.operations.tokens import CreatedToken, ListedToken, TokenList


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def print_created(made: CreatedToken) -> None:
    """Print the token alone on stdout, so that a script can read it, and what it is on stderr."""
    until = f"until {_time(made.expires_at)}" if made.expires_at else "until it is revoked"
    err.print(f"Token [bold]{escape(made.name)}[/] (role {made.role}) is valid {until}. It is shown only this once:")
    write(made.token + "\n")


def print_list(found: TokenList) -> None:
    rows = [
        (
            one.name,
            one.role.value,
            one.state.value,
            _time(one.created_at) if one.created_at else "-",
            _time(one.expires_at) if one.expires_at else "never",
            one.file or "-",
        )
        for one in found.tokens
    ]
    out.print(table("Tokens of the admin API", ("name", "role", "state", "created", "expires", "file"), rows))


def print_revoked(revoked: ListedToken) -> None:
    out.print(f"Token {escape(revoked.name)} was revoked.")
