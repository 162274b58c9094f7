"""Every error that a user can get: what happened, why, and what to do next.

An error is data. It never prints; the command line and the admin API do that at the edge, from
``code``, ``exit_status`` and ``http_status``. Any other exception that escapes is a bug.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import ClassVar


class ExitStatus(IntEnum):
    """Exit statuses of every command, as documented in the README."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PREFLIGHT = 3
    WOULD_CHANGE = 4
    PARTLY_DONE = 5


class CitusClusterError(Exception):
    """The command failed.

    ``message`` says what happened and why, ``hint`` what to do next, ``details`` lists the findings. None of them ever
    contains a password. The message defaults to the first line of the docstring.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[ExitStatus] = ExitStatus.FAILED
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, hint: str | None = None, details: Sequence[str] = ()) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        self.details = tuple(details)
        super().__init__(self.message)

    def as_dict(self) -> Mapping[str, object]:
        """Plain data, in stable order: the shape of every error in JSON."""
        return {
            "code": self.code,
            "message": self.message,
            "details": list(self.details),
            "hint": self.hint,
            "exit_status": int(self.exit_status),
        }


class UsageError(CitusClusterError):
    """An argument is invalid."""

    code = "usage"
    exit_status = ExitStatus.USAGE
    http_status = 422


class NotFoundError(CitusClusterError):
    """The cluster has no such object."""

    code = "not-found"
    exit_status = ExitStatus.USAGE
    http_status = 404


class BlockedError(CitusClusterError):
    """A check before the change found what would make it fail, so nothing was changed; ``details`` has the findings."""

    code = "blocked"
    http_status = 409


class SpecError(UsageError):
    """The specification of the cluster is not valid; ``details`` has one line for each problem."""

    code = "invalid-spec"


class ImmutableError(UsageError):
    """A value was changed that cannot change in an existing cluster."""

    code = "immutable"
    http_status = 409


class DoesNotFitError(UsageError):
    """The cluster does not fit into the given memory."""

    code = "does-not-fit"


class PreflightError(CitusClusterError):
    """The machine does not meet the command's requirements; ``details`` has one line for each finding."""

    code = "preflight"
    exit_status = ExitStatus.PREFLIGHT
    http_status = 503


class EngineUnavailableError(PreflightError):
    """No Docker engine answers."""

    code = "engine-unavailable"


class LeftoverVolumesError(PreflightError):
    """Volumes of an earlier cluster of this name exist, but its password is missing."""

    code = "leftover-volumes"


class ConsentNeededError(CitusClusterError):
    """Files would change, but the changes were not confirmed."""

    code = "consent-needed"
    exit_status = ExitStatus.WOULD_CHANGE
    http_status = 409


class EditedFileError(CitusClusterError):
    """A generated file was edited by hand, and this run would have to replace it."""

    code = "edited-file"
    http_status = 409


class LockedError(CitusClusterError):
    """Another run is working on the same cluster."""

    code = "locked"
    http_status = 409


class WriteError(CitusClusterError):
    """A file could not be read or written; the message says what happened to the others."""

    code = "write-failed"


class ServiceFailedError(CitusClusterError):
    """A service did not become ready in time."""

    code = "service-failed"


class SettingRefusedError(ServiceFailedError):
    """A running server refused a setting, and continues with the old value; ``details`` has the lines."""

    code = "setting-refused"


class ReaderRefusedError(CitusClusterError):
    """A node does not answer the role that only reads; it may answer the superuser."""

    code = "reader-refused"
    http_status = 503


class UnreachableError(CitusClusterError):
    """A server does not answer."""

    code = "unreachable"
    http_status = 503


class WorkerUnreachableError(UnreachableError):
    """A worker does not answer the coordinator."""

    code = "worker-unreachable"
    http_status = 502


class AuthenticationError(UnreachableError):
    """A server refused the password."""

    code = "authentication-failed"


class UnprovenServerError(AuthenticationError):
    """A server asked for the password in an insecure way, so the password was not sent."""

    code = "untrusted-server"


class UnsupportedError(CitusClusterError):
    """The server lacks a function or a table that this needs."""

    code = "not-supported"
    http_status = 503


class RefusedError(CitusClusterError):
    """PostgreSQL refused the request."""

    code = "refused"
    http_status = 409


class MismatchError(CitusClusterError):
    """A worker cannot join, because its versions differ from the coordinator's."""

    code = "version-mismatch"
    http_status = 409


class UntrustedCodeError(CitusClusterError):
    """Code of ordinary roles would run as the superuser."""

    code = "untrusted-code"
    http_status = 409


class NotRegisteredError(CitusClusterError):
    """Some workers could not be registered; the rest of the cluster works."""

    code = "not-registered"
    exit_status = ExitStatus.PARTLY_DONE
    http_status = 503


class VerificationError(CitusClusterError):
    """The cluster runs, but the verification failed."""

    code = "verification-failed"


class RoleError(CitusClusterError):
    """The role conflicts with the command."""

    code = "role-conflict"
    http_status = 409


class InUseError(CitusClusterError):
    """A worker cannot leave the cluster now."""

    code = "worker-in-use"
    http_status = 409


class RebalanceError(CitusClusterError):
    """The rebalance cannot start, or has failed."""

    code = "rebalance-failed"
    http_status = 409


class RebalanceRunningError(RebalanceError):
    """Another rebalance is running."""

    code = "rebalance-running"


class ReplicationError(CitusClusterError):
    """The PostgreSQL 14 pair cannot change its roles as requested."""

    code = "replication-failed"
    http_status = 409
