"""What is asked how it is: a component beside Citus, and where its services are reached from here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.component import Service
from citus_cluster.model.component_name import ComponentName


@dataclass(frozen=True)
class Target:
    """A component to ask: where its services are reached, by service, and the facts that judging them needs."""

    component: ComponentName
    addresses: Mapping[str, NodeAddress]
    synchronous: bool = False
    """A commit waits for a second server."""

    @classmethod
    def of(
        cls, component: ComponentName, services: Sequence[Service], address: Callable[[Service], NodeAddress]
    ) -> Self:
        """Make the target from the component's services; ``address`` says where each is reached."""
        return cls(
            component,
            {service.name: address(service) for service in services},
            synchronous=any(service.synchronous for service in services),
        )
