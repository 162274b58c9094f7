"""The objects of a dropped role: who owns them afterwards, and which of them must be named explicitly.

Each schema has one owner role, whose only privileges are to own and create objects in that schema. An object that runs
or reads with its owner's privileges is reassigned only if the user has named it, because its author may have written
it to use the privileges of a new owner.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

_NAME_BYTES = 63
_PREFIX = "owner_of_"


class Power(StrEnum):
    """Why an object may behave differently once it has another owner; the texts complete "it …"."""

    VIEW = "reads with the privileges of its owner"
    RULE = "has rules, which act with the privileges of its owner"
    CODE = "runs a function as its owner (from an index, a constraint, a default, a policy or a trigger)"
    TRIGGER = "may get triggers from other roles, which can run as its owner"
    DEFINER = "runs with the privileges of its owner (SECURITY DEFINER)"
    TRIGGER_FUNCTION = "is called by triggers, which can run as the owner of their table"
    PROCEDURE = "is a procedure, which runs its author's code with the privileges of its caller"
    AGGREGATE = "calls its functions with the privileges of its owner"
    OTHER = "depends on the privileges of its owner, or is of an unknown kind"


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
"""Kind of an object as ``pg_identify_object`` names it: the words for it in ``ALTER … OWNER TO``."""


@dataclass(frozen=True)
class OwnedObject:
    """One object that a role owns.

    ``kind``, ``schema`` and ``identity`` are those of ``pg_identify_object``, quoted as SQL needs it. ``follows``: a
    sequence whose owner is that of its table. ``definition`` and ``routine`` distinguish two objects of the same name
    on two nodes. ``where`` is the worker of an object that does not exist, or differs, on the coordinator.
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
        """Its name in messages and for ``--reassign-also``."""
        return f"{self.kind} {self.identity}" + (f" on {self.where}" if self.where else "")

    @property
    def reason(self) -> str:
        """Why it must be named explicitly; empty if that is not necessary."""
        if self.power is None:
            return ""
        return f"{self.power}: {self.routine}" if self.routine else str(self.power)

    @property
    def home(self) -> str | None:
        """Schema whose owner role gets it; None if it belongs to no schema."""
        quoted = self.identity if self.kind == "schema" else self.schema
        return quoted[1:-1].replace('""', '"') if quoted and quoted.startswith('"') else quoted

    @property
    def altered_as(self) -> str | None:
        """Words of the statement that changes only its owner; None if only REASSIGN OWNED does."""
        return None if self.follows or self.where else _ALTERED_AS.get(self.kind)


def owner_role(schema: str) -> str:
    """Return the name of the role that gets the objects of dropped roles in a schema; at most 63 bytes."""
    name = _PREFIX + schema
    if len(name.encode()) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(schema.encode()).hexdigest()[:8]
    return name.encode()[: _NAME_BYTES - 9].decode(errors="ignore") + "_" + digest


def on_all_nodes(
    coordinator: Sequence[OwnedObject], workers: Mapping[str, Sequence[OwnedObject]]
) -> tuple[OwnedObject, ...]:
    """Merge what each node reports: the coordinator's objects, and those of a worker that differ from them.

    A worker has copies of most of them. A copy that must be named and differs from the coordinator's is listed
    separately, because a user who has read the coordinator's object has not read this one.
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
    """The new owner of each object.

    ``rest`` is the schema whose owner role gets objects that belong to no schema, or exist only on one worker.
    """

    new_owners: Mapping[OwnedObject, str]
    rest: str

    @property
    def schemas(self) -> tuple[str, ...]:
        """Schemas whose owner roles are needed."""
        return tuple(sorted({self.rest, *(self._schema(one) for one in self.new_owners)}))

    def altered(self) -> Iterable[OwnedObject]:
        """Return the objects that change owner one by one; REASSIGN OWNED gives the others to ``rest``'s owner role."""
        return (one for one in self.new_owners if one.altered_as and self._schema(one) != self.rest)

    def unnamed(self, named: Collection[str]) -> tuple[OwnedObject, ...]:
        """Return the objects that must be named explicitly and are not."""
        return tuple(one for one in self.new_owners if one.power and one.name not in named)

    def _schema(self, one: OwnedObject) -> str:
        return _schema_for(one, self.rest)

    def as_list(self, named: Collection[str]) -> list[Mapping[str, object]]:
        """Return plain data in a stable order: each object, its new owner, and whether it must still be named."""
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
    """Decide on the new owners; objects without a schema go with the schema that has most of the objects."""
    counted: dict[str, int] = {}
    for one in objects:
        if one.home and not one.where:
            counted[one.home] = counted.get(one.home, 0) + 1
    rest = min(counted, key=lambda schema: (-counted[schema], schema)) if counted else default_schema
    return Handover({one: owner_role(_schema_for(one, rest)) for one in objects}, rest)


def _schema_for(one: OwnedObject, rest: str) -> str:
    # A sequence follows its table, which is in the same schema; an object without ALTER … OWNER TO goes with the rest.
    return one.home if one.home and not one.where and (one.altered_as or one.follows) else rest


@dataclass(frozen=True)
class OwnerRole:
    """What the server knows about a role that has the name of an owner role.

    ``recorded``: this tool created it. ``powers``: what such a role must not have, in words.
    """

    name: str
    schema: str
    exists: bool
    recorded: bool
    powers: tuple[str, ...]

    @property
    def problem(self) -> str | None:
        """Why it cannot own anything; None if it can, or does not exist yet."""
        if self.exists and not self.recorded:
            return f"role {self.name!r} exists, but citus-cluster did not create it"
        if self.powers:
            return f"role {self.name!r} has more privileges than an owner role may have: {', '.join(self.powers)}"
        return None
