"""The benchmarks' own machinery at tiny sizes: inputs, truths, judges, the search for an effort, peers' conventions."""

import csv
import dataclasses
import math

import pytest
import torch
import typer
from benchmarks import clouds, entropic, gpu, harness, line, losses, measure, peers
from benchmarks.harness import ABSENT, Case, Contender, Judged, Row, Setting
from benchmarks.lipschitz import CONVOLUTION_STEP, LINEAR_STEP
from typer.testing import CliRunner

import barrow

TINY = {
    "clouds": (clouds.CLOUDS, Setting(12, 12, 2, "uniform")),
    "line": (line.LINE, Setting(12, 12, 1, "uniform", "p=2")),
    "sweep": (entropic.SWEEP, Setting(12, 10, 3, "uniform", "5%")),
    "sweep, far away": (entropic.SWEEP, Setting(12, 10, 3, "uniform", "5% +100")),
    "sinkhorn": (entropic.SINKHORN, Setting(12, 10, 3, "uniform", "5%")),
    "sinkhorn, far away": (entropic.SINKHORN, Setting(12, 10, 3, "uniform", "5% +100")),
    "manysmall": (entropic.MANYSMALL, Setting(6, 3, 2, "uniform", "5%")),
    "divergence": (losses.DIVERGENCE, Setting(12, 10, 3, "uniform", "5%")),
    "memory": (losses.MEMORY, Setting(12, 10, 3, "uniform", "5%")),
    "histograms, gap": (losses.HISTOGRAMS, Setting(8, 3, 0, "dirichlet", "lambda=50, gap")),
    "histograms, marginals": (losses.HISTOGRAMS, Setting(8, 3, 0, "dirichlet", "lambda=50, marginals")),
}


def run(contender, data):
    return contender.run(data, contender.efforts[-1]) if contender.efforts else contender.run(data)


@pytest.mark.parametrize("name", TINY)
def test_our_answer_is_judged_good(name):
    case, setting = TINY[name]
    data = case.make(setting)
    ours = next(c for c in case.contenders if c.package == "barrow")
    judged = Judged(*case.judge(case.known(data), ours.answer(run(ours, data))))
    assert math.isfinite(judged.value)
    assert abs(judged.gap) <= 1.01e-3
    assert "is off" not in judged.note


def test_judges_go_red():
    case, setting = TINY["sinkhorn"]
    data = case.make(setting)
    known = case.known(data)
    f, g = entropic.own(entropic.barrow_solve(data))
    bent = peers.Potentials(f + torch.linspace(0, 1, len(f)), g)
    assert case.judge(known, bent).gap > 1e-2
    # The gap forgives a constant, the claim does not.
    lifted = case.judge(known, peers.Potentials(f + 0.1, g))
    assert lifted.gap <= 1e-3
    assert "is off" in lifted.note
    assert "is off" in case.judge(known, peers.Potentials(f * torch.nan, g)).note

    case, setting = TINY["divergence"]
    data = case.make(setting)
    known = case.known(data)
    assert case.judge(known, harness.Value(known.value, known.gradient)).gap == 0
    assert case.judge(known, harness.Value(known.value, 2 * known.gradient)).gap > 0.05
    assert case.judge(known, harness.Value(2 * known.value, known.gradient)).gap > 0.5

    case, setting = TINY["histograms, marginals"]
    data = case.make(setting)
    known = case.known(data)
    assert case.judge(known, losses.plain_loop(data, 1)).gap > 10 * case.judge(known, losses.plain_loop(data, 100)).gap


def test_far_clouds_are_the_same_problem():
    near, far = (entropic.make(Setting(9, 7, 3, "uniform", task)) for task in ("5%", "5% +100"))
    assert near.epsilon == far.epsilon
    C = entropic.squares(near.x.double(), near.y.double())
    assert math.isclose(near.epsilon, 0.05 * C.mean(), rel_tol=1e-5)
    assert torch.allclose(entropic.squares(far.x.double(), far.y.double()), C, atol=1e-3)


# -- the search for an effort, and what becomes of those that fail -----------------------------------------------------


def falling(gap, **options):
    """A contender whose gap is ``gap(effort)``."""
    return Contender("falling", "torch", lambda data, k: k, gap, efforts=peers.ladder(1, 1000), **options)


def case_of(*contenders, goal=0.01, limit_s=60.0):
    return Case(
        "case",
        contenders,
        settings=lambda sizes: [Setting(1, 1, 1, "uniform")],
        make=lambda setting: None,
        known=lambda data: None,
        judge=lambda known, gap: Judged(0.0, gap),
        goal=lambda known: goal,
        limit_s=limit_s,
    )


def test_the_least_effort_is_found():
    contender = falling(lambda k: 1 / k)
    best, gave_up = measure.least_effort(case_of(contender), None, contender, None)
    assert not gave_up
    assert best.effort == next(k for k in contender.efforts if k >= 100)


def test_a_search_gives_up():
    stuck = falling(lambda k: 0.5)
    best, why = measure.least_effort(case_of(stuck), None, stuck, None)
    assert "does not help" in why
    assert best.effort < 1000
    slow = falling(lambda k: 1 / k)
    best, why = measure.least_effort(case_of(slow, limit_s=0.0), None, slow, None)
    assert "in 0 s" in why
    assert best.effort == 1


def rows_of(monkeypatch, *contenders, **options):
    monkeypatch.setattr(measure, "_apart", lambda *rest: measure.Apart(0.0, 1.5, None))
    case = case_of(*contenders, **options)
    return measure.compare(case, Setting(1, 1, 1, "uniform"), 2)


def test_rows_tell_who_is_absent_and_who_fails(monkeypatch):
    def broken(data):
        raise RuntimeError("out of luck\nand more")

    good = Contender("good", "torch", lambda data: None, lambda found: 0.001)
    poor = Contender("poor", "torch", lambda data: None, lambda found: 0.5)
    absent = Contender("absent", "no-such-package-anywhere", lambda data: None, lambda found: 0.0)
    rows = rows_of(monkeypatch, good, poor, absent, Contender("broken", "torch", broken, lambda found: 0.0))
    assert [row.repeats for row in rows] == [2, 2, 0, 0]
    assert rows[0].ratio_to_first_peer == 1
    assert rows[0].peak_mb == 1.5
    assert math.isnan(rows[1].ratio_to_first_peer)  # the speed of a wrong answer is nothing
    assert rows[2].version == ABSENT
    assert math.isnan(rows[2].median_s)
    assert rows[3].note == "RuntimeError: out of luck"
    with pytest.raises(RuntimeError):
        rows_of(monkeypatch, Contender("ours", "barrow", broken, lambda found: 0.0))


def test_a_file_of_fewer_columns_is_completed(tmp_path, monkeypatch):
    rows = rows_of(monkeypatch, falling(lambda k: 1 / k))
    names = [field.name for field in dataclasses.fields(Row)]
    path = tmp_path / "results.csv"
    path.write_text(",".join(names[:-1]) + "\n" + ",".join("x" * (len(names) - 1)) + "\n")
    harness.append(rows, path)
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == names
    assert {len(line) for line in lines} == {len(names)}
    assert lines[1][-1] == ""
    assert lines[2][-1].endswith("iterations")


# -- peers' conventions ------------------------------------------------------------------------------------------------

PEERS = {
    "POT sinkhorn_log": ("ot", peers.pot("sinkhorn_log"), 500, 1e-6),
    "POT sinkhorn": ("ot", peers.pot("sinkhorn"), 500, 1e-6),
    "GeomLoss": ("geomloss", peers.geomloss("tensorized"), 200, 1e-4),
    "OTT": ("ott", peers.ott(), 500, 1e-6),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_peers_potentials_are_ours(name):
    package, solve, effort, tolerance = PEERS[name]
    pytest.importorskip(package)
    data = entropic.make(Setting(30, 25, 2, "uniform", "10%"))
    f, g = (t.double() for t in solve(data, effort))
    x, y, epsilon = data
    exact = barrow.Problem(barrow.Points(x.double(), y.double()), epsilon=epsilon)
    known = barrow.solve(exact, barrow.Sinkhorn(tol=1e-7))
    assert torch.isclose(f.mean() + g.mean(), known.value, rtol=tolerance)
    # Certifying repairs: the potentials must be right before it.
    P = ((f[:, None] + g - entropic.squares(x.double(), y.double())) / epsilon).exp() / (30 * 25)
    assert torch.allclose(P.sum(1) * 30, torch.ones(30).double(), atol=100 * tolerance)


@pytest.mark.filterwarnings("ignore")
def test_pot_batch_is_ours():
    pytest.importorskip("ot")
    data = entropic.make_small(Setting(8, 3, 2, "uniform", "10%"))
    known = entropic.truth(data)
    assert entropic.judge(known, peers.pot_batch(data, 300)).gap <= 1e-4
    assert not entropic.judge(known, peers.pot_batch(data, 300)).note


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to measure on")
def test_nothing_is_measured_on_a_device_that_is_not_there(tmp_path):
    app = typer.Typer()
    app.command()(gpu.main)
    said = CliRunner().invoke(app, ["--output", str(tmp_path / "gpu.csv")])
    assert said.exit_code == 1
    assert "There is no CUDA device here" in said.output
    assert not (tmp_path / "gpu.csv").exists()


@pytest.mark.parametrize("case", [LINEAR_STEP, CONVOLUTION_STEP], ids=lambda case: case.name)
def test_training_steps_of_our_layers_stay_orthogonal(case):
    data = case.make(Setting(4, 3, 8, "orthogonal"))
    ours, plain = case.contenders[0], case.contenders[-1]
    for contender, orthogonal in ((ours, True), (plain, False)):
        for _ in range(2):
            found = contender.run(data)
        judged = case.judge(None, contender.answer(found))
        assert (judged.gap < 1e-5) == orthogonal
