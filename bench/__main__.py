"""``python -m bench``: every measurement, or those named (generation, startup, services, replication)."""

import sys

from bench.generation import bench_generation
from bench.replication import bench_replication
from bench.services import bench_services
from bench.startup import bench_startup

_BENCHES = {
    "generation": bench_generation,
    "startup": bench_startup,
    "services": bench_services,
    "replication": bench_replication,
}

chosen = sys.argv[1:] or list(_BENCHES)
unknown = [name for name in chosen if name not in _BENCHES]
if unknown:
    sys.exit(f"unknown: {', '.join(unknown)}; known are {', '.join(_BENCHES)}")
for name in chosen:
    _BENCHES[name]()
