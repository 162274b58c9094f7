"""The bundle of one host: every generated file, from the topology, as path -> content and mode.

Secrets are not among them: runtime/store/secrets.py generates them once and keeps them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from citus_cluster.model.component import ConfigFile, Reread, Service
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.layout import COMPOSE_FILE, SPEC_FILE
from citus_cluster.model.plan.changes import WantedFile, digest
from citus_cluster.model.topology import Topology
from citus_cluster.render.compose import render_compose
from citus_cluster.render.settings import grouped
from citus_cluster.render.templates import environment

ENV_FILE = ".env"
GITIGNORE_FILE = ".gitignore"
CONFIG_FOLDER = "generated/config"

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
    """Texts to render or copy, read by runtime/store/resources.py.

    ``compose`` and ``config`` are templates by file name, ``initdb`` scripts by file name,
    ``contexts`` the files of each image's build context, by ``Component.context`` and path.
    """

    compose: Mapping[str, str]
    config: Mapping[str, str]
    initdb: Mapping[str, str]
    contexts: Mapping[str, Mapping[str, bytes]]


def render_bundle(
    topology: Topology,
    sources: Sources,
    *,
    digests: Mapping[str, str],
    gitignore: str | None,
    copies: Mapping[str, str] | None = None,
) -> dict[str, WantedFile]:
    """Render every file that the manifest tracks, and .gitignore, which is shared with the user.

    ``digests`` are the SHA-256 of the secrets, by name; nothing else of a secret is written.
    ``gitignore`` is the existing text, ``copies`` those of the user's files that containers get, by ``copy_of``.
    """
    config: dict[str, WantedFile] = {}
    start_hashes: dict[str, str] = {}
    # Services with the same folder mount the same files.
    for folder, service in {service.config: service for service in reversed(topology.services)}.items():
        texts = {file.name: _render(file, topology, service, sources, digests, copies or {}) for file in service.files}
        at_start = {file.name: texts[file.name] for file in service.files if file.reread is Reread.START}
        if at_start:
            start_hashes[folder] = texts_hash(at_start)[:16]
        texts |= {f"initdb/{name}": text for name, text in sources.initdb.items() if service.initdb}
        config |= {f"{CONFIG_FOLDER}/{folder}/{name}": _text(text) for name, text in texts.items()}
    building = [service for service in topology.services if service.image is None]
    contexts = {service.name: sources.contexts[str(COMPONENTS[service.component].context)] for service in building}
    compose = render_compose(
        topology,
        sources.compose,
        init_scripts=sorted(sources.initdb),
        built_images={name: _built_image(name, context) for name, context in contexts.items()},
        start_hashes=start_hashes,
    )
    return {
        COMPOSE_FILE: _text(compose),
        ENV_FILE: WantedFile(render_env(topology).encode(), mode=0o600),
        **config,
        **{
            f"{COMPONENTS[service.component].context_folder()}/{path}": WantedFile(content)
            for service in building
            for path, content in contexts[service.name].items()
        },
        GITIGNORE_FILE: WantedFile(merge_gitignore(gitignore).encode(errors="surrogateescape"), tracked=False),
    }


def _render(
    file: ConfigFile,
    topology: Topology,
    service: Service,
    sources: Sources,
    digests: Mapping[str, str],
    copies: Mapping[str, str],
) -> str:
    """Return the text of one file of a service's folder."""
    if file.copy_of:
        return copies[file.copy_of]
    if not file.template:
        return COMPONENTS[service.component].text(file, topology, digests)
    if file.verbatim or file.template.endswith(".sh"):
        return sources.config[file.template]
    template = environment(sources.config).get_template(file.template)
    groups = grouped(service.settings)
    return template.render(topology=topology, service=service, facts=service.facts, groups=groups, digests=digests)


def _built_image(service: str, context: Mapping[str, bytes]) -> str:
    """Return the name of an image that is built here, which contains the hash of its build context.

    So a changed context is built again, and an unchanged one is not, even in a copy of the directory.
    """
    return f"citus-cluster-{service}:{texts_hash({path: digest(file) for path, file in context.items()})[:12]}"


def texts_hash(texts: Mapping[str, str]) -> str:
    """Hash texts and their names; the result is the same on every host."""
    found = hashlib.sha256()
    for name, text in sorted(texts.items()):
        found.update(f"{name}\0{len(text)}\0{text}".encode())
    return found.hexdigest()


def render_env(topology: Topology) -> str:
    """Render .env: values for Compose, people and scripts, but never a secret."""
    values = {
        "COMPOSE_PROJECT_NAME": topology.name,
        "COMPOSE_PROFILES": ",".join(topology.components),
        "POSTGRES_USER": topology.user,
        "POSTGRES_DB": topology.database,
    }
    for service in topology.services:
        values[service.name.upper().replace("-", "_") + "_PORT"] = str(service.host_port)
    lines = "".join(f"{name}={value}\n" for name, value in values.items())
    return f"# Written by setup_citus_cluster.py. Passwords are in generated/secrets/.\n{lines}"


def merge_gitignore(existing: str | None) -> str:
    """Add the files that git must not keep to the user's .gitignore, and leave the rest unchanged."""
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


def _text(text: str) -> WantedFile:
    return WantedFile(text.encode())
