"""What is said to a user whose request cannot be met, and the exit codes."""

from __future__ import annotations

CONVERGED = 0
BROKEN = 1  # a claim does not hold, a self-check fails
BAD_INPUT = 2
NOT_CERTIFIED = 3  # there is a value and a bracket, wider than tol
INTERRUPTED = 130


class Complaint(Exception):
    """One line: what was given, what is expected, what to do. Ends the program with :data:`BAD_INPUT`."""


class Interrupted(Exception):
    """One line: what is kept and how to go on. Ends the program with :data:`INTERRUPTED`."""


def one_line(error: object) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())
