"""One thread, the same random numbers and the same names every time, and no deadlines."""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # on small problems threads that wait for each other cost more than they bring

settings.register_profile(
    "barrow", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("barrow")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: a compressed file holds the time of its making: another test each run."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _no_data_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data that somebody fetched must not change what the tests see; those of real data ask for them by name."""
    if "BARROW_DATA" not in os.environ:
        monkeypatch.setenv("BARROW_DATA", str(tmp_path_factory.getbasetemp() / "no-data"))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (whoever still uses it shall be repeatable)
    torch.manual_seed(0)
