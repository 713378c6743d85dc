"""Sweeps (`python train.py -m …`): which jobs are left to do, and how each is run. Imports no torch."""
