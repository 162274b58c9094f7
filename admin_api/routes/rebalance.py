"""Starting a rebalance, and its progress. It is Citus' background job, and continues without this API."""

from fastapi import Response

from admin_api.dependencies import JournalOf, PartsOf
from admin_api.responses import VisibleJSONResponse
from admin_api.routing import api_router
from admin_api.schemas import BODY_PROBLEMS, RebalanceRequest, RebalanceStarted, problems
from admin_api.settings import API_PREFIX
from citus_cluster.model.citus.rebalance import RebalanceDocument
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.rebalance import use_cases

PATH = "/rebalance"
router = api_router(PATH, "rebalance")


@router.post(
    "",
    status_code=202,
    summary="Start a rebalance in the background",
    responses={
        200: {"model": RebalanceStarted, "description": "There is nothing to move; no job was started."},
        **problems(*BODY_PROBLEMS, 409),
    },
)
async def start(
    parts: PartsOf, journal: JournalOf, response: Response, wanted: RebalanceRequest | None = None
) -> RebalanceStarted:
    """Check for problems that would prevent the moves, then start; Location is the URL of the progress."""
    options = RebalanceOptions(**(wanted or RebalanceRequest()).model_dump())

    on_coordinator = parts.coordinator.changing(timeout_s=parts.settings.plan_timeout_s)
    started = await use_cases.start(on_coordinator, journal, options, ignore)
    if started.job_id is None:
        response.status_code = 200
    else:
        response.headers["Location"] = f"{API_PREFIX}{PATH}"
    return RebalanceStarted(job_id=started.job_id)


@router.get(
    "",
    summary="Show the progress of the latest rebalance; the state is 'none' if there is none",
    response_model=RebalanceDocument,
)
async def status(parts: PartsOf) -> Response:
    return VisibleJSONResponse((await parts.rebalance_status.answer()).as_dict())
