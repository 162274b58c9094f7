"""What a dropped role leaves behind: who owns it from then on, and what must be agreed to by name.

Each schema has one owner role, which has no privilege but to own and make objects in that schema. What runs or reads
with the rights of its owner is given away only if somebody has named it, because others may have written it so that it
serves them once its owner has changed.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

_NAME_BYTES = 63
_PREFIX = "owner_of_"


class Power(StrEnum):
    """Why an object may do more, or other things, once it has another owner; the texts complete "it …"."""

    VIEW = "reads with the privileges of its owner"
    RULE = "has rules, which act with the privileges of its owner"
    CODE = "runs a function as its owner (from an index, a constraint, a default, a policy or a trigger)"
    TRIGGER = "may get triggers from other roles, which can run as its owner"
    DEFINER = "runs with the privileges of its owner (SECURITY DEFINER)"
    TRIGGER_FUNCTION = "is called by triggers, which can run as the owner of their table"
    PROCEDURE = "is a procedure: it does for its caller whatever its author wrote"
    AGGREGATE = "calls its functions by the right of its owner"
    OTHER = "takes its powers from its owner, or is not known here"


_ALTERED_AS = {
    "table": "TABLE",
    "foreign table": "FOREIGN TABLE",
    "view": "VIEW",
    "materialized view": "MATERIALIZED VIEW",
    "sequence": "SEQUENCE",
    "function": "FUNCTION",
    "procedure": "PROCEDURE",
    "type": "TYPE",
    "collation": "COLLATION",
    "operator": "OPERATOR",
    "conversion": "CONVERSION",
    "text search dictionary": "TEXT SEARCH DICTIONARY",
    "text search configuration": "TEXT SEARCH CONFIGURATION",
    "statistics object": "STATISTICS",
    "schema": "SCHEMA",
}
"""Words of ``pg_identify_object``, and those of ``ALTER … OWNER TO``."""


@dataclass(frozen=True)
class OwnedObject:
    """One object that a role owns.

    ``kind``, ``schema`` and ``identity`` are those of ``pg_identify_object``, quoted where SQL needs it. ``follows``: a
    sequence whose owner is that of its table. ``definition`` and ``routine`` tell two objects of one name on two nodes
    apart. ``where`` names the worker of one that the coordinator does not have as it is there.
    """

    kind: str
    schema: str | None
    identity: str
    follows: bool = False
    power: Power | None = None
    routine: str | None = None
    definition: str | None = None
    where: str | None = None

    @property
    def name(self) -> str:
        """What people call it, and ``--reassign-also`` takes."""
        return f"{self.kind} {self.identity}" + (f" on {self.where}" if self.where else "")

    @property
    def reason(self) -> str:
        """Why it has to be named; empty for one that has not."""
        if self.power is None:
            return ""
        return f"{self.power}: {self.routine}" if self.routine else str(self.power)

    @property
    def home(self) -> str | None:
        """Schema whose owner role gets it; None where it is in none."""
        quoted = self.identity if self.kind == "schema" else self.schema
        return quoted[1:-1].replace('""', '"') if quoted and quoted.startswith('"') else quoted

    @property
    def altered_as(self) -> str | None:
        """Words of the statement that changes its owner by itself; None where REASSIGN OWNED alone does."""
        return None if self.follows or self.where else _ALTERED_AS.get(self.kind)


def owner_role(schema: str) -> str:
    """Name of the role that owns what dropped roles leave in a schema; at most 63 bytes."""
    name = _PREFIX + schema
    if len(name.encode()) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(schema.encode()).hexdigest()[:8]
    return name.encode()[: _NAME_BYTES - 9].decode(errors="ignore") + "_" + digest


def on_all_nodes(
    coordinator: Sequence[OwnedObject], workers: Mapping[str, Sequence[OwnedObject]]
) -> tuple[OwnedObject, ...]:
    """Put together what each node says: the coordinator's objects, and those of a worker that differ from them.

    A worker has most of them again. One that would have to be named, and is not the same as on the coordinator, counts
    by itself: who has read the coordinator's has not read that one.
    """
    known = {one.name: one for one in coordinator}
    found = list(coordinator)
    for address, objects in workers.items():
        for one in objects:
            same = known.get(one.name)
            if same is None or (one.power and _nature(one) != _nature(same)):
                found.append(replace(one, where=address))
    return tuple(found)


def _nature(one: OwnedObject) -> tuple[object, ...]:
    return one.power, one.routine, one.definition


@dataclass(frozen=True)
class Handover:
    """Who gets what. ``rest`` is the schema whose owner role gets what is in no schema, or on one worker alone."""

    new_owners: Mapping[OwnedObject, str]
    rest: str

    @property
    def schemas(self) -> tuple[str, ...]:
        """Schemas whose owner roles are needed."""
        return tuple(sorted({self.rest, *(self._schema(one) for one in self.new_owners)}))

    def altered(self) -> Iterable[OwnedObject]:
        """Objects whose owner is changed one by one; REASSIGN OWNED gives the others to the owner role of ``rest``."""
        return (one for one in self.new_owners if one.altered_as and self._schema(one) != self.rest)

    def unnamed(self, named: Collection[str]) -> tuple[OwnedObject, ...]:
        """Objects that must be named, and are not."""
        return tuple(one for one in self.new_owners if one.power and one.name not in named)

    def _schema(self, one: OwnedObject) -> str:
        return _schema_for(one, self.rest)

    def as_list(self, named: Collection[str]) -> list[Mapping[str, object]]:
        """Plain data, in stable order: each object, who gets it, and whether it has to be named still."""
        return [
            {
                "object": one.name,
                "new_owner": new_owner,
                "must_be_named": one.reason or None,
                "named": one.name in named if one.power else None,
            }
            for one, new_owner in self.new_owners.items()
        ]


def hand_over(objects: Sequence[OwnedObject], default_schema: str) -> Handover:
    """Decide who gets what; the schema with most of the objects takes those that are in none."""
    counted: dict[str, int] = {}
    for one in objects:
        if one.home and not one.where:
            counted[one.home] = counted.get(one.home, 0) + 1
    rest = min(counted, key=lambda schema: (-counted[schema], schema)) if counted else default_schema
    return Handover({one: owner_role(_schema_for(one, rest)) for one in objects}, rest)


def _schema_for(one: OwnedObject, rest: str) -> str:
    # A sequence goes with its table, which is in the same schema; what cannot be altered by itself goes with the rest.
    return one.home if one.home and not one.where and (one.altered_as or one.follows) else rest


@dataclass(frozen=True)
class OwnerRole:
    """What the server knows of a role that has the name of an owner role.

    ``recorded``: it was made here. ``powers``: what such a role must not have, in words.
    """

    name: str
    schema: str
    exists: bool
    recorded: bool
    powers: tuple[str, ...]

    @property
    def problem(self) -> str | None:
        """Why it cannot be given anything; None where it can, or is not there yet."""
        if self.exists and not self.recorded:
            return f"role {self.name!r} exists, and was not made by citus-cluster"
        if self.powers:
            return f"role {self.name!r} has more than it must: {', '.join(self.powers)}"
        return None
