"""``python -m citus_cluster``, and the console script ``citus-cluster``."""

from citus_cluster.entry import guard


def main() -> None:
    """Import the program, and run it."""
    guard()
    from citus_cluster.cli import program

    program.main()


if __name__ == "__main__":
    main()
