"""How this machine reaches the admin API of a cluster: its published port, and a token from a file."""

from pathlib import Path

from citus_cluster.errors import UsageError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.operations.directory import load
from citus_cluster.runtime.api_client import ApiClient
from citus_cluster.runtime.store.secrets import ADMIN_TOKEN


def api_client(root: Path, url: str | None, token_file: Path | None) -> ApiClient:
    """Return the client for the API of the directory ``root``, or for ``url``, with a token from a file.

    Raises UsageError if there is no API, or no token.
    """
    if url is None:
        topology = load(root).topology
        service = next(iter(topology.of(ComponentName.ADMIN_API)), None)
        if service is None:
            raise UsageError(
                "The admin API is not enabled in this directory.",
                hint="Add admin-api to the services: python setup_citus_cluster.py --services=...,admin-api --yes --up",
            )
        host = f"[{topology.connect_host}]" if ":" in topology.connect_host else topology.connect_host
        url = f"http://{host}:{service.host_port}"
    return ApiClient(url, _read(token_file or root / ADMIN_TOKEN))


def _read(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The token in {file} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}.",
            hint="Name a file with a token: --token-file. To create a token: citus-cluster tokens create NAME",
        ) from error
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(f"{file} does not hold a token.", hint="To create one: citus-cluster tokens create NAME")
    return token
