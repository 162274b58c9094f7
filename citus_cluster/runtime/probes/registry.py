"""The probe of each component."""

from collections.abc import Mapping
from functools import partial

from citus_cluster.model.component_name import EXAMPLES, ComponentName
from citus_cluster.runtime.probes import Factory
from citus_cluster.runtime.probes.application import ApplicationProbe
from citus_cluster.runtime.probes.cassandra import CassandraProbe
from citus_cluster.runtime.probes.pair import PairProbe
from citus_cluster.runtime.probes.pgbouncer import PgBouncerProbe
from citus_cluster.runtime.probes.redis import RedisProbe

PROBES: Mapping[ComponentName, Factory] = {
    ComponentName.PG14: PairProbe,
    ComponentName.REDIS: RedisProbe,
    ComponentName.CASSANDRA: CassandraProbe,
    ComponentName.PGBOUNCER: PgBouncerProbe,
    **dict.fromkeys(EXAMPLES, ApplicationProbe),
    # Prometheus answers 200 once it has read its data.
    ComponentName.MONITORING: partial(ApplicationProbe, path="/-/ready"),
}
