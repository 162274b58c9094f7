"""Measurements, as ratios within one run, because machines are noisy. ``make bench`` prints them."""
