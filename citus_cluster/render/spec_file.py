"""The text of cluster.yaml: written with comments the first time, then changed value by value."""

import io
import re
from collections.abc import Iterator
from typing import Any

import yaml

from citus_cluster.errors import SpecError
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.yaml_text import load_yaml

_HEADER = """\
# The desired state of the cluster. Edit this file, then run setup_citus_cluster.py again.
# docs/configuration.md describes every key; config/cluster.schema.json is the schema.
"""
_COMMENTS = {
    "name": "Compose project; it names containers and volumes, so it cannot change later",
    "user": "superuser, and its database; neither can change later",
    "services": "what runs here",
    "workers": "a count, or the numbers of the workers",
    "bind": "address on which ports are published",
    "ports": "the coordinator is on this port, worker i on this port + i",
    "resources": "input of the tuning; values listed under 'detected' were detected once",
    "pg14": "replication: async, or sync (a commit waits for the replica); log: standard, or verbose",
    "redis": "what happens to a write when its memory is full",
    "cassandra": "nodes of its ring",
    "pgbouncer": "clients that can be connected at the same time",
    "admin_api": "other web pages (cors_origins), proxies (public_origins), JWTs of your own issuer (jwt)",
    "monitoring": "how long, and how much, Prometheus keeps",
    "logging": "logs of the containers; driver: json-file, local, or engine (what the Docker engine is set to)",
    "settings": "your own PostgreSQL settings; they override the computed ones",
}


def render_spec(spec: ClusterSpec, existing: str | None) -> str:
    """Return the text of cluster.yaml for ``spec``.

    If the ``existing`` text means the same, it is returned unchanged; otherwise only the values that
    differ are changed, and the comments stay.
    """
    data = spec.as_data()
    if existing is None or not existing.strip():
        return _fresh(data)
    if load_yaml(existing, SPEC_FILE) == data:
        return existing
    return _changed(existing, data)


def _fresh(data: dict[str, Any]) -> str:
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    for key, comment in _COMMENTS.items():
        text = re.sub(rf"^{key}:", f"\n# {comment}\n{key}:", text, count=1, flags=re.MULTILINE)
    return _HEADER + text


def _changed(existing: str, data: dict[str, Any]) -> str:
    # Imported here, because a run that changes nothing does not need it.
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 120
    document = editor.load(existing)
    if (shorter := _without_removed(existing, document, data)) != existing:
        document = editor.load(shorter)
    _update(document, data)
    out = io.StringIO()
    editor.dump(document, out)
    return out.getvalue()


def _without_removed(text: str, document: Any, data: dict[str, Any]) -> str:
    """Remove the lines of keys that are not in ``data``, each with the comment right above it.

    ruamel.yaml attaches a comment to the key before it, and would leave that of the removed key to the next one.
    """
    lines = text.split("\n")
    gone: set[int] = set()
    for first, indent in _removed(document, data):
        above = first
        while above and lines[above - 1].startswith(f"{' ' * indent}#"):
            above -= 1
        # A comment at the very top is about the whole file.
        gone.update(range(above or first, _end_of_value(lines, first, indent)))
    shorter = "\n".join(line for number, line in enumerate(lines) if number not in gone)
    try:
        same = _common(load_yaml(shorter, ""), data) == _common(load_yaml(text, ""), data)
    except SpecError:  # for example an alias of a removed value
        same = False
    return shorter if same else text


def _removed(document: Any, data: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Return line and indentation of every key that is not in ``data``, if each key has its own line."""
    if document.fa.flow_style():
        return
    for key, value in document.items():
        if key not in data:
            if key in document.lc.data:  # and not merged from elsewhere
                yield document.lc.key(key)
        elif isinstance(value, dict) and isinstance(data[key], dict):
            yield from _removed(value, data[key])


def _end_of_value(lines: list[str], first: int, indent: int) -> int:
    """Return the number of the line after a key's value: the next that is not indented deeper, or its comments."""
    end = first + 1
    for number, line in enumerate(lines[end:], end):
        depth = len(line) - len(line.lstrip(" "))
        if not line.strip():
            continue
        if depth <= indent and not line.startswith(f"{' ' * indent}- "):
            break
        end = number + 1
    return end


def _common(old: Any, data: Any) -> Any:
    """Return the old values of the keys that stay; None for a mapping that has none."""
    if not isinstance(old, dict) or not isinstance(data, dict):
        return old
    return {key: _common(value, data[key]) for key, value in old.items() if key in data} or None


def _update(document: Any, data: dict[str, Any]) -> None:
    for key in [key for key in document if key not in data]:
        del document[key]
    for key, value in data.items():
        old = document.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _update(old, value)
        elif isinstance(value, list) and isinstance(old, list) and old != value:
            old[:] = value  # in place, to keep the style: on one line or on several
        elif key not in document or old != value:
            document[key] = _on_one_line(value) if isinstance(value, list) else value


def _on_one_line(items: list[Any]) -> Any:
    """Return a list for the place of another value; below its key it would separate comments from their keys."""
    from ruamel.yaml.comments import CommentedSeq

    made = CommentedSeq(items)
    made.fa.set_flow_style()
    return made
