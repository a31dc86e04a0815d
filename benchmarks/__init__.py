"""Benchmarks against peers; results.csv holds what they measured."""

import os

# POT's optional backends would be imported, timed and counted otherwise.
for _backend in ("JAX", "TENSORFLOW", "CUPY"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_backend}", "1")
