"""The user's specification: ``cluster.yaml`` as models, strict, versioned, with all problems at once."""

from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from pydantic.fields import FieldInfo

from citus_cluster.model import names
from citus_cluster.model.component_name import ALL, OPT_IN, ComponentName
from citus_cluster.model.flags import Flag
from citus_cluster.model.images import (
    DEFAULT_CASSANDRA_IMAGE,
    DEFAULT_CITUS_IMAGE,
    DEFAULT_MONITORING_IMAGE,
    DEFAULT_PG14_IMAGE,
    DEFAULT_PGBOUNCER_IMAGE,
    DEFAULT_REDIS_IMAGE,
    cassandra_image_problem,
    citus_image_problem,
    monitoring_image_problem,
    pg14_image_problem,
    pgbouncer_image_problem,
    redis_image_problem,
    reference_problem,
)
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.tuning.budget import Server
from citus_cluster.model.tuning.servers import Storage, Workload

API_VERSION = "citus-cluster/v1"
MAX_WORKERS = 1000
MAX_CASSANDRA_NODES = 32
MAX_POOLED_CLIENTS = 10_000
DEFAULT_BASE_PORT = 5434
DEFAULT_PG14_PORT = 5432
DEFAULT_REDIS_PORT = 6379
DEFAULT_CASSANDRA_PORT = 9042
DEFAULT_PGBOUNCER_PORT = 6432
DEFAULT_EXAMPLE_REPLICATION_PORT = 8001
DEFAULT_EXAMPLE_SHARDING_PORT = 8002
DEFAULT_EXAMPLE_USERS_PORT = 8003
DEFAULT_MONITORING_PORT = 9090
DEFAULT_ADMIN_PORT = 8000
DEFAULT_SERVICES = ALL
_LEFT_OUT = " and ".join((", ".join(OPT_IN[:-1]), OPT_IN[-1]))
_ADMINISTRATION = (ComponentName.CITUS, ComponentName.ADMIN_API)
DEFAULT_SERVICES_WITHOUT_COORDINATOR = (ComponentName.CITUS,)

Scalar = StrictBool | StrictInt | Annotated[float, Field(allow_inf_nan=False)] | StrictStr


def _refuse(problem_of: Any) -> AfterValidator:
    def check(value: Any) -> Any:
        problem = problem_of(value)
        if problem:
            raise ValueError(problem)
        return value

    return AfterValidator(check)


Port = Annotated[StrictInt, Field(ge=1, le=65535)]
WorkerNumber = Annotated[StrictInt, Field(ge=1, le=MAX_WORKERS)]
WorkerCount = Annotated[StrictInt, Field(ge=0, le=MAX_WORKERS)]
Settings = dict[StrictStr, Scalar]


class Replication(StrEnum):
    """When a commit on the PostgreSQL 14 primary returns: ``sync`` once the replica has it on its disk too."""

    ASYNC = "async"
    SYNC = "sync"


class Pg14Log(StrEnum):
    """How much the PostgreSQL 14 pair logs: ``verbose`` is every statement and connection."""

    STANDARD = "standard"
    VERBOSE = "verbose"


class MaxmemoryPolicy(StrEnum):
    """What Redis does when its memory is full, in its own words."""

    NOEVICTION = "noeviction"
    ALLKEYS_LRU = "allkeys-lru"
    ALLKEYS_LFU = "allkeys-lfu"
    ALLKEYS_RANDOM = "allkeys-random"
    VOLATILE_LRU = "volatile-lru"
    VOLATILE_LFU = "volatile-lfu"
    VOLATILE_RANDOM = "volatile-random"
    VOLATILE_TTL = "volatile-ttl"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ports(_Model):
    """Ports on the host. Inside the network every PostgreSQL listens on 5432."""

    citus: Annotated[Port, Flag("--port")] = Field(
        DEFAULT_BASE_PORT, description="Host port of the coordinator; worker i is published on this port + i."
    )
    pg14: Annotated[Port | None, Flag("--pg14-port", default=str(DEFAULT_PG14_PORT))] = Field(
        None, description="Host port of the PostgreSQL 14 primary; its replica uses the next port."
    )
    redis: Annotated[Port, Flag("--redis-port")] = Field(DEFAULT_REDIS_PORT, description="Host port of Redis.")
    cassandra: Annotated[Port, Flag("--cassandra-port")] = Field(
        DEFAULT_CASSANDRA_PORT, description="Host port of the first Cassandra node; the others use the next ports."
    )
    pgbouncer: Annotated[Port, Flag("--pgbouncer-port")] = Field(
        DEFAULT_PGBOUNCER_PORT, description="Host port of PgBouncer."
    )
    example_replication: Annotated[Port, Flag("--example-replication-port")] = Field(
        DEFAULT_EXAMPLE_REPLICATION_PORT, description="Host port of the read/write split example."
    )
    example_sharding: Annotated[Port, Flag("--example-sharding-port")] = Field(
        DEFAULT_EXAMPLE_SHARDING_PORT, description="Host port of the consistent hashing example."
    )
    example_users: Annotated[Port, Flag("--example-users-port")] = Field(
        DEFAULT_EXAMPLE_USERS_PORT, description="Host port of the users example."
    )
    monitoring: Annotated[Port, Flag("--monitoring-port")] = Field(
        DEFAULT_MONITORING_PORT, description="Host port of Prometheus."
    )
    admin_api: Annotated[Port, Flag("--admin-port")] = Field(
        DEFAULT_ADMIN_PORT, description="Host port of the admin API."
    )


BuiltHere = Annotated[StrictStr, _refuse(reference_problem)] | None


class Images(_Model):
    """Images, each pinned by tag or digest."""

    citus: Annotated[StrictStr, _refuse(citus_image_problem), Flag("--citus-image")] = Field(
        DEFAULT_CITUS_IMAGE, description="Image of the coordinator and the workers."
    )
    pg_major: Annotated[Annotated[StrictInt, Field(ge=14, le=30)] | None, Flag("--pg-major")] = Field(
        None, description="PostgreSQL major version of the Citus image, if neither its name nor the image shows it."
    )
    pg14: Annotated[StrictStr, _refuse(pg14_image_problem), Flag("--pg14-image")] = Field(
        DEFAULT_PG14_IMAGE, description="Image of the PostgreSQL 14 pair: plain PostgreSQL, without Citus."
    )
    redis: Annotated[StrictStr, _refuse(redis_image_problem), Flag("--redis-image")] = Field(
        DEFAULT_REDIS_IMAGE, description="Image of Redis."
    )
    cassandra: Annotated[StrictStr, _refuse(cassandra_image_problem), Flag("--cassandra-image")] = Field(
        DEFAULT_CASSANDRA_IMAGE, description="Image of Cassandra."
    )
    pgbouncer: Annotated[StrictStr, _refuse(pgbouncer_image_problem), Flag("--pgbouncer-image")] = Field(
        DEFAULT_PGBOUNCER_IMAGE, description="Image of PgBouncer."
    )
    example_replication: Annotated[BuiltHere, Flag("--example-replication-image", default="built here")] = Field(
        None, description="Image of the read/write split example; by default it is built here."
    )
    example_sharding: Annotated[BuiltHere, Flag("--example-sharding-image", default="built here")] = Field(
        None, description="Image of the consistent hashing example; by default it is built here."
    )
    example_users: Annotated[BuiltHere, Flag("--example-users-image", default="built here")] = Field(
        None, description="Image of the users example; by default it is built here."
    )
    monitoring: Annotated[StrictStr, _refuse(monitoring_image_problem), Flag("--monitoring-image")] = Field(
        DEFAULT_MONITORING_IMAGE, description="Image of Prometheus."
    )
    admin_api: Annotated[BuiltHere, Flag("--admin-api-image", default="built here")] = Field(
        None, description="Image of the admin API; by default it is built from generated/admin-api."
    )


Megabytes = Annotated[StrictInt | float, Field(gt=0, allow_inf_nan=False)]


class Shared(_Model):
    """How the memory was shared, in MB. This is kept, because a server gets another share only by a restart."""

    memory_mb: StrictInt = Field(description="The memory that was divided; another memory_mb is divided again.")
    workers: Annotated[StrictInt, Field(ge=0)] = Field(description="Workers that connections are planned for.")
    clients: Annotated[StrictInt, Field(ge=0)] = Field(
        description="Clients of the coordinator, unless resources.connections sets them."
    )
    servers: dict[Server, Megabytes] = Field(
        description="MB of the coordinator, of each worker, and of each server without Citus (plain)."
    )
    nodes: dict[StrictStr, Megabytes] | None = Field(None, description="Workers that get less, by service name.")
    holds_shards: StrictBool | None = Field(None, description="True if the coordinator was planned without workers.")


class Resources(_Model):
    """Input of the tuning. Omitted values are detected once, and kept."""

    memory_mb: Annotated[
        Annotated[StrictInt, Field(ge=256, le=64 * 1024 * 1024)] | None,
        Flag(
            "--memory",
            default="the engine's",
            help="Memory of all services: in MB, as 8g, or auto to detect it again.",
        ),
    ] = Field(None, description="Memory that all services share, in MB; by default that of the engine.")
    cpus: Annotated[
        Annotated[StrictInt, Field(ge=1, le=4096)] | None,
        Flag("--cpus", default="the engine's", help="Number of processors of the engine, or auto to detect it again."),
    ] = Field(None, description="Number of processors of the engine.")
    detected: list[Literal["memory_mb", "cpus"]] = Field(
        default_factory=list, description="Which of these values were detected, not set by the user."
    )
    storage: Annotated[Storage, Flag("--storage")] = Field(
        Storage.SSD, description="Storage of the volumes: nvme, ssd or hdd."
    )
    workload: Annotated[Workload, Flag("--workload")] = Field(
        Workload.MIXED, description="Workload of the cluster: web, oltp, mixed or olap."
    )
    connections: Annotated[
        Annotated[StrictInt, Field(ge=5, le=10000)] | None,
        Flag(
            "--connections", default="by workload and memory", help="Number of client connections on the coordinator."
        ),
    ] = Field(
        None,
        description="Number of client connections on the coordinator; by default as many as workload and memory allow.",
    )
    shared: Shared | None = Field(
        None,
        description="How the memory is divided, kept so that growth restarts nothing; `citus-cluster retune` divides "
        "it again.",
    )


class Pg14(_Model):
    """The PostgreSQL 14 primary and replica."""

    replication: Annotated[
        Replication,
        Flag("--pg14-sync/--pg14-async", help="Whether a commit of the PostgreSQL 14 primary waits for its replica."),
    ] = Field(Replication.ASYNC, description="sync: a commit returns only when the replica has it on its disk too.")
    log: Annotated[
        Pg14Log,
        Flag("--pg14-log", help="Logging of the PostgreSQL 14 pair; verbose logs every statement and connection."),
    ] = Field(Pg14Log.STANDARD, description="verbose logs every statement and connection.")


class Redis(_Model):
    """Redis."""

    maxmemory_policy: MaxmemoryPolicy = Field(
        MaxmemoryPolicy.NOEVICTION, description="Behavior of a write when the memory is full."
    )


class Cassandra(_Model):
    """Cassandra."""

    nodes: Annotated[StrictInt, Field(ge=1, le=MAX_CASSANDRA_NODES), Flag("--cassandra-nodes")] = Field(
        1, description="Number of nodes in Cassandra's ring."
    )


class PgBouncer(_Model):
    """PgBouncer in front of the coordinator."""

    max_clients: Annotated[StrictInt, Field(ge=10, le=MAX_POOLED_CLIENTS)] = Field(
        1000, description="Clients that can be connected to PgBouncer at the same time."
    )


class Jwt(_Model):
    """JSON Web Tokens of the user's own issuer, which the admin API accepts beside its own tokens."""

    issuer: Annotated[StrictStr, Field(min_length=1)] = Field(description="Value of the claim iss.")
    audience: Annotated[StrictStr, Field(min_length=1)] = Field(description="Value that the claim aud must contain.")
    keys: Annotated[StrictStr, _refuse(names.key_source_problem)] = Field(
        description="Public keys of the issuer: the URL of its JWKS, or a file with a JWKS or a public key in PEM."
    )
    role_claim: Annotated[StrictStr, Field(min_length=1)] = Field(
        "role", description="Claim that holds the role; dots lead into objects (realm_access.roles)."
    )
    admin_values: list[Annotated[StrictStr, Field(min_length=1)]] = Field(
        default_factory=list, description="Values of that claim that allow changes."
    )
    read_values: list[Annotated[StrictStr, Field(min_length=1)]] = Field(
        default_factory=list, description="Values of that claim that allow reading."
    )

    @property
    def is_url(self) -> bool:
        """Whether ``keys`` is a URL, not a file."""
        return names.is_url(self.keys)


class AdminApi(_Model):
    """Who may call the admin API, in addition to the holders of its tokens."""

    cors_origins: list[Annotated[StrictStr, _refuse(names.origin_problem)]] = Field(
        default_factory=list,
        description="Origins of other web pages that may call the admin API (https://console.example.com); none by "
        "default.",
    )
    public_origins: list[Annotated[StrictStr, _refuse(names.origin_problem)]] = Field(
        default_factory=list,
        description="Origins at which browsers open the console through a proxy that changes the header Host "
        "(https://citus.example.com); none by default.",
    )
    jwt: Jwt | None = Field(
        None,
        description="Accept JWTs of your own issuer (issuer, audience, keys, role_claim, admin_values, read_values).",
    )


class Monitoring(_Model):
    """Prometheus, which keeps the figures of the cluster until they are too old or too many."""

    retention_days: Annotated[StrictInt, Field(ge=1, le=3650)] = Field(
        15, description="Days for which Prometheus keeps the figures."
    )
    retention_mb: Annotated[StrictInt, Field(ge=64, le=10_000_000)] = Field(
        1024, description="Disk space in MB that the figures take at most."
    )


class LogDriver(StrEnum):
    """Docker's logging driver for every container; ``engine`` uses the engine's own configuration."""

    JSON_FILE = "json-file"
    LOCAL = "local"
    ENGINE = "engine"


class Logging(_Model):
    """The logs of the containers, as ``docker compose logs`` shows them."""

    driver: LogDriver = Field(
        LogDriver.JSON_FILE,
        description="json-file, local, or engine for the engine's own configuration, without these limits.",
    )
    max_size_mb: Annotated[StrictInt, Field(ge=1, le=100_000)] = Field(
        20, description="Maximum size of a log file in MB."
    )
    max_files: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        5, description="Number of log files kept for each container."
    )


class NodeSettings(_Model):
    """The user's own PostgreSQL settings; they override the computed ones."""

    coordinator: Settings = Field(default_factory=dict, description="Settings of the coordinator.")
    worker: Settings = Field(default_factory=dict, description="Settings of every worker.")
    pg14: Settings = Field(default_factory=dict, description="Settings of the PostgreSQL 14 primary and replica.")
    nodes: dict[StrictStr, Settings] = Field(
        default_factory=dict, description="Settings of single nodes, by service name (citus-worker2)."
    )


class ClusterSpec(_Model):
    """Specification of one cluster on one host."""

    apiVersion: Literal["citus-cluster/v1"] = Field(description="Version of this format.")  # noqa: N815
    name: Annotated[StrictStr, _refuse(names.project_problem), Flag("--name")] = Field(
        "citus",
        description="Compose project name, part of the names of containers and volumes; it cannot change later.",
    )
    user: Annotated[StrictStr, _refuse(names.user_problem), Flag("--user")] = Field(
        "postgres", description="Superuser; it cannot change later."
    )
    database: Annotated[StrictStr, _refuse(names.database_problem), Flag("--db")] = Field(
        "postgres", description="Database of the superuser; it cannot change later."
    )
    services: Annotated[
        list[ComponentName] | None,
        Flag(
            "--services",
            default="all; citus without a coordinator",
            help=f"Services to run, out of {','.join(ComponentName)}; all stands for every service except "
            f"{_LEFT_OUT}; examples stands for the three examples.",
        ),
    ] = Field(
        None,
        description=f"Services to run: by default all except {_LEFT_OUT}, or only citus without a coordinator.",
    )
    coordinator: Annotated[
        StrictBool, Flag("--with-coordinator/--no-coordinator", default="with", help="Run the coordinator here.")
    ] = Field(True, description="Run the coordinator here; false on a host with only workers.")
    workers: Annotated[
        WorkerCount | list[WorkerNumber],
        Flag("--workers", help="Number of workers; with 0, the coordinator holds the shards itself."),
    ] = Field(2, description="Number of workers, or a list of worker numbers; 3 is short for [1, 2, 3].")
    bind: Annotated[StrictStr, _refuse(names.bind_problem), Flag("--bind")] = Field(
        "127.0.0.1",
        description="Address on which ports are published: 127.0.0.1 for this machine only, 0.0.0.0 for any interface.",
    )
    advertise: Annotated[
        Annotated[StrictStr, _refuse(names.advertise_problem)] | None, Flag("--advertise", default="none")
    ] = Field(
        None, description="Name or address at which other servers reach this one; Citus' ports are published on it."
    )
    ports: Ports = Field(default_factory=lambda: Ports.model_validate({}))
    images: Images = Field(default_factory=lambda: Images.model_validate({}))
    resources: Resources = Field(default_factory=lambda: Resources.model_validate({}))
    pg14: Pg14 = Field(default_factory=lambda: Pg14.model_validate({}))
    redis: Redis = Field(default_factory=lambda: Redis.model_validate({}))
    cassandra: Cassandra = Field(default_factory=lambda: Cassandra.model_validate({}))
    pgbouncer: PgBouncer = Field(default_factory=lambda: PgBouncer.model_validate({}))
    monitoring: Monitoring = Field(default_factory=lambda: Monitoring.model_validate({}))
    admin_api: AdminApi = Field(default_factory=lambda: AdminApi.model_validate({}))
    logging: Logging = Field(default_factory=lambda: Logging.model_validate({}))
    settings: NodeSettings = Field(default_factory=lambda: NodeSettings.model_validate({}))

    @property
    def worker_numbers(self) -> tuple[int, ...]:
        if isinstance(self.workers, int):
            return tuple(range(1, self.workers + 1))
        return tuple(sorted(self.workers))

    @property
    def wanted(self) -> tuple[ComponentName, ...]:
        """Wanted services, in the order of the enumeration."""
        chosen = self.services
        if chosen is None:
            chosen = list(DEFAULT_SERVICES if self.coordinator else DEFAULT_SERVICES_WITHOUT_COORDINATOR)
        return tuple(service for service in ComponentName if service in chosen)

    def as_data(self) -> dict[str, Any]:
        """Return plain data for ``cluster.yaml``: every value that is set, in the order of the models.

        For companions that are not wanted, only the values that differ from the defaults.
        """
        data = self.model_dump(mode="json", exclude_none=True)
        data["services"] = [service.value for service in self.wanted]
        default = ClusterSpec.model_construct().model_dump(mode="json", exclude_none=True)
        for name in (one.key for one in ComponentName if one not in {*_ADMINISTRATION, *self.wanted}):
            for group, key in ((data, name), (data["ports"], name), (data["images"], name)):
                usual = default if group is data else default["ports" if group is data["ports"] else "images"]
                if group.get(key) == usual.get(key):
                    group.pop(key, None)
        if data.get("admin_api") == default["admin_api"]:
            del data["admin_api"]
        if not data["resources"]["detected"]:
            del data["resources"]["detected"]
        settings = {role: values for role, values in data.pop("settings").items() if values}
        return data | ({"settings": settings} if settings else {})


def fields(model: type[BaseModel] = ClusterSpec, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Return every key of ``cluster.yaml``, dotted (``ports.citus``), with its declaration."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def flag_of(field: FieldInfo) -> Flag | None:
    """Return the option that sets a field; None for one that only ``cluster.yaml`` sets."""
    return next((one for one in field.metadata if isinstance(one, Flag)), None)


def option_of(group: type[BaseModel], key: str) -> str:
    """Return the name of the option that sets a key of a group. Raises LookupError if none is declared."""
    flag = flag_of(group.model_fields[key])
    if flag is None:
        raise LookupError(f"{group.__name__}.{key} declares no option")
    return flag.name


def written_default(field: FieldInfo) -> str:
    """Write a field's default as in ``cluster.yaml``; empty if it has none."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    written = str(default).lower() if isinstance(default, bool) else str(default)
    return "" if default in (None, {}, []) else written


def grown_workers(current: int | Sequence[int], count: int, taken: Collection[int] = ()) -> int | list[int]:
    """Return ``workers`` for ``count`` workers; ``current`` is the value of the specification now.

    New workers get numbers above all others, and above the ``taken`` ones: those of removed workers whose volumes
    still exist. A smaller count is returned unchanged; the caller must refuse it if the workers exist.
    """
    numbers = range(1, current + 1) if isinstance(current, int) else current
    if count < len(numbers):
        return count
    highest = max([*numbers, *taken] if count > len(numbers) else numbers, default=0)
    grown = [*numbers, *range(highest + 1, highest + 1 + count - len(numbers))]
    return count if isinstance(current, int) and grown == [*range(1, count + 1)] else grown


def with_workers(current: int | Sequence[int], numbers: Collection[int]) -> int | list[int]:
    """Return ``workers`` including these: a count, if it was one and still describes them."""
    own = range(1, current + 1) if isinstance(current, int) else current
    more = set(numbers) - set(own)
    grown = sorted({*own, *more}) if more else [*own]
    return len(grown) if isinstance(current, int) and grown == [*range(1, len(grown) + 1)] else grown


def without_worker(current: int | Sequence[int], number: int) -> int | list[int]:
    """Return ``workers`` without one of them: a count, as long as it describes them."""
    if isinstance(current, int):
        if number >= current:
            return min(current, number - 1)
        current = range(1, current + 1)
    return [one for one in current if one != number]


def json_schema() -> dict[str, Any]:
    """JSON Schema of ``cluster.yaml``, as published in config/cluster.schema.json."""
    schema = ClusterSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SPEC_FILE, **schema}
