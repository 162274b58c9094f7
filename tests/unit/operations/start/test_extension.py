"""Versions of Citus: what an image's name and a node's extension tell about an update."""

import pytest

from citus_cluster.errors import ConsentNeededError
from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.images import ReleaseChange, release_change
from citus_cluster.operations.start.extension import agree_once, never, require_consent


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("citusdata/citus:13.2.0", "citusdata/citus:13.2.2", ReleaseChange.SAME),
        ("citusdata/citus:13.0.3", "citusdata/citus:13.2.0", ReleaseChange.NEWER),
        ("citusdata/citus:13.0.3-alpine", "citusdata/citus:14.0.1", ReleaseChange.NEWER),
        ("citusdata/citus:13.2.0", "citusdata/citus:13.1.1", ReleaseChange.OLDER),
        ("citusdata/citus:13", "citusdata/citus:13.2", ReleaseChange.UNKNOWN),
        ("citusdata/citus:13.2.0", "mine/citus:13.0.0", ReleaseChange.UNKNOWN),
        ("citusdata/citus:latest", "citusdata/citus:latest", ReleaseChange.SAME),
    ],
)
def test_tags_tell_an_upgrade_from_a_downgrade(before: str, after: str, change: ReleaseChange) -> None:
    assert release_change(before, after) is change


@pytest.mark.parametrize(
    ("installed", "available", "behind", "ahead"),
    [("13.2-1", "13.2-1", False, False), ("9.5-3", "13.0-1", True, False), ("13.10-1", "13.9-2", False, True)],
)
def test_versions_are_compared_as_numbers(installed: str, available: str, behind: bool, ahead: bool) -> None:
    versions = ExtensionVersions(installed, available)
    assert (versions.is_behind, versions.is_ahead) == (behind, ahead)
    assert ExtensionVersions("13.2-1", "13.2-1").is_newer_than((13, 0, 3))
    assert not ExtensionVersions("13.2-1", "13.2-1").is_newer_than((13, 2, 0))


@pytest.mark.parametrize(
    ("data", "library", "served"),
    [
        ("13.2-1", (13, 2, 2), True),
        ("13.1-1", (13, 2, 0), True),
        ("13.3-1", (13, 2, 0), True),
        ("13.0-1", (13, 2, 0), False),
        ("13.4-1", (13, 2, 0), False),
        ("13.0-1", (13, 1, 0), False),
        ("13.2-1", (13, 1, 0), False),
        ("13.2-1", (14, 1, 0), False),
        ("13.2-1", (14,), False),
    ],
)
def test_a_library_since_13_2_serves_data_of_one_minor_version_beside_it(
    data: str, library: tuple[int, ...], served: bool
) -> None:
    assert ExtensionVersions(data, "1.0-1").is_served_by(library) is served


def test_who_agreed_is_not_asked_again_and_nobody_agrees_by_default() -> None:
    questions: list[str] = []

    def ask(question: str) -> bool:
        questions.append(question)
        return True

    agree = agree_once(ask)
    require_consent(agree, "13.0 → 13.2")
    require_consent(agree, "13.0 → 13.2")
    assert len(questions) == 1 and "backup" in questions[0]
    with pytest.raises(ConsentNeededError, match=r"13\.0 → 13\.2") as caught:
        require_consent(agree_once(never), "13.0 → 13.2")
    assert "--upgrade-citus" in str(caught.value.hint)
