"""`python -m m2d`: the command, for launchers that start modules (`accelerate launch -m m2d train ...`)."""

from __future__ import annotations

from m2d.cli.main import main

if __name__ == "__main__":
    main()
