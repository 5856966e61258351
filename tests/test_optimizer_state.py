"""State dicts of optimizers: PyTorch's open here and ours open there, and what does not fit is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from tinygpt import SGD, Adam, AdamW, Tensor

SHAPES = [(3, 4), (4,), ()]
CASES = [
    (SGD, {"lr": 0.1, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.4}),
    (Adam, {"lr": 0.01}),
    (Adam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3}),
    (AdamW, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}),
]
every_case = pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def starts() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.array(rng.standard_normal(shape), np.float32) for shape in SHAPES]


def gradients(step: int) -> list[np.ndarray]:
    rng = np.random.default_rng([2, step])
    return [np.array(10.0 ** rng.integers(-2, 2) * rng.standard_normal(shape), np.float32) for shape in SHAPES]


class Ours:
    """Parameters in two groups, the second with a rate of its own."""

    def __init__(self, kind, options, arrays):
        self.parameters = [Tensor(array.copy(), requires_grad=True) for array in arrays]
        groups = [{"params": self.parameters[:2]}, {"params": self.parameters[2:], "lr": 0.05}]
        more = {"decay_vectors": True} if kind is AdamW else {}
        self.optimizer = kind(groups, **options, **more)

    def train(self, steps):
        for step in steps:
            for p, gradient in zip(self.parameters, gradients(step), strict=True):
                p.grad = gradient
            self.optimizer.step()

    def arrays(self):
        return [p.data.copy() for p in self.parameters]


class Theirs:
    def __init__(self, torch, kind, options, arrays):
        self.parameters = [torch.tensor(array, requires_grad=True) for array in arrays]
        groups = [{"params": self.parameters[:2]}, {"params": self.parameters[2:], "lr": 0.05}]
        self.optimizer, self.tensor = getattr(torch.optim, kind.__name__)(groups, **options), torch.tensor

    def train(self, steps):
        for step in steps:
            for p, gradient in zip(self.parameters, gradients(step), strict=True):
                p.grad = self.tensor(gradient)
            self.optimizer.step()

    def arrays(self):
        return [p.detach().numpy().copy() for p in self.parameters]


def assert_same(ours, theirs):
    for a, b in zip(ours.arrays(), theirs.arrays(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@every_case
def test_a_state_of_pytorch_goes_on_here(torch, kind, options):
    theirs = Theirs(torch, kind, options, starts())
    theirs.train(range(10))
    theirs.optimizer.param_groups[0]["lr"] /= 2  # options are restored, too
    ours = Ours(kind, {"lr": 7.0}, theirs.arrays())
    ours.optimizer.load_state_dict(theirs.optimizer.state_dict())
    for each in (ours, theirs):
        each.train(range(10, 20))
    assert_same(ours, theirs)


@every_case
def test_a_state_of_ours_goes_on_in_pytorch(torch, kind, options):
    ours = Ours(kind, options, starts())
    ours.train(range(10))
    ours.optimizer.param_groups[0]["lr"] /= 2
    theirs = Theirs(torch, kind, {"lr": 7.0}, ours.arrays())
    state = torch.utils._pytree.tree_map_only(np.ndarray, torch.tensor, ours.optimizer.state_dict())
    theirs.optimizer.load_state_dict(state)
    for each in (ours, theirs):
        each.train(range(10, 20))
    assert_same(ours, theirs)


@every_case
def test_the_layout_is_that_of_pytorch(torch, kind, options):
    ours, theirs = Ours(kind, options, starts()), Theirs(torch, kind, options, starts())
    for each in (ours, theirs):
        each.train(range(2))
    ours, theirs = ours.optimizer.state_dict(), theirs.optimizer.state_dict()
    assert ours.keys() == theirs.keys() and ours["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        assert list(ours["state"][number]) == list(state)
        for name, tensor in state.items():
            np.testing.assert_allclose(ours["state"][number][name], tensor, rtol=1e-5, atol=1e-7)
    for mine, group in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert mine["params"] == group["params"]
        assert all(group[name] == value for name, value in mine.items() if name != "decay_vectors")


@every_case
def test_a_state_before_the_first_step_is_empty_and_opens_everywhere(torch, kind, options):
    theirs = Theirs(torch, kind, options, starts())
    ours = Ours(kind, options, starts())
    assert ours.optimizer.state_dict()["state"] == {}
    ours.optimizer.load_state_dict(theirs.optimizer.state_dict())
    theirs.optimizer.load_state_dict(ours.optimizer.state_dict())
    for each in (ours, theirs):
        each.train(range(5))
    assert_same(ours, theirs)


def test_a_parameter_without_a_gradient_has_no_state_and_begins_later():
    ours = Ours(SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.5}, starts())
    first, second, _ = ours.parameters
    first.grad = np.ones((3, 4), np.float32)
    ours.optimizer.step()
    assert ours.optimizer.state_dict()["state"].keys() == {0}
    twin = Ours(SGD, {"lr": 0.1, "momentum": 0.5}, ours.arrays())
    twin.optimizer.load_state_dict(ours.optimizer.state_dict())
    for each in (ours, twin):
        each.train([0])
        np.testing.assert_array_equal(each.optimizer.state[each.parameters[1]]["momentum_buffer"], gradients(0)[1])
    np.testing.assert_array_equal(twin.arrays()[0], ours.arrays()[0])
    assert second.grad is not None


@every_case
def test_a_restored_optimizer_shares_nothing_with_the_state(kind, options):
    ours = Ours(kind, options, starts())
    ours.train(range(3))
    state = ours.optimizer.state_dict()
    twin = Ours(kind, {"lr": 1.0}, ours.arrays())
    twin.optimizer.load_state_dict(state)
    kept = copy.deepcopy(state)
    twin.train(range(3, 5))
    np.testing.assert_equal(state, kept)
    ours.train(range(3, 5))
    for a, b in zip(ours.arrays(), twin.arrays(), strict=True):
        np.testing.assert_array_equal(a, b)


def changed(kind, change=lambda state: None) -> dict:
    """A state of two steps, after `change` has changed it or returned another."""
    ours = Ours(kind, {"lr": 0.1} | ({"momentum": 0.9} if kind is SGD else {}), [array + 1 for array in starts()])
    ours.train(range(2))
    state = copy.deepcopy(ours.optimizer.state_dict())
    found = change(state)
    return state if found is None else found


def put(state, *path_and_value) -> None:
    *path, name, value = path_and_value
    for part in path:
        state = state[part]
    state[name] = value


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        (AdamW, lambda s: {"0.m": 1, "0.v": 2}, ValueError, "needs 'state' and 'param_groups', got 0.m, 0.v; give"),
        (AdamW, lambda s: [1], ValueError, "needs 'state' and 'param_groups', got <class 'list'>"),
        (AdamW, lambda s: put(s, "param_groups", s["param_groups"][:1]), ValueError,
         r"the groups must have \[2, 1\] parameters, got \[2\]"),
        (AdamW, lambda s: put(s, "param_groups", 0, "params", [0]), ValueError, r"got \[1, 1\]; make the optimizer"),
        (AdamW, lambda s: put(s, "state", 9, {}), ValueError, "parameter 9 of the state is in none of its groups"),
        (Adam, lambda s: put(s, "state", 0, "exp_avg", np.zeros((4, 3))), ValueError,
         r"parameter 0: exp_avg must have shape \(3, 4\), got \(4, 3\)"),
        (Adam, lambda s: put(s, "state", 1, "exp_avg", np.zeros(4, complex)), TypeError, "hold real numbers, got comp"),
        (Adam, lambda s: put(s, "state", 1, "step", np.array(0.5)), ValueError, "step must be a whole number .*0.5"),
        (Adam, lambda s: put(s, "state", 1, "step", np.array(np.nan)), ValueError, "step must be a whole number"),
        (Adam, lambda s: put(s, "state", 1, "step", np.zeros(1)), ValueError, r"step must have shape \(\), got \(1,\)"),
        (Adam, lambda s: put(s, "state", 1, {"exp_avg": np.zeros(4)}), ValueError,
         "parameter 1 must have step and exp_avg and exp_avg_sq, got exp_avg; the state is of another optimizer"),
        (Adam, lambda s: changed(SGD), ValueError, "and exp_avg_sq, got momentum_buffer; the state is of another"),
        (SGD, lambda s: changed(Adam), ValueError, "got step and exp_avg and exp_avg_sq; the state is"),
        (AdamW, lambda s: changed(Adam), ValueError, "must be True, got False; use Adam"),
        (Adam, lambda s: changed(AdamW), ValueError, "must be False, got True; use AdamW"),
        (Adam, lambda s: put(s, "param_groups", 0, "amsgrad", True), ValueError, "amsgrad=True is not supported"),
        (SGD, lambda s: put(s, "param_groups", 1, "maximize", True), ValueError, "maximize=True is not supported"),
        (SGD, lambda s: put(s, "param_groups", 1, "lr", -1), ValueError, "load_state_dict: lr must be at least 0"),
        (SGD, lambda s: put(s, "param_groups", 0, "nesterov", []), ValueError, r"nesterov must be True .*, got \[\]"),
        (SGD, lambda s: put(s, "state", None), ValueError, "'state' must have a dict for each number of a parameter"),
        (SGD, lambda s: put(s, "state", 0, [1]), ValueError, "'state' must have a dict for each number of a parameter"),
        (SGD, lambda s: put(s, "param_groups", {}), ValueError, "'param_groups' must be a list of dicts; give what"),
        (SGD, lambda s: put(s, "param_groups", 0, 3), ValueError, "'param_groups' must be a list of dicts; give what"),
        (SGD, lambda s: put(s, "param_groups", 0, "params", None), ValueError, "'params' .* list of numbers, got None"),
        (SGD, lambda s: put(s, "param_groups", 0, "params", [[0], [1]]), ValueError, r"numbers, got \[\[0\], \[1\]\]"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_taken_from_it(kind, change, error, message):
    ours = Ours(kind, {"lr": 0.1} | ({"momentum": 0.9} if kind is SGD else {}), starts())
    ours.train(range(2))
    before = copy.deepcopy(ours.optimizer.state_dict())
    with pytest.raises(error, match=message):
        ours.optimizer.load_state_dict(changed(kind, change))
    np.testing.assert_equal(ours.optimizer.state_dict(), before)


@pytest.mark.parametrize("option", [{"foreach": True}, {"capturable": True}])
def test_options_of_pytorch_that_only_change_its_speed_are_left_out(option):
    ours = Ours(Adam, {"lr": 0.1}, starts())
    ours.train(range(1))
    state = ours.optimizer.state_dict()
    state["param_groups"][0] |= option | {"param_names": ["a", "b"]}
    ours.optimizer.load_state_dict(state)
    assert ours.optimizer.param_groups[0].keys() == {"params", *ours.optimizer.defaults}


def test_a_tensor_that_is_no_array_is_named(torch):
    ours = Ours(SGD, {"lr": 0.1, "momentum": 0.9}, starts())
    state = {"state": {0: {"momentum_buffer": torch.zeros(3, 4, dtype=torch.bfloat16)}}}
    state["param_groups"] = ours.optimizer.state_dict()["param_groups"]
    with pytest.raises(TypeError, match="parameter 0: momentum_buffer must become an array, got Tensor: "):
        ours.optimizer.load_state_dict(state)
