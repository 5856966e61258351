"""The base of all optimizers: groups, the loop of a step, options by their names, and optimizers of one's own."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from tinygpt import GPT, SGD, Adam, AdamW, GPTConfig, Tensor, implementation, nn
from tinygpt.autograd.watch import Watch, watching
from tinygpt.optim import Optimizer

OPTIMIZERS = [SGD, Adam, AdamW]
every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)


def parameter(values, dtype=np.float32) -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


def take_step(optimizer, *gradients) -> None:
    members = [p for group in optimizer.param_groups for p in group["params"]]
    for p, gradient in zip(members, gradients, strict=True):
        p.grad = None if gradient is None else np.full(p.shape, gradient, p.dtype)
    optimizer.step()


@pytest.mark.parametrize(("momentum", "expected"), [(0.0, [0.9, 0.8, 0.7]), (0.5, [0.9, 0.75, 0.575])])
def test_sgd_follows_the_gradient_and_sums_it_with_momentum(momentum, expected):
    w = parameter([1.0], np.float64)
    optimizer = SGD([w], lr=0.1, momentum=momentum)
    for value in expected:
        take_step(optimizer, 1.0)
        assert w.data[0] == pytest.approx(value, rel=1e-14)


def test_nesterovs_momentum_takes_the_gradient_at_the_point_ahead():
    """The textbook's form, which moves ahead, asks for the gradient there, and goes from where it was."""
    lr, momentum = 0.1, 0.8
    w = parameter([3.0], np.float64)
    optimizer = SGD([w], lr=lr, momentum=momentum, nesterov=True)
    x, buffer = 3.0, 0.0
    for _ in range(6):
        w.grad = 2 * w.data  # of w^2
        optimizer.step()
        buffer = momentum * buffer + 2 * (x - lr * momentum * buffer)
        x -= lr * buffer
        assert w.data[0] == pytest.approx(x - lr * momentum * buffer, rel=1e-12)


def test_adam_decays_by_the_gradient_and_adamw_beside_it():
    """With a large gradient Adam's decay is lost in it, and AdamW's is lr times weight_decay."""
    with_decay, without = ({kind: parameter([1.0], np.float64) for kind in (Adam, AdamW)} for _ in range(2))
    for kind in (Adam, AdamW):
        for w, decay in ((with_decay[kind], 0.5), (without[kind], 0.0)):
            take_step(kind([{"params": [w], "weight_decay": decay}], lr=0.01), 1e6)
    lost = {kind: without[kind].data[0] - with_decay[kind].data[0] for kind in (Adam, AdamW)}
    assert abs(lost[Adam]) < 1e-10 and lost[AdamW] == pytest.approx(0.01 * 0.5, rel=1e-6)


def test_groups_stay_as_they_are_given_and_vectors_decay_only_if_asked():
    model = nn.Linear(2, 3, np.random.default_rng(0))
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
    assert optimizer.param_groups[0]["decay_vectors"] is False
    for options, decayed in (({}, 1.0), ({"decay_vectors": True}, 0.95)):
        w = parameter([1.0], np.float64)
        take_step(AdamW([w], lr=0.1, weight_decay=0.5, **options), 0.0)
        assert w.data[0] == pytest.approx(decayed, rel=1e-14)
    for options, decayed in (({}, 0.95), ({"decay_vectors": False}, 1.0)):
        w = parameter([1.0], np.float64)
        take_step(AdamW([{"params": [w], "weight_decay": 0.5} | options], lr=0.1), 0.0)
        assert w.data[0] == pytest.approx(decayed, rel=1e-14)


def test_a_group_may_join_later_and_has_the_optimizers_options_but_for_its_own():
    a, b = parameter([1.0]), parameter([1.0])
    optimizer = SGD([a], lr=0.1, momentum=0.9)
    take_step(optimizer, 1.0)
    optimizer.add_param_group({"params": b, "lr": 0.5})
    take_step(optimizer, None, 1.0)
    np.testing.assert_allclose([a.data[0], b.data[0]], [0.9, 0.5])
    assert optimizer.param_groups[1]["momentum"] == 0.9
    with pytest.raises(ValueError, match=r"SGD: a parameter of shape \(1,\) is given twice"):
        optimizer.add_param_group({"params": [a]})
    with pytest.raises(TypeError, match="SGD: a group must be a dict with 'params', got Tensor"):
        optimizer.add_param_group(parameter([1.0]))
    with pytest.raises(ValueError, match="SGD: lr must be at least 0, got -1"):
        optimizer.add_param_group({"params": [parameter([1.0])], "lr": -1})
    assert len(optimizer.param_groups) == 2


@every_optimizer
def test_named_parameters_are_parameters(kind):
    model = nn.Linear(2, 3, np.random.default_rng(0))
    optimizer = kind(model.named_parameters())
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    with pytest.raises(TypeError, match=f"{kind.__name__}: .*got Linear; write model.parameters"):
        kind(model)


def test_the_repr_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    ours = SGD([{"params": [parameter([1.0])]}, {"params": [parameter([1.0])], "lr": 0.5}], lr=0.1, momentum=0.9)
    leaves = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    theirs = torch.optim.SGD([{"params": leaves[:1]}, {"params": leaves[1:], "lr": 0.5}], lr=0.1, momentum=0.9)
    others = ("differentiable", "foreach", "fused", "maximize")
    lines = [line for line in repr(theirs).splitlines() if not line.strip().startswith(others)]
    assert repr(ours).splitlines() == lines


def test_a_closure_is_called_before_the_step_and_its_loss_returned():
    w = parameter([1.0, 2.0])
    optimizer = SGD([w], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 5
    np.testing.assert_array_equal(w.data, [0.5, 1])
    assert optimizer.step() is None
    with pytest.raises(TypeError, match=r"SGD.step: closure must be a function .*, got 0.5; write step\(scale="):
        optimizer.step(0.5)


@every_optimizer
def test_a_scale_multiplies_the_gradients_and_leaves_them(kind):
    twins = [parameter([1.0, -2.0]) for _ in range(2)]
    optimizers = [kind([w], lr=0.1) for w in twins]
    for w, factor in zip(twins, (1, 4), strict=True):
        w.grad = np.array([1, 0.5], np.float32) * factor
    optimizers[0].step()
    optimizers[1].step(scale=0.25)
    np.testing.assert_array_equal(twins[0].data, twins[1].data)
    np.testing.assert_array_equal(twins[1].grad, [4, 2])


def test_gradients_are_forgotten_or_become_zeros():
    w, b = parameter([1.0]), parameter([1.0])
    w.grad = np.ones(1, np.float32)
    optimizer = SGD([w, b])
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0] and b.grad is None
    optimizer.zero_grad(set_to_none=True)
    assert w.grad is None


@every_optimizer
@pytest.mark.parametrize("others", [{"foreach": True}, {"fused": True}, {"maximize": False}, {"differentiable": False}])
def test_options_of_pytorch_that_change_nothing_are_taken_and_not_kept(kind, others):
    optimizer = kind([parameter([1.0])], **others)
    assert not others.keys() & optimizer.param_groups[0].keys()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda w: Adam([w], amsgrad=True), ValueError, "Adam: amsgrad=True is not supported; leave it out"),
        (lambda w: SGD([w], maximize=True), ValueError, "SGD: maximize=True is not supported; negate the loss"),
        (lambda w: SGD([{"params": [w], "maximize": True}]), ValueError, "SGD: maximize=True is not supported"),
        (lambda w: AdamW([w], momentum=0.9), TypeError, "AdamW: got an unexpected option 'momentum'; its options"),
        (lambda w: AdamW([w], decoupled_weight_decay=False), ValueError, "must be True, got False; use Adam"),
        (lambda w: Adam([w], decoupled_weight_decay=True), ValueError, "must be False, got True; use AdamW"),
        (lambda w: SGD([w], nesterov=True), ValueError, "SGD: nesterov needs momentum above 0 and dampening 0, got"),
        (lambda w: SGD([w], 0.1, 0.9, 0.5, 0, True), ValueError, "got momentum 0.9 and dampening 0.5"),
        (lambda w: SGD([w], momentum=-0.5), ValueError, "SGD: momentum must be at least 0, got -0.5"),
        (lambda w: SGD([w], lr=-1), ValueError, "SGD: lr must be at least 0, got -1"),
        (lambda w: Adam([w], betas=(0.9, 1.0)), ValueError, r"Adam: betas must be two .* below 1, got \(0.9, 1.0\)"),
        (lambda w: Adam([w], betas=("a", "b")), ValueError, r"Adam: betas must be two .* below 1, got \('a', 'b'\)"),
        (lambda w: SGD([w], 0.1, 0.9, nesterov="no"), ValueError, "SGD: nesterov must be True or False, got 'no'"),
        (lambda w: AdamW([w], decay_vectors=1), ValueError, "AdamW: decay_vectors must be True or False, got 1"),
        (lambda w: SGD({w}), TypeError, "SGD: parameters must have an order, .*, got a set; write a list"),
        (lambda w: SGD([{"params": frozenset([w])}]), TypeError, "must have an order, .*, got a frozenset; write a li"),
    ],
)
def test_a_wrong_option_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(parameter([1.0]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", None, "SGD.step: lr must be at least 0, got None"),
        ("lr", "0.1", "SGD.step: lr must be at least 0, got '0.1'"),
        ("lr", math.nan, "SGD.step: lr must be at least 0, got nan"),
        ("nesterov", [True], r"SGD.step: nesterov must be True or False, got \[True\]"),
    ],
)
def test_an_option_that_was_set_to_a_wrong_one_is_named_before_a_parameter_changes(name, value, message):
    first, second = parameter([1.0]), parameter([2.0])
    optimizer = SGD([{"params": [first]}, {"params": [second], name: 0.5 if name == "lr" else False}], lr=0.1)
    first.grad, second.grad = np.ones(1, np.float32), np.ones(1, np.float32)
    optimizer.param_groups[1][name] = value
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert (first.item(), second.item()) == (1.0, 2.0)


def test_a_scale_that_is_no_number_is_named():
    w = parameter([1.0])
    w.grad = np.ones(1, np.float32)
    with pytest.raises(TypeError, match=r"SGD\.step: scale must be a number, got 'half'"):
        SGD([w]).step(scale="half")
    assert w.item() == 1.0


@every_optimizer
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_kernels_and_references_agree_step_by_step(kind, decay, rng):
    options = {"momentum": 0.9, "dampening": 0.3} if kind is SGD else {}
    parameters = [Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True) for shape in ((7, 3), (5,))]
    optimizer = kind(parameters, lr=0.1, weight_decay=decay, **options)
    with implementation("check"):
        for _ in range(3):
            for p in parameters:
                p.grad = rng.standard_normal(p.shape).astype(np.float32)
            optimizer.step(scale=0.5)


class KernelCalls(Watch):
    """How many numbers each call of a kernel changes."""

    def __init__(self):
        self.sizes = []

    def function(self, function, code):
        def counted(parameter, *rest):
            self.sizes.append(parameter.size)
            return function(parameter, *rest)

        return counted if code == "kernel" else function


@pytest.mark.parametrize(("kind", "calls"), [(SGD, 1), (Adam, 1), (AdamW, 2)])
def test_a_model_takes_one_kernel_call_for_all_parameters_of_one_decay(kind, calls):
    model = GPT(GPTConfig(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2), seed=1)
    optimizer = kind(model.parameters(), weight_decay=0.1, **({"momentum": 0.9} if kind is SGD else {}))
    restored = kind(model.parameters())
    tokens = np.arange(8)[None]
    for each in (optimizer, optimizer, restored):
        found = KernelCalls()
        model.loss(tokens, tokens).backward()
        with watching(found):
            each.step()
        each.zero_grad()
        assert len(found.sizes) == calls and sum(found.sizes) == model.num_parameters()
        restored.load_state_dict(optimizer.state_dict())


class SignSGD(Optimizer):
    def __init__(self, params, lr=0.5):
        super().__init__(params, {"lr": lr})

    @staticmethod
    def update(parameter, gradient, lr, scale=1.0):
        parameter -= lr * np.sign(scale * gradient)


class Averaged(Optimizer):
    """With a state that is contiguous, and a count."""

    state_names = ("step", "mean")

    def __init__(self, params, lr=0.5, kept=0.5):
        super().__init__(params, {"lr": lr, "kept": kept})

    @staticmethod
    def update(parameter, gradient, mean, lr, kept, scale=1.0):
        mean *= kept
        mean += (1 - kept) * scale * gradient
        parameter -= lr * mean


class AsInPyTorch(Optimizer):
    """Overrides `step`, with a state of its own: the norm of a whole parameter is one number."""

    def __init__(self, params, lr=0.5):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["sum"] = np.zeros_like(p.data)
                state["sum"] += p.grad / np.linalg.norm(p.grad)
                p.data -= group["lr"] * state["sum"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(SignSGD, [1 - 1, -2 + 1]), (Averaged, [1 - 0.75 - 1.125, -2 + 1 + 1.5]), (AsInPyTorch, [1 - 0.9, -2 + 1.2])],
)
def test_an_optimizer_of_ones_own_takes_a_few_lines(kind, expected):
    w = parameter([1.0, -2.0], np.float64)
    b = parameter([[5.0]], np.float64)
    b.requires_grad = False
    optimizer = kind([{"params": [w]}, {"params": [b], "lr": 0.1}])
    for _ in range(2):
        w.grad = np.array([3.0, -4.0])
        optimizer.step()
    np.testing.assert_allclose(w.data, expected)
    assert b.data == 5
    twin = pickle.loads(pickle.dumps(copy.deepcopy(optimizer)))
    restored = kind([{"params": [parameter([0.0, 0.0], np.float64)]}, {"params": [parameter([[5.0]], np.float64)]}])
    restored.load_state_dict(optimizer.state_dict())
    np.testing.assert_equal(twin.state_dict(), optimizer.state_dict())
    np.testing.assert_equal(restored.state_dict(), optimizer.state_dict())


def test_a_base_without_an_update_says_what_to_define():
    w = parameter([1.0])
    w.grad = np.ones(1, np.float32)
    with pytest.raises(NotImplementedError, match=r"define update\(\), or override step\(\)"):
        Optimizer([w], {"lr": 0.1}).step()
