"""YAML text to plain data, strictly: duplicate keys are refused, and every error has its line."""

from typing import Any

import yaml

from citus_cluster.errors import SpecError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Loader):  # type: ignore[misc] # chosen at run time
    """A loader that refuses duplicate keys, which YAML loaders otherwise ignore."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is a duplicate", key_node.start_mark
                )
            seen.add(key)
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result


_MAX_DEPTH = 100
"""A Compose file has ten levels. Parsers recurse for each level, and libyaml's crashes the process at some depth."""
_MAX_EXPANDED = 100_000
"""Values with all aliases expanded: a few lines of aliases of aliases can expand to billions."""


def load_yaml(text: str, source: str) -> Any:
    """Parse YAML. Raises SpecError with the line, named after ``source``."""
    try:
        _refuse_excess(text, source)
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a safe loader, made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        if mark and _has_tab_before(text, mark.line, mark.column):
            hint = "Replace the tab with spaces, then run the command again."
            raise SpecError(f"{where}: YAML does not allow a tab as indentation.", hint=hint) from None
        raise SpecError(f"{where}: {error.problem}", hint="Fix the line, then run the command again.") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise SpecError(
            f"{source} is not valid YAML: {error}", hint="Fix the file, then run the command again."
        ) from None


def _refuse_excess(text: str, source: str) -> None:
    """Refuse text that is nested too deeply, or too large once its aliases are expanded, before anything is built."""
    anchors: dict[str, int | None] = {}  # values below each; None while its end is not reached
    open_groups: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else "?"
        if isinstance(event, yaml.CollectionStartEvent):
            open_groups.append((event.anchor, count))
            if event.anchor:
                anchors[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_groups.pop()
            count += 1
            if anchor:
                anchors[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            size = anchors.get(event.anchor or "", 0)
            count += size or 0
            if size is None or count > _MAX_EXPANDED:
                why = "refers to itself" if size is None else f"expands the file to more than {_MAX_EXPANDED} values"
                raise SpecError(
                    f"{source}, line {line}: the alias *{event.anchor} {why}.", hint="Write the values out instead."
                )
        if len(open_groups) > _MAX_DEPTH:
            raise SpecError(
                f"{source}, line {line}: lists and groups of keys are nested deeper than {_MAX_DEPTH} levels.",
                hint="Check the brackets and the indentation there; docs/configuration.md shows the format.",
            )


def _has_tab_before(text: str, line: int, column: int) -> bool:
    lines = text.splitlines()
    return "\t" in lines[line][: column + 1] if line < len(lines) else False
