"""``python -m gyrostat``."""

from __future__ import annotations

import sys

from gyrostat.cli import main

if __name__ == "__main__":
    sys.exit(main())
