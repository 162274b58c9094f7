"""YAML text to plain data, strictly: duplicate keys are refused, and every error has its line."""

from typing import Any

import yaml

from citus_cluster.errors import SpecError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Loader):  # type: ignore[misc] # chosen at run time
    """Refuses a key that stands twice, which YAML loaders otherwise pass over silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here a second time", key_node.start_mark
                )
            seen.add(key)
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result


def load_yaml(text: str, source: str) -> Any:
    """Parse YAML. Raises SpecError with the line, named after ``source``."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a safe loader, made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise SpecError(f"{where}: {error.problem}", hint="Mend the line, then run the command again.") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise SpecError(f"{source} is not YAML: {error}", hint="Mend it, then run the command again.") from None
