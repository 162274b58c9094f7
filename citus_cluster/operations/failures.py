"""The error that ended an operation, as the document that its record keeps, and back."""

from collections.abc import Iterator

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.operation import Operation, OperationState


class NotRunningError(CitusClusterError):
    """The operation is not running."""

    code = "not-running"
    http_status = 409


def document_of(failure: BaseException) -> dict[str, object]:
    """Return the document of an error. It does not tell what an unexpected one says, which may hold a secret."""
    if isinstance(failure, CitusClusterError):
        return dict(failure.as_dict())
    if isinstance(failure, TimeoutError):
        return {"code": "timeout", "message": "The coordinator did not answer in time."}
    return {"code": "internal-error", "message": "The operation failed for an unknown reason."}


def failure_of(operation: Operation) -> Exception | None:
    """Return an error like the one that ended an operation; None if none did."""
    error = operation.error
    if error is None:
        if operation.state in {OperationState.CANCELLED, OperationState.INTERRUPTED}:
            return NotRunningError(f"The operation was {operation.state.value}.")
        return None
    if error["code"] == "timeout":
        return TimeoutError()
    kind = next((one for one in _kinds(CitusClusterError) if one.code == error["code"]), None)
    if kind is None:
        return RuntimeError(f"operation {operation.id} failed earlier")
    # Not by its own constructor, which may have other parameters.
    failure = kind.__new__(kind)
    details, hint = error.get("details"), error.get("hint")
    CitusClusterError.__init__(
        failure,
        str(error["message"]),
        hint=None if hint is None else str(hint),
        details=[str(one) for one in details] if isinstance(details, list) else (),
    )
    return failure


def _kinds(kind: type[CitusClusterError]) -> Iterator[type[CitusClusterError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)
