"""The loop around a game of critic and generator: reproducible to the last bit, also across a kill."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from barrow import check, checkpoint
from barrow.generative.game import Diverged, Row, Wgan

__all__ = ["train"]


class Progress(Protocol):
    """Told the steps that are done, of how many, and the critic's estimate of W_1."""

    def __call__(self, step: int, steps: int, w1: float) -> None: ...


def train(
    game: Wgan,
    steps: int,
    *,
    every: int = 100,
    save: str | os.PathLike[str] | None = None,
    save_every: int = 1000,
    log: str | os.PathLike[str] | None = None,
    schedule: Callable[[float], float] | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Train until so many steps of the generator are done, from where the game or its checkpoint stands.

    A run that was killed at any moment and is started again as before, with the same networks, data, seed and options,
    ends with the same weights and scalars to the last bit (on one machine, where torch itself is deterministic).

    Args:
        game: what is trained.
        steps: of the generator, in all, those done already among them.
        every: steps between two looks; the last step is looked at too.
        save: the checkpoint; a game that has not begun starts from it if it is there.
        save_every: steps between two writes; the last step is written too.
        log: folder of TensorBoard scalars.
        schedule: from the share of the steps that is done, in [0, 1), to a factor on the learning rates.
        progress: called at each look.

    Returns:
        The game's history.

    Raises:
        Diverged: something is not finite any more; the last good checkpoint stays.
        ValueError: the checkpoint is damaged or of another training, or the game is beyond it.
        ImportError: log is given, but tensorboard is not installed.

    >>> import tempfile
    >>> from torch import nn
    >>> path = Path(tempfile.mkdtemp()) / "run.ckpt"
    >>> def fresh():
    ...     networks = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    ...     for k, network in enumerate(networks):
    ...         nn.init.constant_(network.weight, k + 1.0)
    ...     return Wgan(*networks, torch.eye(2), latent=2)
    >>> _ = train(fresh(), 3, save=path)
    >>> again = fresh()
    >>> _ = train(again, 5, save=path)
    >>> whole = fresh()
    >>> _ = train(whole, 5)
    >>> torch.equal(again.generator.weight, whole.generator.weight)
    True

    Source: Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks", ICML 2017, algorithm 1.
    """
    steps, every = check.whole("steps", steps, least=0), check.whole("every", every)
    save_every = check.whole("save_every", save_every)
    path = None if save is None else Path(save)
    if path is not None:
        _resume(game, path)
    with _scalars(log, game.steps) as write:
        for step in range(game.steps + 1, steps + 1):
            if schedule is not None:
                game.scale_rates(schedule((step - 1) / steps))
            try:
                game.step()
            except Diverged as error:
                raise _with_checkpoint(error, path) from None
            if step % every == 0 or step == steps:
                row = game.look()
                write(row)
                if progress is not None:
                    progress(step, steps, row["w1"])
            if path is not None and (step % save_every == 0 or step == steps):
                if not game.finite():
                    raise _with_checkpoint(Diverged(step, "a weight is NaN or infinite"), path)
                checkpoint.save(path, game.state_dict())
    return game.history


def _resume(game: Wgan, path: Path) -> None:
    """Go on from the checkpoint, if there is one."""
    if not path.exists() and not checkpoint.previous(path).exists():
        return
    state = checkpoint.load(path)
    if game.steps == 0:
        game.load_state_dict(state)
    elif state.get("steps") != game.steps:
        raise ValueError(
            f"{path} is at step {state.get('steps')} but the game is at step {game.steps}: begin with a new game to go "
            "on from the checkpoint, or choose another path"
        )


def _with_checkpoint(error: Diverged, path: Path | None) -> Diverged:
    """The same, naming what is left."""
    if path is not None and path.exists():
        error.args = (f"{error}; the last good checkpoint is {path}",)
    return error


@contextlib.contextmanager
def _scalars(log: str | os.PathLike[str] | None, done: int) -> Iterator[Callable[[Row], None]]:
    """Where rows go: to TensorBoard, or nowhere."""
    if log is None:
        yield lambda row: None
        return
    try:
        board = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise ImportError(
            f"log = {os.fspath(log)!r} asks for TensorBoard scalars, but tensorboard is not installed: "
            "pip install tensorboard"
        ) from None
    # What a killed run wrote after its last checkpoint is written again: purge it.
    writer = board.SummaryWriter(os.fspath(log), purge_step=done + 1 if done else None)

    def write(row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, int(row["step"]))
        writer.flush()

    try:
        yield write
    finally:
        writer.close()
