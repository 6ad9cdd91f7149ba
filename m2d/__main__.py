"""The command `m2d`, also as `python -m m2d`, for launchers that start modules, such as accelerate."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `m2d`; the entry point of the console script."""
    try:
        from m2d.stop import repeat_lost_interrupt

        sys.unraisablehook = repeat_lost_interrupt
        from m2d.cli.main import main as run
    except KeyboardInterrupt:
        # Ctrl-C in the tenths of a second that it takes to import the command line.
        from m2d.cli.failures import end_interrupted

        sys.exit(end_interrupted(as_json="--json" in sys.argv))
    run()


if __name__ == "__main__":
    main()
