"""Two nodes hold one balance. Cut the network between them, write on both, and let the last write win."""

import argparse
from dataclasses import dataclass, field


class UnavailableError(Exception):
    """The node keeps its promise of consistency and refuses to answer."""


@dataclass
class Node:
    name: str
    consistent: bool = False  # CP: refuse writes that the other node cannot get; otherwise AP: accept them
    peers: list["Node"] = field(default_factory=list)
    reachable: bool = True
    clock: int = 0  # logical (Lamport): counts writes, because two computers never have exactly the same time
    value: int = 0
    version: tuple[int, str] = (0, "")  # the clock at the write, then the node's name, which decides between equals

    def write(self, value: int) -> None:
        if not self.reachable:
            print(f"PARTITION: {self.name} cannot reach {', '.join(peer.name for peer in self.peers)}")
            if self.consistent:
                raise UnavailableError(f"{self.name} refuses to write {value}")
        self.clock += 1
        self.value, self.version = value, (self.clock, self.name)
        print(f"{self.name} writes {value}")
        if self.reachable:
            for peer in self.peers:
                peer.receive(value, self.version)

    def receive(self, value: int, version: tuple[int, str]) -> None:
        self.clock = max(self.clock, version[0])
        if version > self.version:
            self.value, self.version = value, version


def heal(a: Node, b: Node) -> None:
    """Exchange what both have; each keeps the later version: last write wins."""
    a.reachable = b.reachable = True
    before = a.value, a.version
    a.receive(b.value, b.version)
    b.receive(*before)


def heal_by_merging(a: Node, b: Node, common: int) -> None:
    """Add up how each side has changed the value that both had before: neither write is lost."""
    a.reachable = b.reachable = True
    a.write(a.value + b.value - common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", choices=["availability", "consistency"], default="availability")
    parser.add_argument("--resolve", choices=["last-write-wins", "merge"], default="last-write-wins")
    options = parser.parse_args()
    consistent = options.choose == "consistency"
    a, b = Node("A", consistent), Node("B", consistent)
    a.peers, b.peers = [b], [a]

    a.write(100)
    print(f"B reads {b.value}\n")
    a.reachable = b.reachable = False
    for node, value in ((a, 80), (b, 120)):
        try:
            node.write(value)
        except UnavailableError as error:
            print(f"503: {error}")
    print(f"{'Conflict!' if a.value != b.value else 'Consistent:'} A={a.value}, B={b.value}\n")
    if options.resolve == "merge":
        heal_by_merging(a, b, common=100)
    else:
        heal(a, b)
    print(f"Healed, {options.resolve}: A={a.value}, B={b.value}")


if __name__ == "__main__":
    main()
