"""Who gets what a dropped role owned, and what has to be named for it."""

import pytest

from citus_cluster.model.citus.handover import OwnedObject, OwnerRole, Power, hand_over, on_all_nodes, owner_role


def table(name: str, schema: str = "public", **more: object) -> OwnedObject:
    return OwnedObject("table", schema, f"{schema}.{name}", **more)  # type: ignore[arg-type]


def test_each_schema_has_its_owner_and_the_rest_goes_to_the_largest() -> None:
    lonely = table("lonely", "shop", where="citus-worker1:5432")
    aggregate = OwnedObject("aggregate", "shop", "shop.total(integer)", power=Power.AGGREGATE)
    schema = OwnedObject("schema", None, '"we""ird"')
    objects = [table("a"), table("b"), table("c", "shop"), OwnedObject("large object", None, "7"), lonely, aggregate]
    found = hand_over([*objects, schema], "other")
    assert found.rest == "public"
    new_owners = {one.name: new_owner for one, new_owner in found.new_owners.items()}
    assert new_owners["table public.a"] == "owner_of_public"
    assert new_owners["table shop.c"] == "owner_of_shop"
    assert new_owners['schema "we""ird"'] == 'owner_of_we"ird'
    rest = owner_role(found.rest)
    assert {
        new_owners["large object 7"],
        new_owners["table shop.lonely on citus-worker1:5432"],
        new_owners[aggregate.name],
    } == {rest}
    # What one statement gives to the rest is not altered one by one.
    assert all(found.new_owners[one] != rest for one in found.altered())
    assert {one for one, new_owner in found.new_owners.items() if new_owner != rest} == set(found.altered())
    assert set(found.schemas) >= {"public", "shop", 'we"ird'}


def test_without_a_schema_of_its_own_the_default_takes_it() -> None:
    assert set(hand_over([OwnedObject("large object", None, "7")], "shop").new_owners.values()) == {"owner_of_shop"}


def test_a_sequence_goes_with_its_table() -> None:
    sequence = OwnedObject("sequence", "shop", "shop.s", follows=True)
    found = hand_over([table("a"), table("b"), table("t", "shop"), sequence], "public")
    assert found.new_owners[sequence] == "owner_of_shop"
    assert sequence not in found.altered()


def test_what_a_worker_has_otherwise_counts_by_itself() -> None:
    definer = OwnedObject("function", "public", "public.f()", power=Power.DEFINER, definition="1")
    other = OwnedObject("function", "public", "public.f()", power=Power.DEFINER, definition="2")
    found = on_all_nodes([definer, table("t")], {"w1:5432": [definer, table("t")], "w2:5432": [other, table("lonely")]})
    assert [one.name for one in found] == [
        "function public.f()",
        "table public.t",
        "function public.f() on w2:5432",
        "table public.lonely on w2:5432",
    ]
    handover = hand_over(found, "public")
    assert [one.name for one in handover.unnamed(["function public.f()"])] == ["function public.f() on w2:5432"]
    # A table that is harmless on the worker, and named on the coordinator.
    code = table("t", power=Power.CODE, routine="public.f()")
    assert len(on_all_nodes([code], {"w1:5432": [table("t")]})) == 1


@pytest.mark.parametrize("schema", ["s" * 63, "é" * 31, "s" * 54])
def test_a_long_schema_has_an_owner_role_of_63_bytes_at_most(schema: str) -> None:
    name = owner_role(schema)
    assert name.startswith("owner_of_")
    assert len(name.encode()) <= 63
    assert owner_role(schema + "x") != name


def test_an_owner_role_of_somebody_else_is_refused() -> None:
    assert OwnerRole("owner_of_public", "public", exists=False, recorded=False, powers=()).problem is None
    assert OwnerRole("owner_of_public", "public", exists=True, recorded=True, powers=()).problem is None
    foreign = OwnerRole("owner_of_public", "public", exists=True, recorded=False, powers=())
    assert "citus-cluster did not create it" in str(foreign.problem)
    strong = OwnerRole("owner_of_public", "public", exists=True, recorded=True, powers=("it has members",))
    assert "it has members" in str(strong.problem)
