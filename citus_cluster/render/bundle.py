"""The bundle of one host: every generated file, from the topology, as path -> content and mode.

Secrets are not among them: those are made once and kept by runtime/secrets.py.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from citus_cluster.model.api_config import ApiConfig, ApiTokens, CompanionAddresses, hash_token
from citus_cluster.model.changes import WantedFile, digest
from citus_cluster.model.companions import CASSANDRA_PORT, REDIS_PORT
from citus_cluster.model.layout import COMPOSE_FILE, SPEC_FILE
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.topology import POSTGRES_PORT, Node, Role, Topology
from citus_cluster.render.compose import render_compose
from citus_cluster.render.settings import render_pg_hba, render_postgresql_conf
from citus_cluster.render.templates import environment

ENV_FILE = ".env"
GITIGNORE_FILE = ".gitignore"
MANIFEST_FILE = "generated/manifest.json"
CONFIG_FOLDER = "generated/config"
API_CONTEXT_FOLDER = "generated/admin-api"

_IGNORED = (
    ".env",
    COMPOSE_FILE,
    SPEC_FILE,
    "generated/",
    "dist/",
    ".citus-cluster.lock",
    ".citus-cluster.staging-*",  # a run that was killed leaves it behind, with passwords
    "*.bak*",
)


@dataclass(frozen=True)
class Sources:
    """Texts that are rendered or copied, read by runtime/resources.py.

    ``compose`` and ``config`` are templates by file name, ``initdb`` scripts by file name,
    ``api_context`` the files of the admin API's build context by path (render/api_context.py).
    """

    compose: Mapping[str, str]
    config: Mapping[str, str]
    initdb: Mapping[str, str]
    api_context: Mapping[str, bytes]


def render_bundle(
    topology: Topology,
    sources: Sources,
    *,
    tokens: Mapping[str, str],
    redis_password: str | None,
    gitignore: str | None,
) -> dict[str, WantedFile]:
    """Render every file that the manifest tracks, and .gitignore, which is shared with the user.

    ``tokens`` are the admin API's by role; of them and of the password of Redis only hashes are written.
    ``gitignore`` is the text that is there already.
    """
    files: dict[str, WantedFile] = {}
    companions = dict(_companion_files(topology, sources))
    context = sources.api_context if topology.admin_api and not topology.admin_api.image else {}
    files[COMPOSE_FILE] = _text(
        render_compose(
            topology,
            sources.compose,
            init_scripts=sorted(sources.initdb),
            admin_api_context_hash=texts_hash({path: digest(file) for path, file in sources.api_context.items()}),
            companion_hashes=_restart_hashes(companions),
        )
    )
    files[ENV_FILE] = WantedFile(render_env(topology).encode(), mode=0o600)
    for node in topology.nodes:
        if f"{CONFIG_FOLDER}/{node.config}/postgresql.conf" not in files:
            files |= dict(_node_files(topology, node, sources))
    files |= companions
    if topology.redis:
        assert redis_password is not None, "secrets follow from the services"  # noqa: S101
        acl = environment(sources.config).get_template("redis-users.acl")
        files[f"{CONFIG_FOLDER}/{topology.redis.config}/users.acl"] = _text(
            acl.render(password_sha256=digest(redis_password.encode()))
        )
    if topology.admin_api:
        files[f"{CONFIG_FOLDER}/admin-api/cluster.json"] = _text(_api_config(topology).to_json())
        files[f"{CONFIG_FOLDER}/admin-api/tokens.json"] = _text(
            ApiTokens(**{role: hash_token(token) for role, token in tokens.items()}).to_json()
        )
    files |= {f"{API_CONTEXT_FOLDER}/{path}": WantedFile(content) for path, content in context.items()}
    files[GITIGNORE_FILE] = WantedFile(merge_gitignore(gitignore).encode(errors="surrogateescape"), tracked=False)
    return files


def texts_hash(texts: Mapping[str, str]) -> str:
    """Hash texts and their names, so it is the same on every host."""
    found = hashlib.sha256()
    for name, text in sorted(texts.items()):
        found.update(f"{name}\0{len(text)}\0{text}".encode())
    return found.hexdigest()


def render_env(topology: Topology) -> str:
    """Render .env: what Compose reads, and what people and scripts look for; never a secret."""
    values = {
        "COMPOSE_PROJECT_NAME": topology.name,
        "COMPOSE_PROFILES": ",".join(topology.services),
        "POSTGRES_USER": topology.user,
        "POSTGRES_DB": topology.database,
    }
    for member in topology.members:
        values[member.service.upper().replace("-", "_") + "_PORT"] = str(member.host_port)
    lines = "".join(f"{name}={value}\n" for name, value in values.items())
    return f"# Written by setup_citus_cluster.py. Passwords are in generated/secrets/.\n{lines}"


def merge_gitignore(existing: str | None) -> str:
    """Add what git must not keep to the user's own .gitignore, and leave the rest as it is."""
    if existing is None:
        return "# What setup_citus_cluster.py writes holds passwords, or follows from cluster.yaml.\n" + "".join(
            f"{line}\n" for line in _IGNORED
        )
    present = {line.strip().strip("/") for line in existing.splitlines()}
    missing = [line for line in _IGNORED if line.strip("/") not in present]
    if not missing:
        return existing
    separator = "" if existing.endswith("\n") or not existing else "\n"
    return existing + separator + "".join(f"{line}\n" for line in missing)


def _node_files(topology: Topology, node: Node, sources: Sources) -> Iterable[tuple[str, WantedFile]]:
    folder = f"{CONFIG_FOLDER}/{node.config}"
    template = "coordinator.conf" if node.role is Role.COORDINATOR else "worker.conf"
    yield f"{folder}/postgresql.conf", _text(render_postgresql_conf(sources.config, template, node.settings))
    yield f"{folder}/pg_hba.conf", _text(render_pg_hba(sources.config))
    yield f"{folder}/healthcheck.sh", _text(sources.config["healthcheck.sh"])
    for name, text in sources.initdb.items():
        yield f"{folder}/initdb/{name}", _text(text)


def _companion_files(topology: Topology, sources: Sources) -> Iterable[tuple[str, WantedFile]]:
    """Give the settings and scripts of each companion; ``config/pg14-start.sh`` becomes ``pg14/start.sh``."""
    jinja = environment(sources.config)
    if topology.pg14:
        folder = f"{CONFIG_FOLDER}/{topology.pg14[0].config}"
        conf = render_postgresql_conf(sources.config, "pg14.conf", topology.pg14[0].settings)
        yield f"{folder}/postgresql.conf", _text(conf)
        yield f"{folder}/pg_hba.conf", _text(jinja.get_template("pg14_hba.conf").render())
    if topology.redis:
        text = jinja.get_template("redis.conf").render(redis=topology.redis)
        yield f"{CONFIG_FOLDER}/{topology.redis.config}/redis.conf", _text(text)
    if topology.cassandra:
        folder = f"{CONFIG_FOLDER}/{topology.cassandra[0].config}"
        yield f"{folder}/cassandra.yaml", _text(jinja.get_template("cassandra.yaml").render(topology=topology))
        yield f"{folder}/ring.txt", _text(jinja.get_template("cassandra-ring.txt").render(topology=topology))
    for config in dict.fromkeys(member.config for member in topology.companions):
        for name, text in sources.config.items():
            if name.startswith(f"{config}-") and name.endswith(".sh"):
                yield f"{CONFIG_FOLDER}/{config}/{name.removeprefix(f'{config}-')}", _text(text)


def _restart_hashes(files: Mapping[str, WantedFile]) -> Mapping[str, str]:
    """Hash, for each companion's folder, what its server reads at its start only."""
    folders: dict[str, dict[str, str]] = {}
    for path, file in files.items():
        folder, name = path.removeprefix(f"{CONFIG_FOLDER}/").split("/", 1)
        # A node that a grown ring restarts would be away while the new one joins.
        if name not in {"postgresql.conf", "pg_hba.conf", "healthcheck.sh", "ring.txt"}:
            folders.setdefault(folder, {})[name] = file.content.decode()
    return {folder: texts_hash(texts)[:16] for folder, texts in folders.items()}


def _api_config(topology: Topology) -> ApiConfig:
    coordinator = topology.coordinator
    assert coordinator is not None, "the specification refuses an admin API without a coordinator"  # noqa: S101
    return ApiConfig(
        cluster=topology.name,
        user=topology.user,
        database=topology.database,
        coordinator=NodeAddress(coordinator.service, POSTGRES_PORT),
        coordinator_address=coordinator.address,
        workers=tuple(worker.address for worker in topology.workers),
        companions=CompanionAddresses(
            pg14=tuple(NodeAddress(server.service, POSTGRES_PORT) for server in topology.pg14),
            pg14_synchronous=topology.pg14_synchronous,
            redis=NodeAddress(topology.redis.service, REDIS_PORT) if topology.redis else None,
            cassandra=tuple(NodeAddress(node.service, CASSANDRA_PORT) for node in topology.cassandra),
        ),
    )


def _text(text: str) -> WantedFile:
    return WantedFile(text.encode())
