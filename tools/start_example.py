"""Start one example with all that it needs, in the current directory: ``make example-users`` and so on."""

import subprocess
import sys
from pathlib import Path

from citus_cluster.model.component_name import EXAMPLES, ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.operations.directory import read_spec

ROOT = Path(__file__).resolve().parent.parent
JSON = "-H 'Content-Type: application/json'"
TRY = {
    ComponentName.EXAMPLE_USERS: (
        "curl -s AT/users/1",
        f"""curl -s AT/users {JSON} -d '{{"name": "Grace", "email": "grace@example.com"}}'""",
        "curl -s AT/users/1/shard",
    ),
    ComponentName.EXAMPLE_REPLICATION: (
        "TOKEN=$(docker exec CONTAINER python -m read_write_split.tokens --subject alice)",
        f"""curl -si AT/users {JSON} -H "Authorization: Bearer $TOKEN" -d '{{"name": "Grace"}}'""",
        'curl -si AT/users -H "Authorization: Bearer $TOKEN"',
        "curl -s AT/health",
    ),
    ComponentName.EXAMPLE_SHARDING: (
        f"""curl -s AT/users {JSON} -d '{{"user_id": 7, "name": "Grace", "region": "EU", "email": "g@example.com"}}'""",
        "curl -s AT/users/7",
        "curl -s AT/shards/distribution",
    ),
}
"""Requests to try. AT stands for the address of the example, CONTAINER for its container."""


def main() -> None:
    """Start it, and print requests to try."""
    example = ComponentName(sys.argv[1])
    wanted = with_example(spec_here(), example)
    command = [sys.executable, str(ROOT / "setup_citus_cluster.py"), f"--services={','.join(wanted)}", "--up"]
    if status := subprocess.run([*command, *sys.argv[2:]]).returncode:
        sys.exit(status)
    spec = spec_here()
    assert spec
    at = f"http://localhost:{getattr(spec.ports, example.key)}"
    print("\nTry it:")
    for line in TRY[example]:
        print("  " + line.replace("AT", at, 1).replace("CONTAINER", container_name(spec.name, example.value)))


def spec_here() -> ClusterSpec | None:
    """Read the cluster of the current directory; None if there is none."""
    path = Path(SPEC_FILE)
    return parse_spec(read_spec(path, SPEC_FILE)) if path.exists() else None


def with_example(spec: ClusterSpec | None, example: ComponentName) -> list[ComponentName]:
    """Add an example, and the servers of its accounts, to the services of a cluster; a new one has only these."""
    needed = {example, ComponentName.CITUS, *(account.server for account in COMPONENTS[example].accounts)}
    return [one for one in ComponentName if one in needed or (spec is not None and one in spec.wanted)]


if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in EXAMPLES:
        sys.exit(f"usage: python -m tools.start_example {{{','.join(EXAMPLES)}}} [OPTIONS]")
    main()
