"""Every declared change and view, for the edges that offer all of them."""

from citus_cluster.operations.activity import changes as activity_changes
from citus_cluster.operations.activity import views as activity_views
from citus_cluster.operations.change import AnyChange
from citus_cluster.operations.cluster_state import views as cluster_views
from citus_cluster.operations.consistency import changes as consistency_changes
from citus_cluster.operations.consistency import views as consistency_views
from citus_cluster.operations.nodes import changes as nodes_changes
from citus_cluster.operations.nodes import drain_changes
from citus_cluster.operations.nodes import joining as nodes_joining
from citus_cluster.operations.nodes import leaving as nodes_leaving
from citus_cluster.operations.nodes import maintenance as nodes_maintenance
from citus_cluster.operations.nodes import moving as nodes_moving
from citus_cluster.operations.nodes import views as nodes_views
from citus_cluster.operations.pair import changes as pair_changes
from citus_cluster.operations.rebalance import changes as rebalance_changes
from citus_cluster.operations.rebalance import repair as rebalance_repair
from citus_cluster.operations.rebalance import views as rebalance_views
from citus_cluster.operations.roles import changes as roles_changes
from citus_cluster.operations.roles import views as roles_views
from citus_cluster.operations.schemas import changes as schemas_changes
from citus_cluster.operations.shards import moving as shards_moving
from citus_cluster.operations.shards import splitting as shards_splitting
from citus_cluster.operations.shards import views as shards_views
from citus_cluster.operations.tables import alteration as tables_alteration
from citus_cluster.operations.tables import distribution as tables_distribution
from citus_cluster.operations.tables import views as tables_views
from citus_cluster.operations.view import AnyView

CHANGES: tuple[AnyChange, ...] = (
    activity_changes.CANCEL,
    activity_changes.TERMINATE,
    activity_changes.ENABLE,
    consistency_changes.RESTORE_POINT,
    consistency_changes.RECOVER,
    consistency_changes.CLEANUP,
    nodes_changes.ACTIVATE,
    drain_changes.DRAIN,
    drain_changes.UNDO,
    rebalance_changes.START,
    rebalance_changes.STOP,
    rebalance_repair.REPAIR,
    nodes_changes.DISABLE,
    nodes_changes.SET,
    nodes_joining.ADD,
    nodes_joining.ADD_INACTIVE,
    nodes_joining.ADD_SECONDARY,
    nodes_moving.MOVE,
    nodes_maintenance.PAUSE,
    nodes_maintenance.RESUME,
    nodes_leaving.REMOVE,
    tables_distribution.DISTRIBUTE,
    tables_distribution.REFERENCE,
    pair_changes.PROMOTE,
    pair_changes.REBUILD,
    roles_changes.CREATE,
    roles_changes.PASSWORD,
    roles_changes.DROP,
    tables_alteration.UNDISTRIBUTE,
    tables_alteration.ALTER,
    schemas_changes.DISTRIBUTE,
    schemas_changes.UNDISTRIBUTE,
    schemas_changes.MOVE,
    shards_moving.MOVE,
    shards_splitting.SPLIT,
    shards_splitting.ISOLATE,
)
VIEWS: tuple[AnyView, ...] = (
    roles_views.LIST,
    cluster_views.SHOW,
    cluster_views.DRIFT,
    activity_views.LIST,
    activity_views.LOCKS,
    activity_views.STATEMENTS,
    activity_views.TENANTS,
    activity_views.FEATURES,
    consistency_views.PREPARED,
    consistency_views.ORPHANS,
    consistency_views.RESTORE_POINTS,
    rebalance_views.HISTORY,
    rebalance_views.TASKS,
    rebalance_views.DIAGNOSIS,
    nodes_views.LIST,
    nodes_views.ACTIVE,
    nodes_views.MESH,
    tables_views.TABLES,
    tables_views.SCHEMAS,
    shards_views.LIST,
    shards_views.GROUPS,
    shards_views.WHERE,
)
