"""The commands, and the edge they stand on: Hydra, sweeps, processes. Imports torch inside functions only."""
