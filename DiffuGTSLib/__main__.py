"""`diffugts` and `python -m DiffuGTSLib`: the way in, where Ctrl-C is heard while the program is still loading."""

import sys


def main() -> None:
    """Load the command, and run it on the process's arguments."""
    try:
        from DiffuGTSLib import cli
    except KeyboardInterrupt:
        sys.stderr.write("Stopped before anything was begun.\n")
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
