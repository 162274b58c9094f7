"""``python -m citus_cluster``, and the console script ``citus-cluster``."""

from citus_cluster.entry import handle_interrupts


def main() -> None:
    """Import the program, and run it."""
    handle_interrupts()
    from citus_cluster.cli import program

    program.main()


if __name__ == "__main__":
    main()
