"""Which changes the pages offer for the rows of a view."""

from typing import Any

import pytest

from admin_api.pages.declared import actions_for, row_actions
from citus_cluster.operations.consistency import views as consistency_views
from citus_cluster.operations.nodes import views as nodes_views
from citus_cluster.operations.registry import CHANGES, VIEWS

EVERY = {change.name: change for change in CHANGES}


def test_a_row_offers_changes_of_it_but_none_that_would_create_it_again() -> None:
    assert actions_for(consistency_views.RESTORE_POINTS, EVERY) == ()
    offered = [change.name for change, _ in actions_for(nodes_views.LIST, EVERY)]
    assert {"nodes-activate", "nodes-disable", "nodes-pause", "nodes-remove"} <= set(offered)
    assert not {"add-worker", "nodes-add-inactive", "nodes-add-secondary"} & set(offered)


@pytest.mark.parametrize(
    ("view", "row", "url"),
    [
        ("nodes-list", {"node": "w1:5432"}, "/changes/nodes-drain?names=w1%3A5432"),
        ("nodes-list", {"node": "w1:5432", "host": "w1"}, "/changes/nodes-move?node=w1%3A5432"),
        ("roles-list", {"role": "app"}, "/changes/roles-password?name=app"),
        ("schemas-list", {"schema": "a", "node": "w1:5432"}, "/changes/schemas-move?schema=a"),
        ("shards-list", {"shard_id": 7, "node": "w1:5432"}, "/changes/shards-move?shard=7"),
        ("tables-list", {"table": "t"}, "/changes/tables-distribute?table=t"),
    ],
)
def test_an_action_fills_in_what_the_row_is_and_leaves_the_rest_to_the_form(
    view: str, row: dict[str, Any], url: str
) -> None:
    found = row_actions(actions_for(next(one for one in VIEWS if one.name == view), EVERY), row)
    assert url in [one.url for one in found]
