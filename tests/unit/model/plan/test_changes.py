import pytest

from citus_cluster.model.plan.changes import Action, FileChange, FoundFile, WantedFile, digest, plan_files

OLD, NEW, EDITED = b"old", b"new", b"edited"


def compare(
    found: bytes | None,
    wanted: bytes | None,
    recorded: tuple[bytes, ...] | None,
    *,
    mode: int = 0o644,
    tracked: bool = True,
    replace: bool = False,
) -> FileChange | None:
    changes = plan_files(
        {} if wanted is None else {"f": WantedFile(wanted, 0o644, tracked)},
        {} if found is None else {"f": FoundFile(found, mode)},
        {} if recorded is None else {"f": [digest(content) for content in recorded]},
        replace_edited=replace,
    )
    return changes[0] if changes else None


@pytest.mark.parametrize(
    ("found", "wanted", "recorded", "action", "edited"),
    [
        (None, NEW, None, Action.CREATE, False),
        (None, NEW, (OLD,), Action.CREATE, False),
        (NEW, NEW, (NEW,), Action.NONE, False),
        (NEW, NEW, None, Action.NONE, False),
        (OLD, NEW, (OLD,), Action.UPDATE, False),
        (OLD, NEW, None, Action.UPDATE, True),
        (EDITED, NEW, (OLD,), Action.UPDATE, True),
        (EDITED, OLD, (OLD,), Action.KEEP, True),
        (OLD, None, (OLD,), Action.REMOVE, False),
        (EDITED, None, (OLD,), Action.KEEP, True),
        # A run was killed while it replaced OLD by NEW: both are ours.
        (OLD, b"third", (OLD, NEW), Action.UPDATE, False),
        (NEW, b"third", (OLD, NEW), Action.UPDATE, False),
        (EDITED, OLD, (OLD, NEW), Action.KEEP, True),
        (EDITED, NEW, (OLD, NEW), Action.UPDATE, True),
    ],
)
def test_every_case(
    found: bytes | None, wanted: bytes | None, recorded: tuple[bytes, ...] | None, action: Action, edited: bool
) -> None:
    change = compare(found, wanted, recorded)
    assert change is not None
    assert (change.action, change.edited) == (action, edited)
    assert change.changes == (action not in {Action.NONE, Action.KEEP})


def test_what_is_gone_and_not_wanted_is_no_change() -> None:
    assert compare(None, None, (OLD,)) is None


def test_force_replaces_an_edit_even_where_nothing_else_changes() -> None:
    change = compare(EDITED, OLD, (OLD,), replace=True)
    assert change is not None
    assert (change.action, change.edited) == (Action.UPDATE, True)


def test_a_lost_mode_is_set_again() -> None:
    change = compare(NEW, NEW, (NEW,), mode=0o600)
    assert change is not None
    assert change.action is Action.SET_MODE


@pytest.mark.parametrize(("found", "action"), [(NEW, Action.NONE), (OLD, Action.UPDATE)])
def test_a_file_shared_with_the_user_is_never_edited_and_keeps_its_mode(found: bytes, action: Action) -> None:
    change = compare(found, NEW, None, mode=0o664, tracked=False)
    assert change is not None
    assert change.wanted is not None
    assert (change.action, change.edited, change.wanted.mode) == (action, False, 0o664)


def test_the_order_is_that_of_the_wanted_files_then_removals() -> None:
    wanted = {path: WantedFile(NEW) for path in ("b", "a")}
    found = {path: FoundFile(OLD, 0o644) for path in ("a", "y", "x")}
    recorded = {path: [digest(OLD)] for path in ("y", "x", "a")}
    assert [(c.path, c.action) for c in plan_files(wanted, found, recorded)] == [
        ("b", Action.CREATE),
        ("a", Action.UPDATE),
        ("x", Action.REMOVE),
        ("y", Action.REMOVE),
    ]
