"""Benchmarks against peers; results.csv holds what they measured."""

import atexit
import os
import shutil
import tempfile

# POT's optional backends would be imported, timed and counted otherwise.
for _backend in ("JAX", "TENSORFLOW", "CUPY"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_backend}", "1")

# KeOps, which POT imports where it can, compiles into a folder of this run that its processes share.
if "KEOPS_CACHE_FOLDER" not in os.environ:
    os.environ["KEOPS_CACHE_FOLDER"] = tempfile.mkdtemp(prefix="barrow-keops-")
    atexit.register(shutil.rmtree, os.environ["KEOPS_CACHE_FOLDER"], ignore_errors=True)
for _name in ("KEOPS_VERBOSE", "PYKEOPS_VERBOSE"):
    os.environ.setdefault(_name, "0")
