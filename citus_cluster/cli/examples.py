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
    "cluster show": ("cluster show", "cluster show --format json"),
    "cluster drift": ("cluster drift", "cluster drift --filter severity=error"),
    "nodes list": ("nodes list", "nodes list --filter answers=false --format json"),
    "nodes active": ("nodes active",),
    "nodes mesh": ("nodes mesh", "nodes mesh --filter connects=false"),
    "nodes activate": ("nodes activate citus-worker2",),
    "nodes disable": ("nodes disable citus-worker2 --dry-run", "nodes disable citus-worker2"),
    "nodes set": ("nodes set citus-worker2 --no-holds-shards", "nodes set citus-worker2 --holds-shards"),
    "nodes add-inactive": ("nodes add-inactive 10.0.0.12 --port 5435",),
    "nodes add-secondary": ("nodes add-secondary 10.0.0.12 --primary citus-worker1",),
    "nodes move": ("nodes move citus-worker2 10.0.0.14 --port 5435 --dry-run",),
    "nodes pause": ("nodes pause citus-worker2 --reason 'new kernel'",),
    "nodes resume": ("nodes resume citus-worker2",),
    "nodes add": ("nodes add --host 10.0.0.12 --port 5435",),
    "nodes drain": ("nodes drain citus-worker4 --wait", "nodes drain citus-worker4 --undo"),
    "nodes remove": ("nodes remove citus-worker4 --dry-run", "nodes remove citus-worker4 --yes"),
    "tables list": ("tables list", "tables list --filter kind=local --sort -bytes"),
    "tables distribute": (
        "tables distribute orders customer_id --dry-run",
        "tables distribute lines customer_id --colocate-with orders",
        "tables distribute events device_id --shard-count 64 --concurrently",
    ),
    "tables reference": ("tables reference countries",),
    "tables undistribute": ("tables undistribute orders --cascade --dry-run",),
    "tables alter": (
        "tables alter orders --shard-count 64 --cascade-to-colocated --dry-run",
        "tables alter events --column customer_id --colocate-with customers --yes",
    ),
    "schemas distribute": ("schemas distribute tenant_17",),
    "schemas undistribute": ("schemas undistribute tenant_17 --yes",),
    "schemas move": ("schemas move tenant_17 citus-worker2",),
    "schemas list": ("schemas list --filter distributed=true",),
    "shards list": ("shards list --filter table=orders --sort -bytes", "shards list --filter node=citus-worker1:5432"),
    "shards groups": ("shards groups --sort -bytes --limit 10",),
    "shards move": ("shards move 102008 citus-worker2", "shards move 102008 citus-worker2 --mode block_writes"),
    "shards split": ("shards split 102008 half --yes", "shards split 102008 --dry-run -- -1500000000,-900000000"),
    "shards isolate": ("shards isolate orders 42 --cascade --yes",),
    "shards where": ("shards where orders 42", "shards where 'sales.\"Odd Name\"' 2026-01-31"),
    "rebalance plan": ("rebalance plan",),
    "rebalance start": ("rebalance start --wait",),
    "rebalance status": ("rebalance status --format json",),
    "rebalance stop": ("rebalance stop",),
    "rebalance wait": ("rebalance wait",),
    "rebalance tasks": ("rebalance tasks", "rebalance tasks --job 12 --filter state=error"),
    "rebalance history": ("rebalance history",),
    "rebalance diagnosis": ("rebalance diagnosis",),
    "rebalance repair": ("rebalance repair --dry-run", "rebalance repair"),
    "activity list": (
        "activity list",
        "activity list --parts --sort=-seconds",
        "activity list --filter seconds.min=10",
    ),
    "activity locks": ("activity locks",),
    "activity statements": ("activity statements --sort=-calls", "activity statements --node citus-worker1"),
    "activity tenants": ("activity tenants --sort=-cpu_seconds",),
    "activity features": ("activity features",),
    "activity enable": ("activity enable statements --dry-run", "activity enable tenants"),
    "activity cancel": ("activity cancel 10000000171",),
    "activity terminate": ("activity terminate 10000000171 --yes",),
    "consistency prepared": ("consistency prepared",),
    "consistency recover": ("consistency recover --dry-run", "consistency recover"),
    "consistency orphans": ("consistency orphans",),
    "consistency cleanup": ("consistency cleanup --dry-run", "consistency cleanup"),
    "consistency restore-points": ("consistency restore-points",),
    "consistency restore-point": ("consistency restore-point before-release-12",),
    "roles create": ("roles create app", "roles create report --access read"),
    "roles list": ("roles list",),
    "roles password": ("roles password app",),
    "roles drop": ("roles drop app",),
    "tokens create": ("tokens create grafana", "tokens create deploy --role admin --expires 30d"),
    "tokens list": ("tokens list",),
    "tokens revoke": ("tokens revoke grafana",),
    "operations list": ("operations list", "operations list --state interrupted --format json"),
    "operations show": ("operations show 7", "operations show 7 --wait"),
    "operations cancel": ("operations cancel 7 --dry-run", "operations cancel 7"),
    "operations resume": ("operations resume 7 --wait",),
    "pg14 status": ("pg14 status",),
    "pg14 lag": ("pg14 lag", "pg14 lag --watch --interval 1"),
    "pg14 promote": ("pg14 promote", "pg14 promote pg14-replica --yes"),
    "pg14 rebuild-replica": ("pg14 rebuild-replica --yes",),
    "api": (
        "api nodes -q fields=node,answers",
        "api nodes/disable -f node=citus-worker2 --dry-run",
        "api rebalance -f mode=auto --wait",
    ),
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
