"""Measurements, each a script: `python -m benchmarks.bench_solver`."""
