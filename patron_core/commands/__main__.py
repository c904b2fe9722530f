"""`python -m patron_core.commands` is `patron`, where the folder of scripts is not on the PATH."""

from __future__ import annotations

import sys

from patron_core.commands import main

if __name__ == "__main__":
    sys.exit(main())
