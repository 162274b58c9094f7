"""The command ``setup``: parse what is given, plan, show, ask, write, and with --up start."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from citus_cluster.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    ShowSecretsOption,
    TimeoutOption,
    choose_format,
    option,
    redacted,
)
from citus_cluster.console import screen
from citus_cluster.console.screen import escape
from citus_cluster.errors import ConsentNeededError, ExitStatus, UsageError
from citus_cluster.model.images import DEFAULT_CASSANDRA_IMAGE, DEFAULT_PG14_IMAGE, DEFAULT_REDIS_IMAGE
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.services import Service
from citus_cluster.model.spec import (
    API_VERSION,
    DEFAULT_BASE_PORT,
    DEFAULT_SERVICES,
    ClusterSpec,
    Pg14Log,
    Replication,
    parse_spec,
)
from citus_cluster.model.tuning import Storage, Workload
from citus_cluster.model.units import count
from citus_cluster.operations.directory import read_spec
from citus_cluster.operations.request import SetupRequest
from citus_cluster.operations.setup import SetupPlan, apply_setup, plan_setup
from citus_cluster.render.bundle import API_CONTEXT_FOLDER
from citus_cluster.runtime import files, journal, secrets


def setup(
    workers: Annotated[int | None, option("--workers", help="Number of workers.", show_default="2")] = None,
    coordinator: Annotated[
        bool | None,
        option("--with-coordinator/--no-coordinator", help="Run the coordinator here.", show_default="with"),
    ] = None,
    port: Annotated[
        int | None, option("--port", help="Host port of the coordinator; worker i on it + i.", show_default="5434")
    ] = None,
    pg14_port: Annotated[
        int | None, option("--pg14-port", help="Host port of the PostgreSQL 14 primary.", show_default="5432")
    ] = None,
    redis_port: Annotated[int | None, option("--redis-port", help="Host port of Redis.", show_default="6379")] = None,
    cassandra_port: Annotated[
        int | None,
        option("--cassandra-port", help="Host port of Cassandra; further nodes on the next.", show_default="9042"),
    ] = None,
    admin_port: Annotated[
        int | None, option("--admin-port", help="Host port of the admin API.", show_default="8000")
    ] = None,
    user: Annotated[str | None, option("--user", help="Superuser.", show_default="postgres")] = None,
    database: Annotated[str | None, option("--db", help="Database.", show_default="postgres")] = None,
    password: Annotated[
        str | None, option("--pass", help="Password; it shows in the process list.", show_default="random")
    ] = None,
    password_file: Annotated[Path | None, option("--password-file", help="File that holds the password.")] = None,
    name: Annotated[str | None, option("--name", help="Compose project name.", show_default="citus")] = None,
    services: Annotated[
        str | None,
        option(
            "--services",
            help=f"Wanted services, of {','.join(Service)}; or all.",
            show_default="all; citus without a coordinator",
        ),
    ] = None,
    pg14_sync: Annotated[
        bool | None,
        option(
            "--pg14-sync/--pg14-async",
            help="Whether a commit of the PostgreSQL 14 primary waits for its replica.",
            show_default="async",
        ),
    ] = None,
    pg14_log: Annotated[
        Pg14Log | None, option("--pg14-log", help="What the PostgreSQL 14 pair logs.", show_default="standard")
    ] = None,
    cassandra_nodes: Annotated[
        int | None, option("--cassandra-nodes", help="Nodes of Cassandra's ring.", show_default="1")
    ] = None,
    citus_image: Annotated[
        str | None, option("--citus-image", help="Image of the nodes.", show_default="citusdata/citus:13.2.0")
    ] = None,
    pg14_image: Annotated[
        str | None, option("--pg14-image", help="Image of the PostgreSQL 14 pair.", show_default=DEFAULT_PG14_IMAGE)
    ] = None,
    redis_image: Annotated[
        str | None, option("--redis-image", help="Image of Redis.", show_default=DEFAULT_REDIS_IMAGE)
    ] = None,
    cassandra_image: Annotated[
        str | None, option("--cassandra-image", help="Image of Cassandra.", show_default=DEFAULT_CASSANDRA_IMAGE)
    ] = None,
    admin_api_image: Annotated[
        str | None, option("--admin-api-image", help="Ready image of the admin API.", show_default="built here")
    ] = None,
    pg_major: Annotated[
        int | None, option("--pg-major", help="PostgreSQL major of an image whose name does not tell.")
    ] = None,
    bind: Annotated[
        str | None, option("--bind", help="Address on which ports are published.", show_default="127.0.0.1")
    ] = None,
    advertise: Annotated[
        str | None, option("--advertise", help="Name or address under which other servers reach this one.")
    ] = None,
    memory: Annotated[
        str | None,
        option(
            "--memory", help="Memory for all services: MB, 8g, or auto to detect it again.", show_default="detected"
        ),
    ] = None,
    cpus: Annotated[
        str | None, option("--cpus", help="Processors, or auto to detect them again.", show_default="detected")
    ] = None,
    storage: Annotated[Storage | None, option("--storage", help="What the volumes lie on.", show_default="ssd")] = None,
    workload: Annotated[
        Workload | None, option("--workload", help="What the cluster is for.", show_default="mixed")
    ] = None,
    connections: Annotated[
        int | None, option("--connections", help="Client connections.", show_default="by workload and memory")
    ] = None,
    no_prompt: Annotated[bool, option("--no-prompt", help="Ask nothing.")] = False,
    yes: Annotated[bool, option("--yes", help="Agree to the changes that are shown.")] = False,
    force: Annotated[bool, option("--force", help="Agree, and replace files that were edited by hand.")] = False,
    dry_run: Annotated[
        bool, option("--dry-run", help="Show the plan; write nothing; exit 4 if something would change.")
    ] = False,
    format_: FormatOption = Format.TEXT,
    up: Annotated[bool, option("--up", help="Start and verify the cluster after writing.")] = False,
    timeout: TimeoutOption = 300,
    show_secrets: ShowSecretsOption = False,
    spec: Annotated[
        Path | None,
        option("--spec", help="Start from this specification.", show_default="cluster.yaml in the directory"),
    ] = None,
    output_dir: Annotated[Path, option("--output-dir", help="Where to write.", show_default="here")] = Path(),
    debug: DebugOption = False,
) -> None:
    """Generate everything that a Citus cluster on Docker Compose needs, and with --up start it."""
    given: dict[str, tuple[str, Any]] = {
        "workers": ("--workers", workers),
        "coordinator": ("--with-coordinator/--no-coordinator", coordinator),
        "ports.citus": ("--port", port),
        "ports.pg14": ("--pg14-port", pg14_port),
        "ports.redis": ("--redis-port", redis_port),
        "ports.cassandra": ("--cassandra-port", cassandra_port),
        "ports.admin_api": ("--admin-port", admin_port),
        "user": ("--user", user),
        "database": ("--db", database),
        "name": ("--name", name),
        "services": ("--services", None if services is None else _services(services)),
        "images.citus": ("--citus-image", citus_image),
        "pg14.replication": ("--pg14-sync/--pg14-async", None if pg14_sync is None else _replication(pg14_sync)),
        "pg14.log": ("--pg14-log", pg14_log and pg14_log.value),
        "cassandra.nodes": ("--cassandra-nodes", cassandra_nodes),
        "images.pg14": ("--pg14-image", pg14_image),
        "images.redis": ("--redis-image", redis_image),
        "images.cassandra": ("--cassandra-image", cassandra_image),
        "images.admin_api": ("--admin-api-image", admin_api_image),
        "images.pg_major": ("--pg-major", pg_major),
        "bind": ("--bind", bind),
        "advertise": ("--advertise", advertise),
        "resources.memory_mb": ("--memory", None if memory is None else _memory_mb(memory)),
        "resources.cpus": ("--cpus", None if cpus is None else _cpus(cpus)),
        "resources.storage": ("--storage", storage and storage.value),
        "resources.workload": ("--workload", workload and workload.value),
        "resources.connections": ("--connections", connections),
    }
    choose_format(format_)
    root = output_dir.absolute()
    given_password = _given_password(password, password_file)
    if sys.argv[1:] in ([], ["setup"]) and screen.interactive():
        answers, given_password, up = _guided(root)
        given |= {path: (origin, answers.get(path, value)) for path, (origin, value) in given.items()}
    redetect = {path for path in ("resources.memory_mb", "resources.cpus") if given[path][1] == "auto"}
    request = SetupRequest(
        root=root,
        spec_file=spec.absolute() if spec else None,
        values={path: value for path, (_, value) in given.items() if value is not None and path not in redetect},
        origins={path: origin for path, (origin, _) in given.items()},
        password=given_password,
        redetect=frozenset(path.removeprefix("resources.") for path in redetect),
        replace_edited=force,
    )
    if dry_run:
        _show_dry_run(plan_setup(request), format_)
    plan = _write(request, ask=not (no_prompt or yes or force), consent=yes or force, show=format_ is Format.TEXT)
    result: dict[str, Any] = {"setup": plan.as_dict()}
    if up:
        from citus_cluster.cli.cluster import start

        result["up"] = start(
            root,
            timeout_s=timeout,
            show_secrets=show_secrets,
            show=format_ is Format.TEXT,
            # The plan that was agreed to says what the new image means, and that it wants a backup.
            upgrade_citus=plan.upgrades_citus,
        )
    elif format_ is Format.TEXT:
        _print_next_steps(plan)
    if format_ is Format.JSON:
        screen.print_json(result)


def _write(request: SetupRequest, *, ask: bool, consent: bool, show: bool) -> SetupPlan:
    """Plan, show, ask and write. Usage errors come before the first byte, also of the lock, is written."""
    plan = plan_setup(request)
    if plan.nothing_to_do and not plan.unfinished:
        _show_plan(plan, show=show, diffs=False)
        return plan
    with files.locked(request.root):
        # Planned again under the lock: another run may have ended in between.
        plan = plan_setup(request)
        asked = plan.needs_consent and not consent and ask and screen.interactive() and not plan.replaced_edits
        _show_plan(plan, show=show, diffs=asked)
        if asked:
            consent = screen.confirm("Write these changes?")
            if not consent:
                raise ConsentNeededError("Nothing was written.", hint="Run the command again when you agree.")
        finishing = plan.unfinished  # a run that was killed could not record itself
        apply_setup(plan, consent=consent, replace_edited=request.replace_edited)
        if plan.all_changes or finishing:
            # The build context of the admin API's image is one thing to the reader of a journal.
            changed = dict.fromkeys(
                API_CONTEXT_FOLDER if change.path.startswith(f"{API_CONTEXT_FOLDER}/") else change.path
                for change in plan.all_changes
            )
            details = {"arguments": redacted(sys.argv[1:]), "files": list(changed)}
            journal.record(request.root, "setup", "done", details)
            if show and plan.all_changes:
                screen.err.print(f"Wrote {count(len(plan.all_changes), 'file')}.")
    return plan


def _show_plan(plan: SetupPlan, *, show: bool, diffs: bool, brief: bool = True) -> None:
    if show:
        screen.print_plan(plan, diffs=diffs, brief=brief)
    screen.print_warnings(plan.warnings)
    if show:
        screen.print_notes(plan.notes)


def _show_dry_run(plan: SetupPlan, format_: Format) -> None:
    if format_ is Format.JSON:
        screen.print_json(plan.as_dict())
    else:
        _show_plan(plan, show=True, diffs=True, brief=False)
        if not plan.nothing_to_do:
            screen.err.print("Nothing was written (--dry-run).")
    raise typer.Exit(ExitStatus.DONE if plan.nothing_to_do else ExitStatus.WOULD_CHANGE)


def _print_next_steps(plan: SetupPlan) -> None:
    lines = {
        "docker compose up -d --wait": "starts everything",
        "citus-cluster up": "the same, with checks, progress and a verification",
    }
    lines = {screen.pasteable(command, plan.root): meaning for command, meaning in lines.items()}
    if plan.topology.coordinator is None:
        lines |= {
            f"python add_worker.py --host {worker.address.host} --port {worker.address.port}": "on the coordinator's "
            "server, once the worker runs"
            for worker in plan.topology.workers
        }
    width = max(len(command) for command in lines)
    screen.out.print("Next:")
    for command, meaning in lines.items():
        screen.out.print(f"  {escape(command):<{width}}   # {meaning}")


def _services(text: str) -> list[str]:
    if text.strip() == "":
        raise UsageError("--services is empty: name at least one of " + ", ".join(Service) + ".")
    if text.strip() == "all":
        return [service.value for service in Service]
    services = [part.strip() for part in text.split(",") if part.strip()]
    if "all" in services:
        raise UsageError("--services: 'all' stands alone.", hint="Write --services=all, or name the services.")
    return services


def _replication(synchronous: bool) -> str:
    return (Replication.SYNC if synchronous else Replication.ASYNC).value


def _memory_mb(text: str) -> int | str:
    """Read ``8192`` (MB), ``8192m``, ``8g`` or ``auto``."""
    lowered = text.strip().lower().removesuffix("b")
    if lowered == "auto":
        return "auto"
    number, factor = (lowered[:-1], 1024) if lowered.endswith("g") else (lowered.removesuffix("m"), 1)
    with suppress(ValueError, OverflowError):
        return int(float(number) * factor) if factor > 1 else int(number)
    raise UsageError(f"--memory: {text!r} is no amount of memory.", hint="Write MB (8192), 8g, or auto.")


def _cpus(text: str) -> int | str:
    if text.strip().lower() == "auto":
        return "auto"
    with suppress(ValueError):
        return int(text)
    raise UsageError(f"--cpus: {text!r} is no number of processors.", hint="Write a whole number from 1 on, or auto.")


def _given_password(password: str | None, password_file: Path | None) -> str | None:
    if password is not None and password_file is not None:
        raise UsageError("--pass and --password-file are both given.", hint="Give one of them; the file is safer.")
    if password_file is not None:
        text = secrets.read_password_file(password_file)
        if not text:
            raise UsageError(f"The password file {password_file} is empty.", hint="Write the password into it.")
        return text
    if password is not None and any(argument.split("=")[0] == "--pass" for argument in sys.argv[1:]):
        screen.print_warnings(
            ["--pass shows in the process list and in the shell's history; --password-file does not."]
        )
    return password


def _checked(path: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Check an answer when it is given, by the specification's own rules."""

    def check(text: str) -> Any:
        try:
            value = read(text)
            parse_spec({"apiVersion": API_VERSION, path: value}, origins={path: "answer"}, source="")
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a whole number.") from None
        except UsageError as error:
            raise typer.BadParameter("; ".join(error.details) or error.message) from None
        return value

    return check


def _checked_port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise typer.BadParameter(f"{text!r} is not a port: ports go from 1 to 65535.")
    return int(text)


def _guided(root: Path) -> tuple[dict[str, Any], str | None, bool]:
    """Ask the few things that matter; Enter takes the default."""
    own = root / SPEC_FILE
    now: ClusterSpec | None = parse_spec(read_spec(own, SPEC_FILE)) if own.exists() else None
    screen.err.print("A Citus cluster on Docker Compose. Enter takes the value in brackets.")
    default = str(len(now.worker_numbers) if now else 2)
    workers = typer.prompt("Workers", default=default, value_proc=_checked("workers", int), err=True)
    chosen = ",".join(now.wanted if now else DEFAULT_SERVICES)
    services = typer.prompt("Services", default=chosen, value_proc=_checked("services", _services), err=True)
    base = str(now.ports.citus if now else DEFAULT_BASE_PORT)
    port = typer.prompt("Port of the coordinator", default=base, value_proc=_checked_port, err=True)
    password = None
    if secrets.saved(root, secrets.SUPERUSER_PASSWORD) is None:
        password = typer.prompt(
            "Password (Enter makes a random one)", default="", hide_input=True, show_default=False, err=True
        )
    up = typer.confirm("Start it now?", default=True, err=True)
    return {"workers": workers, "services": services, "ports.citus": port}, password or None, up
