"""The requests and answers over HTTP, as in the OpenAPI document."""

from enum import StrEnum
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from admin_api.problems import MEDIA_TYPE
from citus_cluster.model.citus.nodes import NodeDocument
from citus_cluster.model.companion_status import Condition
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.operation import Operation, OperationEvent

Responses = dict[int | str, dict[str, Any]]


class Problem(BaseModel):
    """Problem details for HTTP (RFC 9457), with additional members: code, hint, details, errors and request_id."""

    type: str = Field(examples=["urn:citus-cluster:problem:worker-unreachable"])
    title: str
    status: int
    code: str = Field(description="Stable name of the kind of problem.")
    detail: str | None = Field(default=None, description="What happened, and why.")
    hint: str | None = Field(default=None, description="What to do next.")
    details: list[str] | None = Field(default=None, description="Findings, one for each item.")
    errors: list[dict[str, Any]] | None = Field(
        default=None, description="Invalid parts of the request: location and message."
    )
    operation: str | None = Field(
        default=None, description="Address of the operation that failed, or that excludes the requested one."
    )
    request_id: str | None = Field(
        default=None, description="The request, as in the header X-Request-ID, the log and the journal."
    )


_NEW_PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""Names from RFC 9110, which Python has since 3.13, so that the document is the same under every version."""


def problems(*statuses: int) -> Responses:
    """Declare the problems of a route, in addition to those of every route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": _NEW_PHRASES.get(status, HTTPStatus(status).phrase), "content": content}
        for status in statuses
    }


BODY_PROBLEMS = (400, 408, 413, 415, 422)
"""Statuses for a body that is not readable, too slow, too large, not JSON, or not valid."""

COMMON_PROBLEMS = problems(401, 403, 429, 500, 503, 504)


class ActiveNode(BaseModel):
    """A row of citus_get_active_worker_nodes()."""

    node_name: str
    node_port: int


class HealthStatus(StrEnum):
    """``starting`` until everything has been healthy once, ``degraded`` when something is no longer healthy."""

    OK = "ok"
    STARTING = "starting"
    DEGRADED = "degraded"


class CoordinatorHealth(BaseModel):
    """Whether the coordinator answered just now."""

    host: str | None
    port: int | None
    answers: bool
    reason: str | None = None


class WorkersHealth(BaseModel):
    """Desired workers, by what the reconciler found at its last look."""

    desired: int
    registered: int
    pending: list[NodeDocument]
    withdrawn: list[NodeDocument] = Field(
        description="Workers that an operator removed or disabled; an explicit POST registers them again."
    )
    unwell: list[str] = Field(
        description="Registered nodes that do not answer, refuse queries, or have lost data, one line for each."
    )


class CompanionHealth(BaseModel):
    """Whether another service answered at the last check, a few seconds ago at most."""

    service: ComponentName
    condition: Condition
    reason: str | None = Field(description="Why the condition is not ok.")


class Companion(CompanionHealth):
    """Another service; further members are its own figures."""

    model_config = ConfigDict(extra="allow")

    summary: str = Field(description="Its figures in one line.")


class Citus(BaseModel):
    """A summary of Citus; GET /api/v1/nodes/active lists its nodes."""

    condition: Condition
    reason: str | None
    coordinator: CoordinatorHealth
    workers: WorkersHealth | None = Field(description="Null if the reconciler is off.")


class Services(BaseModel):
    """Every service of the cluster except this API. A service that is down does not hide the others."""

    citus: Citus
    companions: list[Companion]


class Health(BaseModel):
    """The state of the cluster as this API observes it.

    With HTTP status 200, Citus is healthy, and the status describes the other services.
    """

    status: HealthStatus
    reason: str | None = Field(description="One line that says why the status is not ok.")
    warnings: list[str] = Field(description="Future problems: disks that are 85 % full. The status stays ok.")
    version: str
    cluster: str | None
    coordinator: CoordinatorHealth
    workers: WorkersHealth | None = Field(description="Null if the reconciler is off.")
    reconciler_error: str | None = Field(description="Why the last run of the reconciler failed, if it did.")
    companions: list[CompanionHealth] = Field(description="The other services.")


class Live(BaseModel):
    """The admin API serves requests."""

    live: bool = True


class Readiness(BaseModel):
    """Whether Citus can serve queries now."""

    ready: bool
    reason: str | None = Field(description="One line that says why not.")


OperationDocument = Operation


class PlanDocument(BaseModel):
    """What a change would do; nothing was changed."""

    dry_run: Literal[True]
    kind: str
    command: str
    plan: dict[str, Any]


class ChangeAnswer(RootModel[Operation | PlanDocument]):
    """The operation that a change has become, or, with dry_run, its plan."""


class OperationPage(BaseModel):
    """One page of operations."""

    items: list[Operation]
    next_cursor: str | None
    total: int


class EventsDocument(BaseModel):
    """The events of an operation."""

    items: list[OperationEvent]
