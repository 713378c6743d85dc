"""`python -m ifpn …` is `ifpn …`."""

from ifpn.cli.main import main

if __name__ == "__main__":
    main()
