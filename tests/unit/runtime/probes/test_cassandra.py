"""What nodetool says, read; and how the ring is judged where nobody answers."""

import asyncio
import socket

from fake_servers import fake_cassandra

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import Condition, timed_out
from citus_cluster.runtime.probes.cassandra import CassandraClient, RingNode, parse_ring

STATUS = """Datacenter: dc1
===============
Status=Up/Down
|/ State=Normal/Leaving/Joining/Moving
--  Address     Load        Tokens  Owns (effective)  Host ID                               Rack
UN  172.20.0.3  439.92 MiB  16      58.9%             50a5f8d8-ff3d-445f-829d-1bda007518f5  rack2
DN  172.20.0.2  ?           16      64.7%             7b2bc4da-907f-4de5-827a-83b91ff9f6a1  rack1
UJ  172.20.0.4  30.89 KiB   16      ?                 a8ee7d50-d2f7-4cae-854e-657e7b51ecb1  rack3

Note: Non-system keyspaces don't have the same replication settings
"""


def test_every_line_of_nodetool_is_read() -> None:
    assert parse_ring(STATUS) == (
        RingNode("172.20.0.3", True, "normal", "439.92 MiB", "58.9%", "rack2"),
        RingNode("172.20.0.2", False, "normal", "?", "64.7%", "rack1"),
        RingNode("172.20.0.4", True, "joining", "30.89 KiB", "?", "rack3"),
    )


def test_an_error_of_nodetool_is_no_ring() -> None:
    assert parse_ring("nodetool: Failed to connect to '127.0.0.1:7199' - ConnectException") == ()


def test_a_ring_of_which_nobody_answers_is_down_and_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = CassandraClient([NodeAddress("127.0.0.1", port)], "secret")

    async def ask() -> None:
        found = await client.ask(1.0)
        await client.close()
        assert (found.condition, found.reason) == (Condition.DOWN, f"CQL does not answer on 127.0.0.1:{port}")

    asyncio.run(ask())


def test_a_node_whose_login_takes_too_long_is_late_and_not_called_down_at_once() -> None:
    async def ask(port: int) -> None:
        client = CassandraClient([NodeAddress("127.0.0.1", port)], "secret")
        found = await client.ask(2.0)
        await client.close()
        assert found.reason is not None and found.reason.startswith("CQL answers on")
        assert timed_out(found.reason)

    with fake_cassandra(is_late=True) as late:
        asyncio.run(ask(late.port))
