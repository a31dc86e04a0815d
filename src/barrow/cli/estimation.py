"""``barrow estimate``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from barrow.cli import files, plots, report
from barrow.cli.complaint import Complaint, one_line
from barrow.cli.files import Measure
from barrow.cli.transport import Json, Plot
from barrow.estimate.images import Images
from barrow.studies import need

MAPPED = 2**28  # bytes from which a .npy file is read as it is needed, and never whole
NAMED = 3  # broken files that are named

X = Annotated[
    Path, typer.Argument(metavar="X", help="Samples: .npy, .npz, .csv or a folder of images.", show_default=False)
]
Y = Annotated[Path, typer.Argument(metavar="Y", help="Samples of the other law.", show_default=False)]


def estimate(
    x: X,
    y: Y,
    steps: Annotated[int, typer.Option(help="Training steps of the critic, at most.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Samples of each law a step.")] = 256,
    patience: Annotated[
        int | None,
        typer.Option(help="Evaluations without progress that end the training; none trains to the end."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to train: cpu, cuda, ...  \\[cpu]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    confidence: Annotated[float, typer.Option(help="Probability that the truth is in the bracket.")] = 0.95,
    size: Annotated[int | None, typer.Option(help="Resize images to so many pixels a side.")] = None,
    colour: Annotated[
        bool | None,
        typer.Option("--colour/--grey", "--color/--gray", help="Three channels, or luminance.  \\[colour]"),
    ] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.")] = False,
    json: Json = False,
    plot: Plot = None,
) -> None:
    """The distance W_1 between the two laws that samples were drawn from, with a 1-Lipschitz network.

    A critic, 1-Lipschitz by construction, is trained on one half of the samples and judged on the other: that bounds
    W_1 between the laws from below. Exact transport between minibatches bounds it from above. With --patience, part of
    the first half tells when to stop, and the other half still judges.

    FILES. .npy or .npz as for `barrow distance`, of any shape (n, ...): images keep theirs; .csv likewise; a .npy of
    256 MiB or more is never in memory as a whole. A folder of images: each is a sample of levels from 0 (black) to 1,
    of shape (3, height, width), or (height, width) with --grey; with --size it is cut to a square about its centre and
    resized. Subfolders are searched, in the order of paths; .png, .jpg, .jpeg, .bmp, .webp, .tif and .tiff are images,
    other files are ignored and counted, and names that begin with a dot are not seen. At least four samples a law, 16
    with --patience, no weights.

    JSON KEYS. quantity ("W_1"); value, stderr; lower, upper, confidence: the bracket; lipschitz_bound: the certified
    Lipschitz constant of the critic; steps: taken; batch_size, patience, device, seed; n, m, shape: of one sample;
    skipped: images that could not be read; ignored: other files in the folders; seconds. Infinities are null.

    EXIT CODES. 0: done; 2: bad input; 130: interrupted.
    """
    if plot is not None:
        plots.plottable(plot)
    try:
        generator = torch.Generator().manual_seed(seed)
    except (RuntimeError, ValueError, OverflowError):
        raise Complaint(f"--seed is {seed}, but it must be a whole number of 64 bits") from None
    _refuse_idle(x, y, size=size is not None, colour=colour is True, grey=colour is False, skip_broken=skip_broken)
    from barrow.estimate import estimate as run

    curve: list[tuple[int, float]] = []
    start = time.perf_counter()
    with report.bar(silent=json) as progress:

        def note(step: int, total: int, value: float) -> None:
            curve.append((step, value))
            progress(f"critic: W_1 >= {value:.5g} on its samples", step, total)

        def read(path: Path, which: str) -> Images | Measure | Path:
            return _read(
                path,
                size,
                colour is not False,
                skip_broken,
                lambda done, all_: progress(f"reading {which}", done, all_),
            )

        try:
            left, right = _alike(read(x, "X"), read(y, "Y"))
            found = run(
                left.points if isinstance(left, Measure) else left,
                right.points if isinstance(right, Measure) else right,
                steps=steps,
                batch_size=batch_size,
                patience=patience,
                device=device,
                confidence=confidence,
                generator=generator,
                progress=note,
            )
        except ValueError as error:
            raise Complaint(one_line(error)) from None
    seconds = time.perf_counter() - start
    if plot is not None:
        plots.save(plots.draw_training(curve, found), plot)
    folders = [samples for samples in (left, right) if isinstance(samples, Images)]
    broken = [path for folder in folders for path in folder.broken]
    ignored = sum(folder.ignored for folder in folders)
    n, m = found.counts
    place = next(found.critic.parameters()).device
    if json:
        report.one_line_json({
            "quantity": "W_1", "value": found.value, "stderr": found.stderr, "lower": found.lower, "upper": found.upper,
            "confidence": found.confidence, "lipschitz_bound": found.lipschitz_bound, "steps": found.steps,
            "batch_size": batch_size, "patience": patience, "device": str(place), "seed": seed, "n": n, "m": m,
            "shape": list(found.shape), "skipped": len(broken), "ignored": ignored, "seconds": seconds,
        })  # fmt: skip
        return
    rows = {
        "W_1": f"{found.value:.6g} ± {found.stderr:.2g}",
        "truth in": f"[{found.lower:.6g}, {found.upper:.6g}]  (with confidence {found.confidence:g})",
        "critic": f"Lipschitz constant at most {found.lipschitz_bound:.8g}, {found.steps} steps",
        "samples": f"{n} and {m} of shape {found.shape}",
    }
    if broken:
        named = ", ".join(map(str, broken[:NAMED]))
        rows["skipped"] = f"{len(broken)} broken: {named}{', ...' if len(broken) > NAMED else ''}"
    if ignored:
        rows["ignored"] = f"{ignored} {'file' if ignored == 1 else 'files'} of other kinds"
    report.pairs(rows | {"seconds": f"{seconds:.3f}"})


def _refuse_idle(x: Path, y: Path, **options: bool) -> None:
    """An option for images that would change nothing."""
    if x.is_dir() or y.is_dir():
        return
    for name, given in options.items():
        if given:
            raise Complaint(
                f"--{name.replace('_', '-')} is for folders of images, but neither {x} nor {y} is one: leave it out"
            )


def _read(
    path: Path, size: int | None, colour: bool, skip_broken: bool, progress: Callable[[int, int], object]
) -> Images | Measure | Path:
    if path.is_dir():
        need("PIL")
        return Images(path, size=size, colour=colour, skip_broken=skip_broken, progress=progress)
    try:
        large = path.suffix.lower() == ".npy" and path.stat().st_size >= MAPPED
    except OSError:  # the reader has the words for it
        large = False
    return path if large else files.read_samples(path)


def _alike(
    x: Images | Measure | Path, y: Images | Measure | Path
) -> tuple[Images | Measure | Path, Images | Measure | Path]:
    """Two arrays of one shape and one precision; the rest is judged where it is read."""
    if not (isinstance(x, Measure) and isinstance(y, Measure)):
        return x, y
    shapes = [tuple(t.points.shape[1:]) for t in (x, y)]
    if shapes[0] != shapes[1]:
        raise Complaint(
            f"a sample of {x.path} has shape {shapes[0]} but one of {y.path} has shape {shapes[1]}: both must have the "
            "same shape"
        )
    return files.alike(x, y)
