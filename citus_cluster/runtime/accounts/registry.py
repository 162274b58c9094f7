"""How accounts are made on each component beside Citus. Redis has no entry: its accounts are in its settings."""

from collections.abc import Mapping

from citus_cluster.model.component_name import ComponentName
from citus_cluster.runtime.accounts import MakeAccounts
from citus_cluster.runtime.accounts.cassandra import make_in_cassandra
from citus_cluster.runtime.accounts.postgres import make_on_pair

MAKERS: Mapping[ComponentName, MakeAccounts] = {
    ComponentName.PG14: make_on_pair,
    ComponentName.CASSANDRA: make_in_cassandra,
}
