"""The active nodes, as Citus lists them; a declared change registers workers."""

from collections.abc import Sequence

from fastapi import Request, Response

from admin_api.dependencies import parts_in
from admin_api.responses import VisibleJSONResponse
from admin_api.routing import DirectRoute, api_router
from admin_api.schemas import ActiveNode
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
    operation_id="nodes-active",
    response_model=list[ActiveNode],
    route_class_override=DirectRoute,
)


async def read_active(connection: Connection) -> Sequence[tuple[str, int]]:
    async with translated("listing the active workers"):
        return await active_workers(connection)
