"""The torchlip names, and the published notebook run with nothing changed but its import lines."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from barrow import nn as barrow_nn
from barrow.compat import torchlip
from barrow.compat.torchlip.functional import kr_loss
from barrow.nn import lipschitz_bound

SEEDS = Path(__file__).resolve().parents[2] / "shared" / "seeds"
IMPORTS = {
    "from deel import torchlip": "from barrow.compat import torchlip",
    "from deel.torchlip.functional import kr_loss": "from barrow.compat.torchlip.functional import kr_loss",
}


def reindent(lines: list[str]) -> str:
    """Give flattened code its indentation back: a colon opens a block, `return` and a `def` close one."""
    level, depth, quoted, result = 0, 0, False, []
    for line in lines:
        if depth == 0 and not quoted and line.startswith("def "):
            level = 0
        result.append("    " * level + line)
        quoted ^= line.count('"""') % 2 == 1
        if quoted or '"""' in line:
            continue
        bare = line.split("#")[0].rstrip()
        depth += sum(bare.count(c) for c in "([{") - sum(bare.count(c) for c in ")]}")
        if depth == 0 and bare.endswith(":"):
            level += 1
        elif depth == 0 and bare.startswith("return"):
            level -= 1
    return "\n".join(result)


def parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def code_cells(text: str) -> list[str]:
    """The runs of lines that are Python, each as long as it can be; single words of the prose are not."""
    lines = text.splitlines()
    cells, start = [], 0
    while start < len(lines):
        stop = next((s for s in range(len(lines), start, -1) if parses(reindent(lines[start:s]))), start)
        code = reindent(lines[start:stop])
        if stop > start and not all(
            isinstance(s, ast.Expr) and isinstance(s.value, ast.Name) for s in ast.parse(code).body
        ):
            cells.append(code)
        start = max(stop, start + 1)
    return cells


def notebook() -> str:
    pytest.importorskip("tqdm")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    for path in sorted(SEEDS.glob("*.txt")) if SEEDS.is_dir() else []:
        text = path.read_text()
        if "torchlip" in text and "kr_loss" in text:
            code = "\n".join(code_cells(text))
            for old, new in IMPORTS.items():
                assert code.count(old) == 1
                code = code.replace(old, new)
            return code
    pytest.skip("the notebook's text is not next to this repository")


def run_notebook(code: str, seed: int, lr: str = "0.01") -> dict[str, object]:
    import matplotlib.pyplot as plt

    torch.manual_seed(seed)
    names: dict[str, object] = {}
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        exec(code.replace("lr=0.01", f"lr={lr}"), names)
    plt.close("all")
    return names


def final_loss(names: dict[str, object]) -> float:
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    return loss.item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_notebook_ends_at_the_distance(seed: int) -> None:
    names = run_notebook(notebook(), seed)
    model = names["wass"]
    assert isinstance(model, nn.Module)
    assert abs(final_loss(names) + 35) < 0.01
    assert 0.999 < lipschitz_bound(model) <= 1


@pytest.mark.parametrize("lr", ["1", "1e3", "1e6", "1e30"])
def test_weights_survive_any_learning_rate(lr: str) -> None:
    code = notebook().replace("n_epochs = 10", "n_epochs = 2")
    model = run_notebook(code, 0, lr)["wass"]
    assert isinstance(model, nn.Module)
    for layer in model.modules():
        if hasattr(layer, "weight"):
            s = torch.linalg.svdvals(layer.weight.detach().double())
            assert s.min() > 1 - 1e-5
            assert s.max() < 1 + 1e-5


def test_the_cell_finder_finds_code_and_only_code() -> None:
    text = (
        "A title¶\nSome words of prose,\nx = 1\nfor i in range(3):\nif i == 1:\ncontinue_ = i\nx\nand more prose.\n"
        "y = x + 1\n"
    )
    cells = code_cells(text)
    assert len(cells) == 2
    names: dict[str, object] = {}
    exec("\n".join(cells), names)
    assert names["continue_"] == 1
    assert names["y"] == 2


@pytest.mark.parametrize("k", [0.5, 1.0, 3.0])
def test_coefficient_is_the_lipschitz_constant(k: float) -> None:
    torch.manual_seed(0)
    spectral = torchlip.SpectralLinear(6, 4, k_coef_lip=k)
    assert torch.allclose(torch.linalg.svdvals(spectral.weight), torch.full((4,), k), rtol=1e-5)
    rows = torchlip.FrobeniusLinear(6, 4, k_coef_lip=k)
    assert torch.allclose(rows.weight.norm(dim=1), torch.full((4,), k), rtol=1e-5)
    whole = torchlip.FrobeniusLinear(6, 4, disjoint_neurons=False, k_coef_lip=k)
    assert math.isclose(whole.weight.norm().item(), k, rel_tol=1e-5)
    linear_part = torchlip.SpectralLinear(6, 6, k_coef_lip=k)
    model = torchlip.Sequential(linear_part, torchlip.FullSort(), torchlip.SpectralLinear(6, 6), k_coef_lip=2.0)
    x, y = torch.randn(2, 6), torch.randn(2, 6)
    # An orthogonal square layer under a sort keeps distances of nearby points, so the constant is reached.
    y = x + 1e-3 * (y - x)
    ratio = (model(x) - model(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert torch.allclose(ratio, torch.full((2,), 2 * k), rtol=1e-2)
    for layer, bound in ((spectral, k), (model, 2 * k), (torchlip.FrobeniusLinear(6, 1, k_coef_lip=k), k)):
        assert bound * (1 - 1e-5) < lipschitz_bound(layer) < bound * (1 + 1e-6)


def test_sequential_copies_nest_and_print() -> None:
    inner = torchlip.Sequential(torchlip.SpectralLinear(4, 4, k_coef_lip=2), k_coef_lip=3)
    outer = copy.deepcopy(torchlip.Sequential(inner, torchlip.FullSort(), k_coef_lip=5))
    assert math.isclose(lipschitz_bound(outer), 30, rel_tol=1e-5)
    assert "k_coef_lip=5.0" in repr(outer)
    assert "k_coef_lip=2.0" in repr(outer)
    with pytest.raises(ValueError, match=r"k_coef_lip=5\.0 has no coefficient of its own"):
        outer[:1]
    assert len(torchlip.Sequential(*outer)[:1]) == 1


def test_a_refusal_names_the_layer_inside_a_sequential() -> None:
    model = nn.Sequential(nn.Flatten(), torchlip.Sequential(nn.BatchNorm1d(4)))
    with pytest.raises(ValueError, match=r"'1\.0' \(BatchNorm1d\)"):
        lipschitz_bound(model)


def test_every_advertised_name_exists() -> None:
    names: dict[str, object] = {}
    exec("from barrow.compat.torchlip import *", names)
    assert set(torchlip.__all__) <= set(names)


def test_numpy_sizes() -> None:
    layer = torchlip.SpectralLinear(np.prod((2, 3)), np.int64(4))
    assert layer(torch.zeros(5, 6)).shape == (5, 4)
    assert "in_features=6, out_features=4, bias=True" in repr(layer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torchlip.SpectralLinear(4, 4, eps_bjorck=None), "eps_bjorck=None"),
        (lambda: torchlip.SpectralLinear(4, 4, eps_bjorck=1e-12), "eps_bjorck = 1e-12 cannot be met"),
        (lambda: torchlip.SpectralLinear(4, 4, eps_spectral=float("nan")), "eps_spectral = nan cannot be met"),
        (lambda: torchlip.SpectralLinear(4, 4, k_coef_lip=0), "k_coef_lip must be positive"),
        (lambda: torchlip.FrobeniusLinear(4, 4, k_coef_lip=-1), "k_coef_lip must be positive"),
        (lambda: torchlip.Sequential(k_coef_lip=float("inf")), "k_coef_lip must be positive"),
        (lambda: torchlip.SpectralLinear(0, 4), "in_features must be a positive integer"),
    ],
)
def test_options_without_a_meaning_are_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("column", [True, False])
def test_kr_loss(dtype: torch.dtype, column: bool) -> None:
    output = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    target = torch.tensor([0, 1, 1]).to(dtype)
    loss = kr_loss(output[:, None], target[:, None]) if column else kr_loss(output, target)
    assert loss.shape == ()
    assert loss.item() == -3
    loss.backward()
    assert output.grad is not None
    assert output.grad.tolist() == [1.0, -0.5, -0.5]


def test_kr_loss_takes_signed_labels_of_another_shape() -> None:
    assert kr_loss(torch.tensor([[1.0], [5.0]]), torch.tensor([-1, 1])).item() == -4


@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        (torch.ones(3, 1), torch.ones(3, 1), "of 0 or below"),
        (torch.ones(3, 1), torch.zeros(3, 1), "above 0"),
        (torch.ones(0), torch.ones(0), "above 0"),
        (torch.ones(3, 2), torch.ones(3, 2), "one value and one label"),
        (torch.ones(3, 1), torch.ones(4), "one value and one label"),
        (torch.ones(3, dtype=torch.int64), torch.ones(3), "floating point"),
    ],
)
def test_kr_loss_refuses(output: torch.Tensor, target: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kr_loss(output, target)


# -- losses of classifiers ---------------------------------------------------------------------------------------------

F = torch.tensor([[2.0], [0.0], [-1.0], [0.25]])
Y = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
G = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
HOT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
LOSSES = {  # ours, what each sample contributes, data
    # KR = 1 - -0.375; weights are +-2; hinges 0, 0.5, 0, 0.75.
    "KRLoss": (torchlip.KRLoss(), [4.0, 0.0, 2.0, -0.5], F, Y),
    "NegKRLoss": (torchlip.NegKRLoss(), [-4.0, 0.0, -2.0, 0.5], F, Y),
    "HingeMarginLoss": (torchlip.HingeMarginLoss(), [0.0, 0.5, 0.0, 0.75], F, Y),
    "HKRLoss": (torchlip.HKRLoss(0.25), [-3.0, 0.125, -1.5, 0.5625], F, Y),
    "HKRLoss of alpha 1": (torchlip.HKRLoss(1, 2.0), [0.0, 1.0, 0.0, 1.25], F, Y),
    # Weights are +-2, 0 in the third column.
    "KRMulticlassLoss": (torchlip.KRMulticlassLoss(), [2 / 3, 0.5 / 3], G, HOT),
    "HingeMulticlassLoss": (torchlip.HingeMulticlassLoss(), [0.5 / 3, 0.75 / 3], G, HOT),
    "HKRMulticlassLoss": (torchlip.HKRMulticlassLoss(0.5), [-0.75 / 3, 0.125 / 3], G, HOT),
    "CategoricalHingeLoss": (torchlip.CategoricalHingeLoss(), [0.0, 0.75], G, HOT),
    # n = log_4(5/4) and log_4(sqrt 2 + 1/2).
    "LseHKRMulticlassLoss": (
        torchlip.LseHKRMulticlassLoss(),
        [0.5 + math.log(1.25, 4), 0.5 + math.log(2**0.5 + 0.5, 4)],
        G,
        HOT,
    ),
    # Outputs 2, 0, -2 and 0.5, 1, -1: n = log_4(17/16) and log_4(9/4).
    "LseHKRMulticlassLoss of temperature 2": (
        torchlip.LseHKRMulticlassLoss(0, 2.0),
        [math.log(17 / 16, 4) - 2, math.log(9 / 4, 4) - 1],
        G,
        HOT,
    ),
    "TauCrossEntropyLoss": (
        torchlip.TauCrossEntropyLoss(2.0),
        [math.log1p(math.exp(-2) + math.exp(-4)) / 2, math.log1p(math.exp(-0.5) + math.exp(-2)) / 2],
        G,
        HOT,
    ),
}


@pytest.mark.parametrize(("loss", "terms", "f", "y"), LOSSES.values(), ids=LOSSES.keys())
def test_losses_by_hand_and_their_reductions(loss: nn.Module, terms: list[float], f: torch.Tensor, y) -> None:
    known, loss = torch.tensor(terms), copy.deepcopy(loss)
    assert torch.allclose(loss(f, y), known.mean(), atol=1e-6)
    for reduction, value in (("sum", known.sum()), ("none", known), ("auto", known.mean())):
        if isinstance(loss, nn.CrossEntropyLoss) and reduction == "auto":
            continue
        loss.reduction = reduction
        assert torch.allclose(loss(f, y), value, atol=1e-6)
        assert torch.allclose(loss(f, y.bool()), value, atol=1e-6)
        if not isinstance(loss, nn.CrossEntropyLoss):
            assert torch.allclose(loss(f, 2 * y - 1), value, atol=1e-6)
        if f is G:
            assert torch.allclose(loss(f, y.argmax(1)), value, atol=1e-6)


def test_soft_hkr_is_the_native_one_and_saves_its_mean() -> None:
    ours, native = (
        torchlip.SoftHKRMulticlassLoss(0.25, 0.5, 0.75, 2.0),
        barrow_nn.SoftHkr(alpha=0.25, margin=0.5, decay=0.75, sharpness=2.0),
    )
    for k in range(3):
        assert torch.equal(ours(G + k, HOT), native(G + k, HOT))
    assert [v.item() for v in ours.state_dict().values()] == [native.size.item()]
    assert native.size > 0.5
    with pytest.raises(ValueError, match="names 0 classes"):
        ours(9 * G, HOT * 0)
    assert ours.soft.size == native.size


def test_tau_losses_keep_torchs_options_and_the_precision_of_the_input() -> None:
    weight = torch.tensor([1.0, 3.0, 1.0])
    loss = torchlip.TauCrossEntropyLoss(2.0, weight, label_smoothing=0.1)
    known = nn.functional.cross_entropy(2 * G, HOT.argmax(1), weight, label_smoothing=0.1) / 2
    assert torch.allclose(loss(G, HOT.argmax(1)), known)
    bce = torchlip.TauBCEWithLogitsLoss(2.0, reduction="none")
    known = [math.log1p(math.exp(-2 * s)) / 2 for s in (2, 0, 1, -0.25)]
    assert torch.allclose(bce(F, Y).flatten(), torch.tensor(known))
    assert torch.allclose(bce(F, 2 * Y - 1).flatten(), torch.tensor(known))
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert loss(G.to(dtype), HOT).dtype == dtype
        assert bce(F.to(dtype), Y).dtype == dtype
        assert torchlip.HKRLoss(0.5)(F.to(dtype), Y).dtype == dtype


@pytest.mark.parametrize("labels", [HOT, torch.tensor([[0.0, 1.0], [0.0, 1.0]])])
def test_targets_for_several_processes_change_nothing_in_one(labels: torch.Tensor) -> None:
    f = G[:, : labels.shape[1]]
    weights = torchlip.process_labels_for_multi_gpu(labels)
    for make in (torchlip.KRMulticlassLoss, lambda **o: torchlip.HKRMulticlassLoss(0.5, **o)):
        assert torch.allclose(make(multi_gpu=True)(f, weights), make()(f, labels))
    binary = torchlip.process_labels_for_multi_gpu(Y.long())
    assert binary.tolist() == [[2.0], [2.0], [-2.0], [-2.0]]
    for make in (torchlip.KRLoss, torchlip.NegKRLoss, lambda **o: torchlip.HKRLoss(0.5, **o)):
        assert torch.allclose(make(multi_gpu=True)(F, binary), make()(F, Y))


@pytest.mark.parametrize("make", [torchlip.HKRLoss, torchlip.HKRMulticlassLoss])
def test_an_alpha_above_one_is_turned_into_a_share(make) -> None:
    with pytest.warns(UserWarning, match=r"alpha = 3 is above 1 and becomes alpha / \(1 \+ alpha\) = 0\.75"):
        assert make(3).alpha == 0.75


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: torchlip.KRLoss(reduction="max"), r"reduction is 'max', but it must be 'mean', 'sum', 'none' or"),
        (lambda: torchlip.HKRLoss(0.5, true_values=(0, 1)), r"true_values=\(0, 1\) has no meaning"),
        (lambda: torchlip.HKRLoss(-0.5), "alpha is -0.5"),
        (lambda: torchlip.HingeMarginLoss(0), "min_margin is 0"),
        (lambda: torchlip.TauCrossEntropyLoss(0), "tau is 0"),
        (lambda: torchlip.KRLoss()(F, Y * 0), "no label of this batch of 4 is positive"),
        (lambda: torchlip.KRLoss()(F, Y * math.nan), "target contains NaN"),
        (lambda: torchlip.KRLoss(multi_gpu=True)(F, Y.long()), "multi_gpu=True needs one weight an output"),
        (lambda: torchlip.process_labels_for_multi_gpu(Y * 0), "no label of this batch of 4 is positive"),
        (lambda: torchlip.HKRMulticlassLoss(0.5)(F, Y), "one output a class is needed"),
        (lambda: torchlip.KRMulticlassLoss()(G, HOT * 0), "names 0 classes"),
    ],
)
def test_losses_refuse(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
