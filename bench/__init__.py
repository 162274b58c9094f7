"""Benchmarks. Results are ratios within one run, because absolute times vary. ``make bench`` prints them."""
