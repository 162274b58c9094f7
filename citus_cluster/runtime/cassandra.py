"""Connections to one node of Cassandra. The driver blocks; it is loaded at the first call, because it costs 80 ms."""

import logging
from typing import TYPE_CHECKING

from citus_cluster.model.citus.nodes import NodeAddress

if TYPE_CHECKING:
    from cassandra.cluster import Cluster


def cluster_at(address: NodeAddress, user: str, password: str, timeout_s: float) -> "Cluster":
    """Prepare sessions on this node alone; ``connect`` opens one, ``shutdown`` closes all."""
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import WhiteListRoundRobinPolicy

    logging.getLogger("cassandra").setLevel(logging.CRITICAL)  # our own answers report the same, once
    # From outside the network, the addresses that the nodes announce are unreachable.
    profile = ExecutionProfile(
        load_balancing_policy=WhiteListRoundRobinPolicy([address.host]), request_timeout=timeout_s
    )
    return Cluster(
        [address.host],
        port=address.port,
        auth_provider=PlainTextAuthProvider(user, password),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        protocol_version=4,
        connect_timeout=timeout_s,
        control_connection_timeout=timeout_s,
        schema_metadata_enabled=False,
        token_metadata_enabled=False,
        executor_threads=1,
    )
