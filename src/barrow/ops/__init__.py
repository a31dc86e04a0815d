"""Tensors in, tensors out: one file an operation. Nothing here knows a Cost, a Problem or a Solver."""
