"""PgBouncer's settings and scripts mean the same as the code."""

import re
from types import SimpleNamespace

from setup_support import ROOT

from citus_cluster.model.names import database_problem
from citus_cluster.model.pooling import AUTH_DATABASE, CONSOLE_DATABASE, POOLER_ROLE, Pool
from citus_cluster.render.templates import environment
from citus_cluster.runtime.citus.pooling import FUNCTION

CONFIG = ROOT / "config"


def test_the_settings_and_the_code_mean_the_same_names() -> None:
    settings = "".join(path.read_text() for path in CONFIG.glob("pgbouncer*"))
    assert f"auth_user = {POOLER_ROLE}\n" in settings
    assert f"auth_dbname = {AUTH_DATABASE}\n" in settings
    assert re.search(rf"^{re.escape(AUTH_DATABASE)} = ", settings, re.MULTILINE)
    assert f"FROM {FUNCTION.removesuffix('(text)')}($1)" in settings
    assert re.search(rf"^host +{CONSOLE_DATABASE} +{POOLER_ROLE} ", settings, re.MULTILINE)
    assert database_problem(AUTH_DATABASE), "no database of a cluster may have this name"


def test_the_start_script_finds_where_the_address_goes() -> None:
    templates = {path.name: path.read_text() for path in CONFIG.glob("pgbouncer*")}
    text = (
        environment(templates)
        .get_template("pgbouncer-databases.ini")
        .render(facts=SimpleNamespace(pool=Pool(1000, 20, 15)), topology=SimpleNamespace(database="shop"))
    )
    lines = [line for line in text.splitlines() if not line.startswith((";", "["))]
    assert len(lines) == 2
    assert all(line.count("=ADDRESS ") == 1 and line.count(" port=5432 ") == 1 for line in lines)
