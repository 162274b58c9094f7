"""The components, each in its own module; no code outside that module knows one by name."""

from collections.abc import Collection, Mapping

from citus_cluster.model.component import Account, Component
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components.admin_api import ADMIN_API
from citus_cluster.model.components.cassandra import CASSANDRA
from citus_cluster.model.components.citus import CITUS
from citus_cluster.model.components.examples import EXAMPLES
from citus_cluster.model.components.monitoring import MONITORING
from citus_cluster.model.components.pg14 import PG14
from citus_cluster.model.components.pgbouncer import PGBOUNCER
from citus_cluster.model.components.redis import REDIS
from citus_cluster.model.spec import ClusterSpec

COMPONENTS: Mapping[ComponentName, Component] = {
    component.name: component
    for component in (CITUS, PG14, REDIS, CASSANDRA, PGBOUNCER, *EXAMPLES, MONITORING, ADMIN_API)
}
"""In the order of the Compose file: a component comes after those that it depends on."""
COMPANIONS = tuple(name for name, component in COMPONENTS.items() if component.companion)
"""The components beside Citus."""


def wanted(spec: ClusterSpec) -> tuple[Component, ...]:
    """Return the components of a specification, in their order."""
    return tuple(component for name, component in COMPONENTS.items() if name in spec.wanted)


def accounts_on(server: ComponentName, wanted: Collection[ComponentName]) -> tuple[Account, ...]:
    """Return the accounts that the wanted components have on a server."""
    return tuple(
        one for name in COMPONENTS if name in wanted for one in COMPONENTS[name].accounts if one.server is server
    )


def owner_of(service: str) -> Component | None:
    """Return the component that has services of this name, even if the specification does not include it."""
    return next((component for component in COMPONENTS.values() if component.owns.fullmatch(service)), None)


def is_our_volume(project: str, name: str) -> bool:
    """Return whether a volume has a name that a component uses in a project."""
    return any(component.keeps(project, name) for component in COMPONENTS.values())


def context_of(path: str) -> str | None:
    """Return the build context that contains a path of the cluster's directory; None for other paths."""
    folders = (component.context_folder() for component in COMPONENTS.values())
    return next((folder for folder in folders if folder and path.startswith(f"{folder}/")), None)
