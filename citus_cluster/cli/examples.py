"""Examples of each command, shown at the end of its help."""

from collections.abc import Mapping, Sequence

PROGRAM = "citus-cluster"

EXAMPLES: Mapping[str, Sequence[str]] = {
    "setup": (
        "setup --workers=3",
        "setup --workers=4 --yes --up",
        "setup --services=citus,redis --port=6000 --dry-run",
    ),
    "retune": ("retune --dry-run", "retune --yes --up"),
    "up": ("up", "up --timeout 600 --dir /srv/citus"),
    "down": ("down", "down --volumes --confirm citus"),
    "status": ("status", "status --watch --interval 5", "status --format json"),
    "psql": ("psql", "psql citus-worker1", 'psql -c "SELECT * FROM citus_tables"', "psql pg14-primary < script.sql"),
    "logs": ("logs", "logs citus-coordinator --tail 50", "logs -f citus-worker1 redis"),
    "add-worker": ("add-worker --host 10.0.0.12 --port 5435 --rebalance --wait",),
    "nodes add": ("nodes add --host 10.0.0.12 --port 5435",),
    "nodes drain": ("nodes drain citus-worker4 --wait", "nodes drain citus-worker4 --undo"),
    "nodes remove": ("nodes remove citus-worker4 --dry-run", "nodes remove citus-worker4 --yes"),
    "rebalance plan": ("rebalance plan",),
    "rebalance start": ("rebalance start --wait",),
    "rebalance status": ("rebalance status --format json",),
    "rebalance stop": ("rebalance stop",),
    "rebalance wait": ("rebalance wait",),
    "roles create": ("roles create app", "roles create report --access read"),
    "roles list": ("roles list",),
    "roles password": ("roles password app",),
    "roles drop": ("roles drop app",),
    "pg14 status": ("pg14 status",),
    "pg14 lag": ("pg14 lag", "pg14 lag --watch --interval 1"),
    "pg14 promote": ("pg14 promote", "pg14 promote pg14-replica --yes"),
    "pg14 rebuild-replica": ("pg14 rebuild-replica --yes",),
    "completion": ('eval "$(citus-cluster completion bash)"',),
}
"""Arguments of the program by command, or a whole line that contains the program's name."""


def examples_of(path: str, program: str = PROGRAM) -> str | None:
    """Return the examples at the end of the help of a command, such as ``rebalance start``.

    ``program`` is the name of the command if it is a separate program.
    """
    examples = EXAMPLES.get(path)
    if not examples:
        return None
    lines = (one if PROGRAM in one else f"{PROGRAM} {one}" for one in examples)
    shown = (line.replace(f"{PROGRAM} {path}", program, 1) if program != PROGRAM else line for line in lines)
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in shown)
