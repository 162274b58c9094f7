"""Draw how two copies diverge and heal: the two nodes of cap_sim.py, and the replica of eventual.py on Redis."""

import contextlib
import io
import json
import os
import sys
import time
import uuid

import cap_sim
import eventual
import redis
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lessons import figures


def two_nodes(axes: Axes) -> None:
    """A balance on two nodes: each step is one event."""
    a, b = cap_sim.Node("A"), cap_sim.Node("B")
    a.peers, b.peers = [b], [a]
    seen: list[tuple[int, int]] = []

    def after() -> None:
        seen.append((a.value, b.value))

    with contextlib.redirect_stdout(io.StringIO()):
        a.write(100)
        after()
        a.reachable = b.reachable = False
        after()
        a.write(80)
        after()
        b.write(120)
        after()
        cap_sim.heal(a, b)
        after()
    steps = range(len(seen) + 1)
    for name, values, style in (("A", [one[0] for one in seen], "-"), ("B", [one[1] for one in seen], "--")):
        axes.step(steps, [*values, values[-1]], where="post", linewidth=2.2, linestyle=style, label=f"node {name}")
    axes.axvspan(1, 4, color="#f3dcd2")
    axes.set_xticks([0.5, 1.5, 2.5, 3.5, 4.5], ["A=100", "cut", "A=80", "B=120", "healed"])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(60, 155)
    axes.set_ylabel("balance")
    axes.set_title("two writers: last write wins", fontsize=10)
    axes.legend(loc="upper left", ncols=2)


def replica(axes: Axes, url: str) -> None:
    """A counter that grows ten times a second, and the copy of a replica that is cut off from 1 s to 2 s."""
    client = redis.Redis.from_url(url)
    run = uuid.uuid4().hex
    copy = eventual.Replica(client, run)
    start = time.monotonic()
    times: list[float] = []
    primary: list[int] = []
    behind: list[int] = []
    counter = 0
    while (now := time.monotonic() - start) < 3:
        if counter < now * 10:
            counter += 1
            client.publish(eventual.CHANNEL, json.dumps({"run": run, "counter": counter}))
        if 1 <= now < 2:
            copy.network.clear()
        else:
            copy.network.set()
        times.append(now)
        primary.append(counter)
        behind.append(copy.value or 0)
        time.sleep(0.005)
    copy.thread.stop()
    copy.thread.join()
    axes.plot(times, primary, label="primary")
    axes.plot(times, behind, label="replica")
    axes.axvspan(1, 2, color="#f3dcd2", label="partition")
    axes.set_xlabel("seconds")
    axes.set_ylabel("counter")
    axes.set_title("one writer: stale, then eventually consistent", fontsize=10)
    axes.legend(loc="upper left")


def main() -> None:
    url = os.environ.get("REDIS_URL")
    if not url:
        sys.exit("REDIS_URL is not set. Run: python -m lessons figures 6")
    drawing = Figure(figsize=(8.5, 3.4))
    left, right = drawing.subplots(1, 2)
    two_nodes(left)
    replica(right, url)
    figures.save(drawing, __file__, "divergence")


if __name__ == "__main__":
    main()
