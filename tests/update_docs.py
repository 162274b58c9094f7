"""Write what is generated from the code into docs/configuration.md and config/cluster.schema.json: `make docs`."""

import json
from pathlib import Path

from citus_cluster.model.spec import json_schema
from citus_cluster.render.reference import render_tables, with_tables

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "config" / "cluster.schema.json"


def main() -> None:
    _write(DOCUMENT, with_tables(DOCUMENT.read_text(encoding="utf-8"), render_tables()))
    _write(SCHEMA, json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    changes = not path.exists() or path.read_text(encoding="utf-8") != text
    if changes:
        path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {'updated' if changes else 'nothing to do'}")


if __name__ == "__main__":
    main()
