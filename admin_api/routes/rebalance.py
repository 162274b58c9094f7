"""The progress of a rebalance; declared changes start and stop it. It continues without this API."""

from fastapi import Response

from admin_api.dependencies import PartsOf
from admin_api.responses import VisibleJSONResponse
from admin_api.routing import api_router
from citus_cluster.model.citus.rebalance import RebalanceDocument

router = api_router("/rebalance", "rebalance")


@router.get(
    "",
    summary="Show the progress of the latest rebalance; the state is 'none' if there is none",
    operation_id="rebalance-status",
    response_model=RebalanceDocument,
)
async def status(parts: PartsOf) -> Response:
    return VisibleJSONResponse((await parts.rebalance_status.answer()).as_dict())
