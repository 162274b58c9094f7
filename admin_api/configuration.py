"""The container's configuration files, which are read again whenever they change on the host."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from admin_api.settings import Settings
from citus_cluster.errors import CitusClusterError, SpecError
from citus_cluster.model.api_config import CLUSTER_FILE, JWT_KEYS_FILE, TOKENS_FILE, ApiConfig, ApiTokens
from citus_cluster.model.api_tokens import NamedTokens
from citus_cluster.model.component import Secret
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPANIONS, COMPONENTS
from citus_cluster.model.names import without_line_end
from citus_cluster.model.token_role import NAMED_TOKENS_FILE

if TYPE_CHECKING:
    from admin_api.jwt_keys import Key

T = TypeVar("T")
Signature = tuple[int, int, int]


class ConfigurationError(CitusClusterError):
    """The admin API cannot read its configuration."""

    code = "configuration"
    http_status = 503


class _WatchedFile(Generic[T]):
    """One file, parsed once for each of its versions.

    The host replaces the file by rename, so inode, size and modification time together distinguish versions.
    ``without`` is the value without a file; by default, the file must exist.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T], *, without: T | None = None) -> None:
        self._path = path
        self._parse = parse
        self._without = without
        self._read: tuple[Signature, T] | None = None

    def value(self) -> T:
        try:
            status = self._path.stat()
            signature = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._read and self._read[0] == signature:
                return self._read[1]
            content = self._path.read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._without is not None:
                return self._without
            raise ConfigurationError(
                f"{self._path} cannot be read: {error.strerror}.",
                hint="Run setup_citus_cluster.py again, then docker compose up -d",
            ) from error
        try:
            value = self._parse(content)
        except SpecError as error:
            raise ConfigurationError(error.message, hint=error.hint, details=error.details) from error
        self._read = (signature, value)
        return value


class Configuration:
    """The desired cluster, the tokens and the passwords in the current files."""

    def __init__(self, settings: Settings) -> None:
        self._cluster = _WatchedFile(settings.config_dir / CLUSTER_FILE, ApiConfig.from_json)
        self._tokens = _WatchedFile(settings.config_dir / TOKENS_FILE, ApiTokens.from_json)
        self._named_tokens = _WatchedFile(
            settings.config_dir / NAMED_TOKENS_FILE, NamedTokens.from_json, without=NamedTokens()
        )
        self._jwt_keys = _WatchedFile(settings.config_dir / JWT_KEYS_FILE, _keys)
        self._password = _WatchedFile(settings.password_file, _password)
        # Compose mounts them side by side, under their names.
        mounted = {one.name for service in COMPANIONS for one in COMPONENTS[service].secrets if one.for_admin_api}
        self._secrets = {name: _WatchedFile(settings.password_file.with_name(name), _password) for name in mounted}

    def cluster(self) -> ApiConfig:
        """Return the desired cluster. Raises ConfigurationError."""
        return self._cluster.value()

    def tokens(self) -> ApiTokens:
        """Return the hashes of the tokens. Raises ConfigurationError."""
        return self._tokens.value()

    def named_tokens(self) -> NamedTokens:
        """Return the hashes of the named tokens. Raises ConfigurationError."""
        return self._named_tokens.value()

    def jwt_keys(self) -> "tuple[Key, ...]":
        """Return the public keys of the issuer that come from a file. Raises ConfigurationError."""
        return self._jwt_keys.value()

    def password(self) -> str:
        """Return the superuser's password. Raises ConfigurationError."""
        return self._password.value()

    def secret(self, secret: Secret) -> str:
        """Return a secret that is mounted here. Raises ConfigurationError."""
        return self._secrets[secret.name].value()

    def password_of(self, companion: ComponentName) -> str:
        """Return the password of a service beside Citus, empty if it has none. Raises ConfigurationError."""
        password = COMPONENTS[companion].password
        return self.secret(password) if password else ""


def _keys(content: bytes) -> "tuple[Key, ...]":
    from admin_api.jwt_keys import parse_keys

    return parse_keys(content)


def _password(content: bytes) -> str:
    """Return the content without the line break at its end that an editor may have added."""
    try:
        return without_line_end(content.decode())
    except UnicodeDecodeError:
        raise ConfigurationError("A password file is not UTF-8 text.") from None
