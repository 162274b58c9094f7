"""``python -m bench``: every benchmark of ``_BENCHES``, or those that are named.

The soak takes an hour, so it runs only if it is named; ``small-moves`` is a part of ``rebalance``.
"""

import sys

from bench.api import bench_api
from bench.api_lists import bench_api_lists
from bench.examples_replication import bench_examples_replication
from bench.examples_sharding import bench_examples_sharding
from bench.examples_users import bench_examples_users
from bench.generation import bench_generation
from bench.load_tester import bench_load_tester
from bench.pooling import bench_pooling
from bench.rebalance import bench_rebalance
from bench.replication import bench_replication
from bench.scale import bench_scale
from bench.services import bench_services
from bench.small_moves import bench_small_moves
from bench.soak import bench_soak
from bench.startup import bench_startup
from bench.tuning import bench_tuning

_BENCHES = {
    "generation": bench_generation,
    "startup": bench_startup,
    "services": bench_services,
    "replication": bench_replication,
    "api": bench_api,
    "api-lists": bench_api_lists,
    "rebalance": bench_rebalance,
    "pooling": bench_pooling,
    "examples-users": bench_examples_users,
    "examples-replication": bench_examples_replication,
    "examples-sharding": bench_examples_sharding,
    "load-tester": bench_load_tester,
    "scale": bench_scale,
    "tuning": bench_tuning,
}
_ASKED_FOR = {"small-moves": bench_small_moves, "soak": bench_soak}

chosen = sys.argv[1:] or list(_BENCHES)
unknown = [name for name in chosen if name not in _BENCHES | _ASKED_FOR]
if unknown:
    sys.exit(f"unknown: {', '.join(unknown)}; known are {', '.join(_BENCHES | _ASKED_FOR)}")
for name in chosen:
    (_BENCHES | _ASKED_FOR)[name]()
