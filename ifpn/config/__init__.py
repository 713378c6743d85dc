"""The edge: a composed configuration is checked here, and becomes objects here and nowhere else."""
