"""`python -m ifpn.reports RUNS` writes the paper's tables; `python -m ifpn.reports figure5 …` and others draw."""

from __future__ import annotations

import sys

from ifpn.errors import UserError
from ifpn.reports.commands import run

if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
