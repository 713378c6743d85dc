"""The paper: its numbers, its tables from our runs, its figures from our checkpoints. Nothing in `ifpn` imports it."""
