"""The paper's tables and figures from runs and checkpoints: `python report.py`, or `python report.py --help`."""

import sys

from ifpn.errors import UserError
from reproduce.commands import run

if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
