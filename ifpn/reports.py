"""Moved: `python report.py` of a clone draws the paper's tables and figures. This notice goes in 0.3."""

import sys

if __name__ == "__main__":
    sys.exit("`python -m ifpn.reports` is now `python report.py …` of a clone; `ifpn report` is a table of any sweep.")
