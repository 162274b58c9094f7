"""The target of a probe: a component beside Citus, and the addresses of its services from here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.component import Service
from citus_cluster.model.component_name import ComponentName


@dataclass(frozen=True)
class Target:
    """A component to probe: the addresses of its services, by service, and the facts needed to judge them."""

    component: ComponentName
    addresses: Mapping[str, NodeAddress]
    synchronous: bool = False
    """A commit waits for a second server."""

    @classmethod
    def of(
        cls, component: ComponentName, services: Sequence[Service], address: Callable[[Service], NodeAddress]
    ) -> Self:
        """Create the target from the component's services; ``address`` returns the address of each."""
        return cls(
            component,
            {service.name: address(service) for service in services},
            synchronous=any(service.synchronous for service in services),
        )
