"""Update the generated parts of the documents and of config/: `make docs`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parser_support import parser_of

from citus_cluster.cli import program
from citus_cluster.model.spec import json_schema
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.reference import render_example, render_tables, table, with_tables
from tools import grafana_dashboard

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENT = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "config" / "cluster.schema.json"
EXAMPLE = ROOT / "config" / "cluster.full.yaml"
DASHBOARD = ROOT / "config" / "monitoring" / "grafana-dashboard.json"


def generated() -> Mapping[Path, str]:
    """Return the text of each file that is generated from the code, completely or in part."""
    return {
        README: with_tables(README.read_text(encoding="utf-8"), {"flags": flags_table()}),
        DOCUMENT: with_tables(DOCUMENT.read_text(encoding="utf-8"), render_tables()),
        SCHEMA: json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        EXAMPLE: render_example(load_yaml(EXAMPLE.read_text(encoding="utf-8"), EXAMPLE.name)),
        DASHBOARD: grafana_dashboard.text(),
    }


def flags_table() -> str:
    """Return the table of all options of setup_citus_cluster.py, from its parser."""
    options = [one for one in parser_of(program.setup_main).params if one.param_type_name == "option"]
    return table(("Option", "Default", "Meaning"), [(_flags(one), _default(one), one.help) for one in options])


def _flags(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar}"
    return ", ".join(f"`{flag}{value}`" for flag in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    return "" if option.is_flag or option.default is None else str(option.default)


def main() -> None:
    for path, text in generated().items():
        changes = not path.exists() or path.read_text(encoding="utf-8") != text
        if changes:
            path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {'updated' if changes else 'nothing to do'}")


if __name__ == "__main__":
    main()
