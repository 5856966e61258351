"""AdamW and the clip against PyTorch and against the formulas written out; the schedule number by number."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from tinygpt import AdamW, Tensor, clip_grad_norm, cosine_schedule

SHAPES = {"matrix": (3, 4), "bias": (4,), "scalar": (), "cube": (2, 3, 2)}
TIGHT = {"rtol": 1e-12, "atol": 1e-12}  # float64: the same formula, rounded in another order


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def parameter(values, dtype=np.float64) -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


def random_parameters(rng, dtype=np.float64) -> dict[str, Tensor]:
    return {name: parameter(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}


def gradients_of_step(step: int) -> dict[str, np.ndarray]:
    """Of very different sizes, as those of a real model are."""
    rng = np.random.default_rng(step)
    return {name: 10.0 ** rng.integers(-3, 3) * rng.standard_normal(shape) for name, shape in SHAPES.items()}


def give_gradients(parameters: dict[str, Tensor], step: int, without: str | None = None) -> None:
    for name, gradient in gradients_of_step(step).items():
        parameters[name].grad = None if name == without else gradient.astype(parameters[name].dtype)


def assert_same_as_torch(torch, ours, our_optimizer, make_theirs, steps=8, without=None, lrs=None):
    theirs = {name: torch.tensor(p.data, dtype=torch.float64, requires_grad=True) for name, p in ours.items()}
    their_optimizer = make_theirs(theirs)
    start = {name: p.data.copy() for name, p in ours.items()}
    for step in range(steps):
        skipped = without if step in (0, 3, 4) else None
        give_gradients(ours, step, skipped)
        for name, gradient in gradients_of_step(step).items():
            theirs[name].grad = None if name == skipped else torch.tensor(gradient)
        for optimizer in (our_optimizer, their_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = lrs[step] if lrs else group["lr"]
            optimizer.step()
        for name in ours:
            np.testing.assert_allclose(ours[name].data, theirs[name].detach().numpy(), **TIGHT, err_msg=name)
    assert all((ours[name].data != start[name]).any() for name in ours)


# AdamW against PyTorch. PyTorch's groups say which parameters decay; ours are to find it out.


def their_groups(theirs: dict, decay: float) -> list[dict]:
    return [
        {"params": [theirs["matrix"], theirs["cube"]], "weight_decay": decay},
        {"params": [theirs["bias"], theirs["scalar"]], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-3}, {"betas": (0.0, 0.5)}, {"lr": 0.02, "betas": (0.5, 0.0)}],
    ids=str,
)
@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5])
def test_steps_are_those_of_pytorch_and_matrices_only_decay(torch, rng, options, decay):
    ours = random_parameters(rng)
    optimizer = AdamW(ours.values(), weight_decay=decay, **options)
    assert_same_as_torch(torch, ours, optimizer, lambda t: torch.optim.AdamW(their_groups(t, decay), **options))


def test_groups_have_options_of_their_own_and_an_explicit_decay_is_for_all_of_the_group(torch, rng):
    def groups(p):
        return [
            {"params": [p["matrix"], p["bias"]], "weight_decay": 0.3, "lr": 0.05},  # the bias decays too
            {"params": [p["cube"]], "weight_decay": 0.0, "betas": (0.5, 0.9)},
            {"params": p["scalar"], "weight_decay": 0.2, "eps": 0.1},  # one alone needs no list
        ]

    ours = random_parameters(rng)
    optimizer = AdamW(groups(ours), lr=0.01)
    assert_same_as_torch(torch, ours, optimizer, lambda t: torch.optim.AdamW(groups(t), lr=0.01))


def test_a_group_without_a_decay_follows_the_default_rule(torch, rng):
    ours = random_parameters(rng)
    optimizer = AdamW([{"params": list(ours.values()), "lr": 0.03}], weight_decay=0.4)
    assert_same_as_torch(torch, ours, optimizer, lambda t: torch.optim.AdamW(their_groups(t, 0.4), lr=0.03))


@pytest.mark.parametrize(
    "change",
    [{"without": "matrix"}, {"without": "bias"}, {"lrs": [0.0, 0.01, 0.1, 0.05, 1e-5, 0.3, 0.0, 0.02]}],
    ids=["matrix without gradient", "bias without gradient", "learning rate"],
)
def test_gradients_may_be_absent_and_the_learning_rate_may_change_between_steps(torch, rng, change):
    ours = random_parameters(rng)  # each counts its own steps, or the correction of the bias would differ
    optimizer = AdamW(ours.values(), weight_decay=0.1)
    assert_same_as_torch(torch, ours, optimizer, lambda t: torch.optim.AdamW(their_groups(t, 0.1)), **change)


def test_one_number_follows_the_formula():
    lr, beta1, beta2, eps, decay = 0.1, 0.8, 0.9, 1e-2, 0.5
    w = parameter([2.0])
    optimizer = AdamW([{"params": [w], "weight_decay": decay}], lr=lr, betas=(beta1, beta2), eps=eps)
    expected, m, v = 2.0, 0.0, 0.0
    for step, gradient in enumerate([3.0, -1.0, 0.25], start=1):
        w.grad = np.array([gradient])
        optimizer.step()
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        expected *= 1 - lr * decay
        expected -= lr * (m / (1 - beta1**step)) / (math.sqrt(v / (1 - beta2**step)) + eps)
        assert w.data[0] == pytest.approx(expected, rel=1e-14)


def test_without_a_gradient_nothing_changes_not_even_by_decay(rng):
    ours = random_parameters(rng)
    optimizer = AdamW(ours.values(), lr=0.1, weight_decay=0.5)
    give_gradients(ours, 0)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    values = {name: p.data.copy() for name, p in ours.items()}
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours.values())
    optimizer.step()
    np.testing.assert_equal(optimizer.state_dict(), before)
    for name, p in ours.items():
        np.testing.assert_array_equal(p.data, values[name])


def test_a_step_is_taken_in_place_in_the_parameters_type_and_leaves_the_gradient(rng):
    w = parameter(rng.standard_normal((3, 2)), np.float32)
    w.grad = rng.standard_normal((3, 2)).astype(np.float32)
    array, values, gradient = w.data, w.data.copy(), w.grad.copy()
    optimizer = AdamW([w], lr=0.1)
    optimizer.step()
    assert w.data is array and (array != values).all()
    np.testing.assert_array_equal(w.grad, gradient)
    state = optimizer.state_dict()["state"][0]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == np.float32 and state["step"] == 1


def trained(dtype, steps=3):
    ours = random_parameters(np.random.default_rng(7), dtype)
    optimizer = AdamW(ours.values(), lr=0.1, weight_decay=0.1)
    for step in range(steps):
        give_gradients(ours, step)
        optimizer.step()
    return ours, optimizer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_restored_state_goes_on_with_the_same_bits(dtype):
    ours, optimizer = trained(dtype)
    copies = {name: parameter(p.data, dtype) for name, p in ours.items()}
    restored = AdamW(copies.values(), lr=0.1, weight_decay=0.1)
    restored.load_state_dict(optimizer.state_dict())
    for step in range(3, 6):  # one after the other: had they shared memory, the second would stray
        for parameters, each in ((ours, optimizer), (copies, restored)):
            give_gradients(parameters, step)
            each.step()
        for name, p in ours.items():
            np.testing.assert_array_equal(copies[name].data, p.data)


W = parameter([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        ([W, W], {}, ValueError, r"AdamW: a parameter of shape \(1, 2\) is given twice"),
        ([{"params": [W]}, {"params": [W], "lr": 1}], {}, ValueError, "is given twice"),
        ([], {}, ValueError, "AdamW: needs at least one parameter, got none"),
        ([Tensor([1])], {}, TypeError, "AdamW: parameters must be leaf tensors of floats, got Tensor"),
        ([W, W * 2], {}, TypeError, "must be leaf tensors of floats, got Tensor"),
        ([(W, W)], {}, TypeError, r"AdamW: parameters must be leaf tensors .*, got \(Tensor"),
        ([W], {"lr": -0.1}, ValueError, "AdamW: lr must be at least 0, got -0.1"),
        ([W], {"lr": math.nan}, ValueError, "lr must be at least 0, got nan"),
        ([W], {"eps": -1}, ValueError, "eps must be at least 0, got -1"),
        ([W], {"weight_decay": math.inf}, ValueError, "weight_decay must be at least 0, got inf"),
        (
            [W],
            {"betas": (1.0, 0.9)},
            ValueError,
            r"betas must be two numbers of at least 0 and below 1, got \(1.0, 0.9\)",
        ),
        ([W], {"betas": (0.9, -0.1)}, ValueError, "betas must be two numbers of at least 0 and below 1"),
        ([W], {"betas": 0.9}, ValueError, "betas must be two numbers of at least 0 and below 1, got 0.9"),
        ([W], {"lr": "0.1"}, ValueError, "lr must be at least 0, got '0.1'"),
        ([{"params": [W], "lr": -2}], {}, ValueError, "lr must be at least 0, got -2"),
    ],
)
def test_what_cannot_be_optimized_is_refused(params, options, error, message):
    with pytest.raises(error, match=message):
        AdamW(params, **options)


def with_gradients(*gradients) -> list[Tensor]:
    parameters = [parameter(np.zeros(np.shape(g)), np.asarray(g).dtype) for g in gradients]
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = np.array(gradient)
    return parameters


def test_the_clip_is_that_of_pytorch(torch, rng):
    gradients = [100 * rng.standard_normal(shape) for shape in SHAPES.values()]
    ours = [*with_gradients(*gradients), parameter([1.0])]  # the last has none
    theirs = [torch.zeros(p.shape, dtype=torch.float64, requires_grad=True) for p in ours]
    for their, gradient in zip(theirs, gradients, strict=False):
        their.grad = torch.tensor(gradient)
    norm = clip_grad_norm(iter(ours), 2.0)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, 2.0)), rel=1e-12)
    for our, their in zip(ours[:-1], theirs, strict=False):
        # PyTorch divides by norm + 1e-6: with a norm of several hundred that is some 1e-9 less
        np.testing.assert_allclose(our.grad, their.grad.numpy(), rtol=1.1e-6 / norm)
    assert math.sqrt(sum((p.grad**2).sum() for p in ours[:-1])) == pytest.approx(2.0, rel=1e-12)
    assert ours[-1].grad is None


@pytest.mark.parametrize("max_norm", [13.0, 14.0, math.inf])
def test_up_to_the_limit_nothing_changes(max_norm):
    parameters = with_gradients([3.0, 4.0], [[12.0]])
    assert clip_grad_norm(parameters, max_norm) == 13.0
    assert parameters[0].grad.tolist() == [3.0, 4.0] and parameters[1].grad.tolist() == [[12.0]]
    assert clip_grad_norm([parameter([1.0])], 1.0) == 0.0


@pytest.mark.parametrize(("bad", "norm"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "inf")])
def test_a_norm_that_is_no_number_is_told_and_scales_nothing(bad, norm):
    parameters = with_gradients([3.0, 4.0], [bad, 1.0])
    assert str(clip_grad_norm(parameters, 1.0)) == norm
    assert parameters[0].grad.tolist() == [3.0, 4.0] and parameters[1].grad[1] == 1.0


@pytest.mark.parametrize("max_norm", [0, -1.0, math.nan])
def test_a_limit_that_is_not_positive_is_refused(max_norm):
    with pytest.raises(ValueError, match=f"clip_grad_norm: max_norm must be positive, got {max_norm}"):
        clip_grad_norm(with_gradients([1.0]), max_norm)


def test_a_long_float32_gradient_is_summed_in_float64(rng):
    gradient = rng.standard_normal(1_000_003, dtype=np.float32)
    exact = math.sqrt(math.fsum(value * value for value in gradient.tolist()))
    [p] = with_gradients(gradient)
    # a float32 sum cannot come closer than some 3e-8; squares rounded to float32 average out to some 1e-10
    assert clip_grad_norm([p], math.inf) == pytest.approx(exact, rel=1e-9)
    clip_grad_norm([p], 1.0)
    assert p.grad.dtype == np.float32


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_the_square_of_a_float32_gradient_may_leave_the_range_of_float32(size):
    [p] = with_gradients(np.full(4, size, np.float32))
    assert clip_grad_norm([p], size) == pytest.approx(2 * size, rel=1e-6)
    np.testing.assert_allclose(p.grad, size / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.6), (1, 1.2), (3, 2.4), (4, 3.0), (6, 2 + math.sqrt(0.5)), (8, 2.0), (10, 2 - math.sqrt(0.5)), (12, 1.0),
     (13, 1.0), (10_000, 1.0)],
)  # fmt: skip
def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine(step, rate):
    assert cosine_schedule(step, lr=3.0, min_lr=1.0, warmup=4, steps=12) == pytest.approx(rate, rel=1e-14)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 50), (1, 50), (20, 50), (49, 50), (0, 1)])
def test_the_rate_rises_then_falls_then_stays(warmup, steps):
    rates = np.array([cosine_schedule(s, lr=0.5, min_lr=0.1, warmup=warmup, steps=steps) for s in range(steps + 5)])
    assert (np.diff(rates[: warmup + 1]) > 0).all() and (np.diff(rates[warmup : steps + 1]) < 0).all()
    assert rates[warmup] == rates.max() == 0.5 and (rates[steps:] == 0.1).all() and rates.min() > 0


def test_one_tensor_alone_may_be_clipped():
    (p,) = with_gradients([3.0, 4.0])
    assert clip_grad_norm(p, 1.0) == 5.0
    np.testing.assert_allclose(p.grad, [0.6, 0.8])
