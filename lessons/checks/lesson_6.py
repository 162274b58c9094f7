"""Checks of lesson 6, consistency."""

import contextlib
import io
import re

from lessons.catalogue import unit
from lessons.check import Lab, Seen, check


@check("E6-01", expected="A writes 100, B reads 100")
def write_reaches_the_other_node(lab: Lab) -> Seen:
    """While the network works, a write on A is read on B."""
    out = lab.run("cap_sim.py")
    return Seen(out.startswith("A writes 100\nB reads 100\n"), "; ".join(out.splitlines()[:2]))


@check("E6-02", expected="PARTITION: … cannot reach …, from both; Conflict! A=80, B=120")
def partition_makes_a_conflict(lab: Lab) -> Seen:
    """In a partition both nodes accept a write, and the two differ."""
    out = lab.run("cap_sim.py")
    passed = all(
        one in out.splitlines()
        for one in ("PARTITION: A cannot reach B", "PARTITION: B cannot reach A", "Conflict! A=80, B=120")
    )
    return Seen(passed, "; ".join(re.findall(r"^(?:PARTITION|Conflict).*$", out, re.MULTILINE)))


@check("E6-03", expected="A=120, B=120")
def last_write_wins_heals(lab: Lab) -> Seen:
    """When the network is back, the later write wins; of two equal logical times, B's."""
    last = lab.run("cap_sim.py").splitlines()[-1]
    return Seen(last == "Healed, last-write-wins: A=120, B=120", last)


@check("E6-04", expected="1 and 2 synced, 3 read as 2 (stale!), then 3 (eventually consistent)", needs=("redis",))
def replica_is_stale_and_catches_up(lab: Lab) -> Seen:
    """A replica that follows by pub/sub gives an old value while an update is on its way, and the new one later."""
    lines = lab.run("eventual.py").splitlines()
    wanted = [
        "primary: counter = 1",
        "replica: counter = 1 (synced)",
        "primary: counter = 2",
        "replica: counter = 2 (synced)",
        "primary: counter = 3",
        "replica: counter = 2 (stale!)",
        "replica: counter = 3 (eventually consistent)",
    ]
    return Seen(lines == wanted, "; ".join(lines[-3:]))


@check("E6-05", expected="likes, shopping cart, search index, dashboard, profile cache")
def eventual_consistency_is_enough(lab: Lab) -> Seen:
    """The page lists where eventual consistency is enough."""
    return lab.page_names("likes", "shopping cart", "search index", "dashboard", "cached profile")


@check("E6-06", expected="balance, inventory, lock, unique constraint, leader election; the cost of a stale read")
def strong_consistency_is_required(lab: Lab) -> Seen:
    """The page lists where strong consistency is required, and asks what a stale read costs."""
    return lab.page_names(
        "account balance",
        "inventory",
        "distributed lock",
        "unique constraint",
        "leader election",
        "cost of a stale read",
    )


@check("E6-07", expected="alice_new; published (5); {apple, banana, cherry}")
def conflicts_are_resolved(lab: Lab) -> Seen:
    """The three strategies: the last write, the highest version, the merged set."""
    lines = lab.run("conflict.py").splitlines()
    wanted = ["Last write wins:  alice_new", "Highest version:  published (5)"]
    passed = lines == [*wanted, "Merged sets:      {apple, banana, cherry}"]
    return Seen(passed, "; ".join(" ".join(one.split()) for one in lines))


@check("E6-08", expected="last write wins: 120, one write lost; merge: 100, both kept; consistency: both refused")
def strategies_differ(lab: Lab) -> Seen:
    """Both nodes accept a write in a partition: last write wins loses one, merging keeps both; CP refuses them."""
    merged = lab.run("cap_sim.py", "--resolve", "merge").splitlines()[-1]
    wins = lab.run("cap_sim.py", "--resolve", "last-write-wins").splitlines()[-1]
    refused = lab.run("cap_sim.py", "--choose", "consistency")
    passed = (
        wins.endswith("A=120, B=120")
        and merged.endswith("A=100, B=100")
        and "503: A refuses to write 80\n" in refused
        and "503: B refuses to write 120\n" in refused
        and "Consistent: A=100, B=100\n" in refused
    )
    return Seen(passed, f"{wins}; {merged}; {refused.count('refuses')} refused")


@check("E6-08", expected="equal, whichever node writes first and however often they exchange")
def healing_does_not_depend_on_the_order(lab: Lab) -> Seen:
    """After healing, both nodes have the same value, for every order of writes."""
    cap_sim = unit("6").lab("cap_sim").load()
    results = set()
    for first, second in (("a", "b"), ("b", "a")):
        a, b = cap_sim.Node("A"), cap_sim.Node("B")
        a.peers, b.peers = [b], [a]
        nodes, values = {"a": a, "b": b}, {"a": 80, "b": 120}
        with contextlib.redirect_stdout(io.StringIO()):
            a.write(100)
            a.reachable = b.reachable = False
            for one in (first, second):
                nodes[one].write(values[one])
            cap_sim.heal(b, a)
            cap_sim.heal(a, b)
        results.add((a.value, b.value))
    return Seen(results == {(120, 120)}, ", ".join(f"A={a}, B={b}" for a, b in sorted(results)))


@check("E6-08", expected="consistency, availability, partition tolerance, CP, AP")
def cap_is_explained(lab: Lab) -> Seen:
    """The page explains the CAP theorem."""
    return lab.page_names("CAP theorem", "consistency", "availability", "partition tolerance", "CP", "AP")
