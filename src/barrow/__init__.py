"""Optimal-transport distances and losses for PyTorch, each with a proof of how far it can be from the truth."""
