"""Nodes of the cluster: list the active ones, register one."""

from collections.abc import Sequence

from fastapi import Request, Response

from admin_api.dependencies import JournalOf, PartsOf, parts_in
from admin_api.responses import VisibleJSONResponse
from admin_api.routing import DirectRoute, api_router
from admin_api.schemas import BODY_PROBLEMS, ActiveNode, NewNode, problems
from citus_cluster.model.citus.nodes import NodeAddress, NodeDocument, Outcome
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.nodes.addition import add
from citus_cluster.runtime.citus.server import active_workers
from citus_cluster.runtime.postgres import Connection, translated

router = api_router("/nodes", "nodes")


async def list_active(request: Request) -> Response:
    rows = await parts_in(request).active_workers.answer()
    return VisibleJSONResponse([{"node_name": name, "node_port": port} for name, port in rows])


router.add_api_route(
    "/active",
    list_active,
    summary="List the rows of citus_get_active_worker_nodes()",
    response_model=list[ActiveNode],
    route_class_override=DirectRoute,
)


async def read_active(connection: Connection) -> Sequence[tuple[str, int]]:
    async with translated("listing the active workers"):
        return await active_workers(connection)


@router.post(
    "",
    status_code=201,
    summary="Register a worker, even if it was removed or disabled before",
    responses={
        200: {"model": NodeDocument, "description": "The worker was already registered, or is active again."},
        **problems(*BODY_PROBLEMS, 409, 502),
    },
)
async def register(node: NewNode, parts: PartsOf, journal: JournalOf, response: Response) -> NodeDocument:
    """Wait briefly for the worker to answer, check its versions, and register it.

    You can repeat the request: a worker that is already registered does not change. No shard moves.
    """
    settings = parts.settings
    coordinator = parts.configuration.cluster().coordinator_address
    worker = NodeAddress(node.host, node.port)

    added = await add(
        parts.coordinator.changing(timeout_s=settings.change_timeout_s),
        journal,
        coordinator,
        worker,
        ignore,
        patience_s=lambda: settings.register_timeout_s,
        wait_for_lock_s=settings.lock_timeout_s,
        trust_functions=node.trust_functions,
    )
    parts.reconciler.wake()
    result = added.node
    if result.outcome is not Outcome.ADDED:
        response.status_code = 200
    return result.document()
