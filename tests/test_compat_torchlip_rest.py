"""torchlip's functions: normalisations, initialisers, hooks, evaluations, activations and losses."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from barrow.compat import torchlip
from barrow.compat.torchlip import functional, init, normalizers, utils
from barrow.nn import FullSort, OrthogonalLinear, lipschitz_bound

F64 = torch.float64


def matrix(rows: int, columns: int, *singular: float) -> Tensor:
    g = torch.Generator().manual_seed(0)
    W = torch.randn(rows, columns, generator=g, dtype=F64)
    U, _, V = torch.linalg.svd(W, full_matrices=False)
    return U @ torch.diag(torch.tensor(singular, dtype=F64)) @ V


# -- normalizers and init ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (5, 3), (3, 3)])
def test_bjorck_iterates_the_cubic_on_the_singular_values(rows: int, columns: int) -> None:
    values = torch.tensor([1.0, 0.5, 0.05], dtype=F64)
    for steps in (1, 4, 15):
        expected = values
        for _ in range(steps):
            expected = 1.5 * expected - 0.5 * expected**3
        got = normalizers.bjorck_normalization(matrix(rows, columns, 1.0, 0.5, 0.05), 0.0, maxiter=steps)
        assert torch.allclose(torch.linalg.svdvals(got), expected, rtol=1e-10)
    slow = torch.linalg.svdvals(normalizers.bjorck_normalization(matrix(rows, columns, 1.0, 0.5, 0.5), 0.0, 0.1, 1))
    assert torch.allclose(slow[1], torch.tensor(1.1 * 0.5 - 0.1 * 0.125, dtype=F64))


def test_bjorck_stops_where_steps_are_small() -> None:
    W = matrix(3, 3, 1.0, 0.999, 0.9)
    w, change, steps = W, math.inf, 0
    while change >= 1e-3 and steps < 15:
        following = 1.5 * w - 0.5 * w @ w.T @ w
        change, w, steps = (following - w).norm().item(), following, steps + 1
    assert 1 < steps < 15
    assert torch.allclose(normalizers.bjorck_normalization(W), w, rtol=1e-12)


def test_bjorck_has_the_gradient_of_its_result() -> None:
    # Elsewhere the cubic term is detached from the fourth step on, so gradients grow by 1.5 a step.
    W = matrix(3, 4, 1.0, 0.6, 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: normalizers.bjorck_normalization(w, 0.0), W)
    kernel = matrix(4, 4, 1.0, 0.9, 0.8, 0.7).reshape(4, 1, 2, 2)
    assert normalizers.bjorck_normalization(kernel).shape == kernel.shape


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_spectral_normalization(scale: float) -> None:
    # Elsewhere one reads a power iteration, which is below the norm, and divides by it plus an epsilon.
    W = matrix(3, 5, 3.0, 2.999, 1.0) * scale
    normal, u, sigma = normalizers.spectral_normalization(W)
    assert math.isclose(torch.linalg.matrix_norm(normal, 2), 1, rel_tol=1e-12)
    assert u.shape == (1, 5)
    assert math.isclose(sigma.item(), 3 * scale, rel_tol=1e-9)
    assert math.isclose((W @ u.T).norm().item(), 3 * scale, rel_tol=1e-9)
    again = normalizers.spectral_normalization(W, u)[0]
    assert torch.allclose(again, normal)


def test_spectral_normalization_gradient_and_zero() -> None:
    W = matrix(3, 4, 3.0, 2.0, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: normalizers.spectral_normalization(w)[0], W)
    assert torch.equal(normalizers.spectral_normalization(torch.zeros(2, 2))[0], torch.zeros(2, 2))


def test_initialisers() -> None:
    W = matrix(3, 5, 3.0, 2.0, 1.0).float()
    assert init.spectral_(W) is W
    assert torch.allclose(torch.linalg.svdvals(W), torch.tensor([1, 2 / 3, 1 / 3]), rtol=1e-5)
    kernel = torch.randn(4, 3, 3, 3)
    assert init.bjorck_(kernel) is kernel
    assert torch.allclose(torch.linalg.svdvals(kernel.flatten(1)), torch.ones(4), rtol=1e-5)
    layer = nn.Linear(4, 4)
    init.bjorck_(layer.weight)
    assert layer.weight.requires_grad
    assert layer.weight.is_leaf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: normalizers.bjorck_normalization(torch.ones(3)), "a weight has rows and columns"),
        (lambda: normalizers.bjorck_normalization(torch.eye(2), beta=0.7), r"beta must be in \(0, 0.5\]"),
        (lambda: normalizers.bjorck_normalization(torch.eye(2), eps=-1.0), "eps must be at least 0"),
        (lambda: normalizers.bjorck_normalization(torch.eye(2), maxiter=0), "maxiter is 0"),
        (lambda: normalizers.spectral_normalization(torch.eye(2), torch.ones(2)), r"needs \(1, 2\)"),
        (lambda: normalizers.spectral_normalization(torch.eye(2), eps=0.0), "eps is 0"),
        (lambda: init.bjorck_(torch.eye(2), beta=0.0), r"beta must be in \(0, 0.5\]"),
        (lambda: init.bjorck_(torch.eye(2), maxiter_bjorck=0), "maxiter_bjorck is 0"),
        (lambda: utils.bjorck_norm(nn.Linear(2, 2), "bias"), "no parameter 'bias' of two dimensions"),
        (lambda: utils.bjorck_norm(nn.Linear(2, 2), eps=1e-9), "cannot be met"),
        (lambda: utils.frobenius_norm(nn.ReLU()), "ReLU has no parameter 'weight'"),
        (lambda: utils.lconv_norm(nn.Linear(2, 2)), "needs a Conv1d or Conv2d, got Linear"),
        (lambda: utils.remove_bjorck_norm(nn.Linear(2, 2)), "has no bjorck_norm"),
        (lambda: utils.remove_lconv_norm(utils.bjorck_norm(nn.Linear(2, 2))), "has no lconv_norm"),
        (lambda: utils.sqrt_with_gradeps(torch.ones(1), 0.0), "eps is 0"),
        (lambda: utils.sqrt_with_gradeps(torch.ones(1).long()), "numbers under a root must be floating point"),
    ],
)
def test_refusals(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


# -- utils -------------------------------------------------------------------------------------------------------------


def test_bjorck_norm_is_exact_in_eval_mode_too_and_for_any_norm() -> None:
    # Elsewhere eval mode keeps the weight of the last training forward, and a large weight diverges.
    layer = utils.bjorck_norm(nn.Conv2d(3, 4, 3)).eval()
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(100)
    assert torch.allclose(torch.linalg.svdvals(layer.weight.flatten(1)), torch.ones(4), rtol=1e-5)
    before = layer.weight.detach().clone()
    assert utils.remove_bjorck_norm(layer) is layer
    assert not nn.utils.parametrize.is_parametrized(layer)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("rows", [True, False])
def test_frobenius_norm(rows: bool) -> None:
    layer = utils.frobenius_norm(nn.Conv2d(3, 4, 3), disjoint_neurons=rows)
    norms = layer.weight.flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.ones(4)) if rows else torch.allclose(norms.norm(), torch.tensor(1.0))
    with torch.no_grad():
        layer.parametrizations.weight.original.zero_()
    assert layer.weight.isfinite().all()
    assert utils.remove_frobenius_norm(layer).weight.isfinite().all()


def unfolding(layer: nn.Module, size: tuple[int, ...]) -> float:
    """The norm of the map from an image of one channel to all its windows."""
    k = math.prod(layer.kernel_size)
    like = type(layer)(
        1, k, layer.kernel_size, layer.stride, layer.padding, layer.dilation, 1, False, layer.padding_mode
    )
    with torch.no_grad():
        like.weight.copy_(torch.eye(k).reshape(like.weight.shape))
    n = math.prod(size)
    columns = like.double()(torch.eye(n, dtype=F64).reshape(n, 1, *size)).reshape(n, -1)
    return torch.linalg.matrix_norm(columns, 2).item()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 5, 2), nn.Conv1d(1, 1, 3, 2, dilation=2), nn.Conv1d(1, 1, 4, 3, 1),
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"), nn.Conv1d(1, 1, 5, padding=2, padding_mode="reflect"),
        nn.Conv1d(1, 1, 5, padding=2, padding_mode="replicate"), nn.Conv1d(1, 1, 7, 2, 3, padding_mode="replicate"),
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), nn.Conv1d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, (3, 2), (2, 1)), nn.Conv2d(1, 1, 3, 1, (1, 0), padding_mode="reflect"),
    ],
    ids=repr,
)  # fmt: skip
def test_lconv_norm_is_the_norm_of_the_windows_for_every_padding(layer: nn.Module) -> None:
    # Elsewhere copies of pixels by reflection and replication are not counted, and Conv1d is divided by too much.
    before = layer.weight.detach().clone()
    factor = (before / utils.lconv_norm(layer).weight.detach()).flatten()[0].item()
    axes = len(layer.kernel_size)
    truth = 0.0
    for size in itertools.product(range(1, 8 if axes == 2 else 24), repeat=axes):
        with contextlib.suppress(RuntimeError):  # too small for the kernel or for its padding
            truth = max(truth, unfolding(layer, size))
    assert math.isclose(factor, truth, rel_tol=1e-6)
    utils.remove_lconv_norm(layer)
    assert torch.allclose(layer.weight, before / factor)


def test_a_hook_between_others_is_taken_out_alone() -> None:
    layer = nn.Conv2d(3, 4, 3)
    raw = layer.weight.detach().clone()
    utils.lconv_norm(utils.bjorck_norm(layer))
    orthogonal = layer.weight.detach() * 3
    utils.remove_lconv_norm(layer)
    assert torch.allclose(layer.weight, orthogonal, atol=1e-6)
    utils.lconv_norm(layer)
    utils.remove_bjorck_norm(layer)
    assert torch.allclose(layer.weight * 3, raw)


def test_a_hooked_layer_is_certified() -> None:
    layer = utils.lconv_norm(utils.bjorck_norm(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))).eval()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50, 2, 6, 6, generator=g)
    assert ((layer(x) - layer(y)).flatten(1).norm(dim=1) <= (x - y).flatten(1).norm(dim=1)).all()


def test_square_root() -> None:
    x = torch.tensor([0.0, 4.0], dtype=F64, requires_grad=True)
    root = utils.sqrt_with_gradeps(x, 0.5)
    assert root.tolist() == [0, 2]
    (slope,) = torch.autograd.grad((root * root).sum(), x, create_graph=True)
    assert slope.tolist() == [0.0, 0.8]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# -- evaluations -------------------------------------------------------------------------------------------------------

KINDS = ["jacobian_norm", "noise_norm", "attack"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("disjoint", [True, False])
def test_evaluations_are_below_the_bound_and_reach_it_for_linear_maps(kind: str, disjoint: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU(), nn.BatchNorm1d(3)).train()
    with torch.no_grad():
        model[3].weight.fill_(0.1)
    x, g = torch.randn(4, 2, 3), torch.Generator().manual_seed(0)
    options = {} if kind == "jacobian_norm" else {"generator": g}
    value = utils.evaluate_lip_const(model, x, kind, disjoint, **options)
    assert 0 < value <= 0.1001 * lipschitz_bound(nn.Sequential(*model[:3]))
    assert model.training
    assert model[3].num_batches_tracked == 0
    linear = nn.Linear(6, 3)
    W = linear.weight.detach()
    truth = W.norm(dim=1).max() if disjoint else torch.linalg.matrix_norm(W, 2)
    value = utils.evaluate_lip_const(linear, torch.randn(4, 6), kind, disjoint, **options)
    assert value <= truth * (1 + 1e-5)
    assert value >= truth * {"jacobian_norm": 1 - 1e-5, "noise_norm": 0.5, "attack": 0.9}[kind]


def test_jacobian_of_known_maps() -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=F64)

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    assert utils.evaluate_lip_const(Square(), x) == 6
    torch.manual_seed(0)
    model = nn.Sequential(OrthogonalLinear(4, 4), FullSort(), OrthogonalLinear(4, 4))
    assert math.isclose(utils.evaluate_lip_const(model, input_shape=(8, 4)), 1, rel_tol=1e-5)
    assert utils.evaluate_lip_const(model, input_shape=(8, 4), evaluation_type=["noise_norm", "attack"]) <= 1.0001
    assert math.isclose(utils.evaluate_lip_const(model, torch.randn(2, 4), "all", double_attack=True), 1, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give x, or input_shape"),
        ({"x": torch.ones(1, 2), "input_shape": (1, 2)}, "and not both"),
        ({"x": torch.ones(1, 2), "evaluation_type": "power"}, "evaluation_type is 'power'"),
        ({"x": torch.ones(1, 2), "evaluation_type": []}, "evaluation_type is empty"),
        ({"x": torch.ones(1, 2), "step_size": 1.0}, "step_size is no option of jacobian_norm: none is allowed"),
        ({"x": torch.ones(1, 2), "evaluation_type": "attack", "steps": 1}, "one of double_attack, generator, num"),
        ({"x": torch.ones(0, 2)}, "at least one number"),
        ({"x": torch.ones(1, 2), "evaluation_type": "noise_norm", "num_noisy_samples": 0}, "num_noisy_samples is 0"),
    ],
)
def test_evaluations_refuse(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        utils.evaluate_lip_const(nn.Linear(2, 2), **options)


def test_expectations_and_outputs_that_do_not_fit() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(3 * torch.eye(2))
    assert utils.evaluate_lip_const(layer, torch.ones(1, 2), expected_value=3.001) < 3.001
    with pytest.raises(AssertionError, match="above the expected 2"):
        utils.evaluate_lip_const(layer, torch.ones(1, 2), expected_value=2)
    with pytest.raises(ValueError, match=r"maps \(3, 2\) to \(6,\), but floating-point outputs of 3 samples"):
        utils.evaluate_lip_const(nn.Flatten(0), torch.ones(3, 2))


# -- functions ---------------------------------------------------------------------------------------------------------


def test_activations_are_the_layers() -> None:
    x = torch.randn(3, 4, 5)
    assert torch.equal(functional.max_min(x), torchlip.MaxMin()(x))
    assert torch.equal(functional.group_sort(x, 2), torchlip.GroupSort(2)(x))
    assert torch.equal(functional.group_sort(x, dim=-1), x.sort(-1).values)
    assert torch.equal(functional.group_sort_2(x), torchlip.GroupSort2()(x))
    assert torch.equal(functional.full_sort(x), torchlip.FullSort()(x))
    slope = torch.tensor([0.3, -5.0, 2.0, 0.0])
    expected = torch.where(x > 0, x, x * slope.clamp(-1, 1).reshape(4, 1))
    assert torch.equal(functional.lipschitz_prelu(x, slope), expected)
    with pytest.raises(ValueError, match="dim = 3 does not exist"):
        functional.max_min(x, 3)


F = torch.tensor([[2.0], [0.0], [-1.0], [0.25]])
Y = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
G = torch.tensor([[1.0, 0.0, -1.0], [0.25, 0.5, -0.5]])
HOT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_losses_are_the_classes_sample_by_sample() -> None:
    pairs = [
        (functional.kr_loss_standard(F, Y), torchlip.KRLoss(reduction="none")(F, Y)),
        (functional.kr_loss_standard(G, HOT), torchlip.KRMulticlassLoss(reduction="none")(G, HOT)),
        (functional.neg_kr_loss(F, Y), -torchlip.KRLoss(reduction="none")(F, Y)),
        (functional.hinge_margin_loss(F, Y, 2), torchlip.HingeMarginLoss(2, "none")(F, Y)),
        (functional.hkr_loss(F, Y, 0.3, 2.0), torchlip.HKRLoss(0.3, 2.0, reduction="none")(F, Y)),
        (functional.hinge_multiclass_loss(G, HOT), torchlip.HingeMulticlassLoss(reduction="none")(G, HOT)),
        (functional.hkr_multiclass_loss(G, HOT, 0.3), torchlip.HKRMulticlassLoss(0.3, reduction="none")(G, HOT)),
    ]
    for ours, known in pairs:
        assert torch.equal(ours, known)
        assert ours.shape == (len(known),)
    weights = functional.process_labels_for_multi_gpu(Y)
    for loss in (functional.neg_kr_loss, lambda f, y, multi_gpu=False: functional.hkr_loss(f, y, 0.3, 1.0, multi_gpu)):
        assert torch.allclose(loss(F, weights, multi_gpu=True), loss(F, Y))
    hot = functional.process_labels_for_multi_gpu(HOT)
    assert torch.allclose(functional.kr_loss_multi_gpu(G, hot), functional.kr_loss_standard(G, HOT))
    assert torch.allclose(functional.kr_loss(F, weights, True), functional.kr_loss(F, Y))
    assert torch.allclose(functional.kr_loss(F, Y), -functional.kr_loss_standard(F, Y).mean())


def test_reductions() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert functional.apply_reduction(values, "mean") == functional.apply_reduction(values, "auto") == 3
    assert functional.apply_reduction(values, "sum") == 9
    assert functional.apply_reduction(values, "none") is values
    with pytest.raises(ValueError, match="reduction is 'max'"):
        functional.apply_reduction(values, "max")


def test_symmetric_padding() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    padded = functional.SymmetricPad((1, 2))(x)
    assert padded[0, 0, 0].tolist() == padded[0, 0, 1].tolist() == [1, 0, 0, 1, 2, 2, 1]
    assert padded.shape == (1, 1, 4, 7)
    assert torch.equal(functional.SymmetricPad(0)(x), x)
    assert functional.SymmetricPad((2,), onedim=True)(x).shape == (1, 1, 2, 7)
    assert functional.SymmetricPad((1, 2)).pad == (2, 2, 1, 1)
    for pad, message in (((1,), "one integer of at least 0, or 2"), (-1, "one integer of at least 0")):
        with pytest.raises(ValueError, match=message):
            functional.SymmetricPad(pad)
    with pytest.raises(ValueError, match=r"symmetric padding by .* does not fit"):
        functional.SymmetricPad(3)(x)
    layer = functional.SymmetricPad(2)
    eye = torch.eye(4, dtype=F64).reshape(4, 1, 2, 2)
    norm = torch.linalg.matrix_norm(layer(eye).reshape(4, -1), 2).item()
    assert math.isclose(norm, lipschitz_bound(nn.Sequential(layer)), rel_tol=1e-12)
    assert lipschitz_bound(functional.SymmetricPad(0)) == 1
