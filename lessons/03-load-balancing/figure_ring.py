"""Draws the keys of each server before and after the removal of one, on the ring and with a modulus."""

from collections import Counter

from consistent_hash import SERVERS, ConsistentHashRing, keys
from matplotlib.figure import Figure

from lessons.figures import COLOURS, save

REMOVED = "server-2"


def main() -> None:
    """Place 1000 keys on three servers, then on two, and draw from which server each key comes."""
    left = [server for server in SERVERS if server != REMOVED]
    three, two = ConsistentHashRing(SERVERS), ConsistentHashRing(left)
    places = {
        "Ring of hashes": [(three.get(key), two.get(key)) for key in keys(1000)],
        "number % servers": [(SERVERS[index % 3], left[index % 2]) for index in range(1000)],
    }
    figure = Figure()
    for axes, (title, pairs) in zip(figure.subplots(1, 2, sharey=True), places.items(), strict=True):
        moved = sum(before != after for before, after in pairs)
        axes.set_title(f"{title}: {moved / len(pairs):.0%} of keys move", fontsize=10)
        axes.set(ylabel="keys", ylim=(0, 600))
        names = [*SERVERS, *(f"{server}\nafter" for server in left)]
        base = [0] * len(names)
        for colour, origin in zip(COLOURS, SERVERS, strict=False):
            counts = Counter(after for before, after in pairs if before == origin)
            total = sum(counts.values())
            heights = [*(total * (server == origin) for server in SERVERS), *(counts[server] for server in left)]
            axes.bar(names, heights, bottom=base, color=colour, label=f"was on {origin}")
            base = [low + height for low, height in zip(base, heights, strict=True)]
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="x", labelsize=8)
    axes.legend(fontsize=8, loc="upper left")
    save(figure, __file__, "keys")


if __name__ == "__main__":
    main()
