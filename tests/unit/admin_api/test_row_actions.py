"""Which changes the pages offer for the rows of a view."""

from admin_api.pages.declared import actions_for
from citus_cluster.operations.consistency import views as consistency_views
from citus_cluster.operations.nodes import views as nodes_views
from citus_cluster.operations.registry import CHANGES

EVERY = {change.name: change for change in CHANGES}


def test_a_row_offers_changes_of_it_but_none_that_would_create_it_again() -> None:
    assert actions_for(consistency_views.RESTORE_POINTS, EVERY) == ()
    offered = [change.name for change, _ in actions_for(nodes_views.LIST, EVERY)]
    assert {"nodes-activate", "nodes-disable", "nodes-pause", "nodes-remove"} <= set(offered)
    assert not {"add-worker", "nodes-add-inactive", "nodes-add-secondary"} & set(offered)
