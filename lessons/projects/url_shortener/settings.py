"""What the command line sets. A value reaches the server's processes through one environment variable."""

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "URL_SHORTENER_SETTINGS"


@dataclass(frozen=True)
class Settings:
    """``database`` is a URL of PostgreSQL; empty for the SQLite file in ``data``; no ``schema`` is
    the role's own. No ``redis`` means none is used."""

    data: str
    base_url: str
    database: str = ""
    schema: str = ""
    redis: str = ""
    ip_ranges: str = ""
    sync: bool = False
    limit: int = 10
    window_s: float = 60.0
    collect_every_s: float = 0.2

    def export(self) -> None:
        os.environ[VARIABLE] = json.dumps(asdict(self))


def exported_settings() -> Settings:
    return Settings(**json.loads(os.environ[VARIABLE]))
