"""Checks of lesson 2, caching."""

import re

from lessons.check import Lab, Seen, check


def number(pattern: str, out: str) -> float:
    found = re.search(pattern, out)
    assert found, f"no {pattern!r} in: {out}"
    return float(found[1])


@check("E2-01", expected="GET hello, TTL 2 (1 when it has begun to pass), then (nil)", needs=("redis",))
def key_expires(lab: Lab) -> Seen:
    """expiry.py: a key with a time to live counts down and is gone."""
    lines = lab.run("expiry.py", "--ttl", 2).splitlines()
    passed = lines[1] == "GET temp_key: hello" and lines[2] in ("TTL temp_key: 2", "TTL temp_key: 1")
    return Seen(passed and lines[3] == "after 3 s, GET temp_key: (nil)", "; ".join(lines[1:]))


@check(
    "E2-02",
    expected="10 misses, more than 8 times faster, keys user:0 to user:9 with a TTL of at most 30",
    needs=("redis",),
)
def speed_up(lab: Lab) -> Seen:
    """cache_demo.py: the cache makes 100 look-ups of 10 users faster."""
    # A machine that is busy for a moment only makes it slower, so the better of two runs counts.
    for _ in range(2):
        out = lab.run("cache_demo.py")
        speed, misses = number(r"Speedup: ([\d.]+)x", out), number(r"(\d+) misses", out)
        if speed > 8:
            break
    values = [str(lab.redis.get(f"user:{user}")) for user in range(10)]
    ttl_s = int(str(lab.redis.ttl("user:9")))
    right = values[3] == '{"user_id": 3, "name": "User 3", "score": 126}' and None not in values and 0 < ttl_s <= 30
    # Both parts ran in one process. The pure ratio is 100 queries by 10, so 8 leaves a fifth for what else runs here.
    return Seen(right and misses == 10 and speed > 8, f"{misses:.0f} misses, {speed:.1f} times, TTL {ttl_s}")


@check("E2-03", expected="at least 90.0 % of 1000 requests (at most 100 misses)", needs=("redis",))
def hit_rate(lab: Lab) -> Seen:
    """cache_stats.py: when 5 of 100 products get 80 % of the requests, most requests hit."""
    out = lab.run("cache_stats.py")
    rate, misses = number(r"Hit rate: ([\d.]+)%", out), number(r"misses: (\d+)", out)
    return Seen(rate >= 90 and misses <= 100, f"{rate:.1f} %, {misses:.0f} misses")


@check("E2-03", expected="keys of other lessons are still there", needs=("redis",))
def nothing_else_is_deleted(lab: Lab) -> Seen:
    """cache_stats.py deletes its own keys, and does not flush the database as the plan does."""
    lab.redis.set("lesson_2:other", "1")
    lab.run("cache_stats.py", "-n", 10)
    kept = lab.redis.delete("lesson_2:other") == 1
    return Seen(kept, "still there" if kept else "gone")


@check("E2-04", expected="the value with a TTL of 300 s (or what is left of it), then None", needs=("redis",))
def invalidation(lab: Lab) -> Seen:
    """invalidation.py: write_through leaves the new value in the cache, invalidate_on_write nothing."""
    first, second, third = lab.run("invalidation.py").splitlines()
    passed = re.match(r'write_through: the cache has {"name": "Alice"}, for (300|29\d) s$', first) is not None
    passed = passed and second == "invalidate_on_write: the cache has None" and "Alice Smith" in third
    return Seen(passed, f"{first}; {second}")


@check(
    "E2-05", expected="1000 writes, at most 200 rows; 0 lost, after a crash the 100 of the last batch", needs=("redis",)
)
def write_behind(lab: Lab) -> Seen:
    """write_behind.py: many writes become few rows, and a crash loses the last batch."""
    out, crashed = lab.run("write_behind.py"), lab.run("write_behind.py", "--crash")
    rows = number(r"rows written to the database: (\d+)", out)
    lost = [number(r"lost in a crash now: (\d+)", one) for one in (out, crashed)]
    return Seen(0 < rows <= 200 and lost == [0, 100], f"{rows:.0f} rows; lost {lost[0]:.0f} and {lost[1]:.0f}")


@check("E2-06", expected="more than the 10 misses of the default TTL", needs=("redis",))
def short_time_to_live(lab: Lab) -> Seen:
    """cache_demo.py --ttl 2: what is asked for again after 2 s misses again."""
    # 100 look-ups with 40 ms between them take more than 4 s, so each user expires at least once.
    misses = number(r"(\d+) misses", lab.run("cache_demo.py", "--ttl", 2, "--pause-ms", 40, "--query-ms", 5))
    return Seen(misses > 10, f"{misses:.0f} misses")
