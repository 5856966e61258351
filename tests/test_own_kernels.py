"""An operation of a user's own with a kernel of any kind: what runs it, what checks it, and what it is told."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Op, Tensor, apply, implementation, nn
from tinygpt import functional as F
from tinygpt.autograd.watch import Watch, watching
from tinygpt.cli.main import main
from tinygpt.study.checks import check_op
from tinygpt.study.explain import page
from tinygpt.study.samples import Sample


def cube_forward(x):
    square = x * x  # (1)
    return square * x, (x, square)  # (2)


def cube_backward(dout, saved):
    _, square = saved
    return (dout * 3 * square,)  # (2, 1)


def kernel_forward(x):
    return x * x * x, x  # (1, 2)


def kernel_backward(dout, saved, into):
    if into[0] is not None:
        into[0].write(dout * 3 * (saved * saved))  # (2, 1)


class Kernel:
    """The cube, as a class."""

    forward = staticmethod(kernel_forward)
    backward = staticmethod(kernel_backward)


class WithMethods:
    def forward(self, x):
        return kernel_forward(x)

    def backward(self, dout, saved, into):
        kernel_backward(dout, saved, into)


MODULE = ModuleType("cube_kernel", "The cube, as a module.")
vars(MODULE).update(forward=kernel_forward, backward=kernel_backward)
NAMESPACE = SimpleNamespace(forward=kernel_forward, backward=kernel_backward)
KINDS = {"module": MODULE, "name": "cube_kernel", "namespace": NAMESPACE, "class": Kernel, "object": WithMethods()}
SAMPLES = [Sample([np.random.default_rng(0).standard_normal((4, 4))])]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "cube_kernel", MODULE)


def cube(kernel, name="cube") -> Op:
    return Op(name, cube_forward, cube_backward, kernel=kernel)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", ["kernels", "check"])
def test_a_kernel_of_any_kind_runs(kind, setting):
    used = []

    class Used(Watch):
        def kernel(self, op, kernel):
            used.append(op.name)
            return kernel

    x = Tensor(np.array([1.0, -2.0], np.float32), requires_grad=True)
    with implementation(setting), watching(Used()):
        for _ in range(2):
            apply(cube(KINDS[kind]), x).backward(np.ones(2, np.float32))
    np.testing.assert_array_equal(x.grad, [6, 24])
    assert used == ["cube", "cube"]


@pytest.mark.parametrize("setting", ["kernels", "check"])
def test_a_gradient_that_is_returned_instead_of_written_is_an_error(setting):
    """Else memory that nothing was written to would be taken for it."""
    op = cube(SimpleNamespace(forward=kernel_forward, backward=lambda dout, saved, into: (dout * 3 * saved * saved,)))
    with implementation(setting), pytest.raises(TypeError, match=r"must write its gradients with into\[i\]\.write"):
        apply(op, Tensor([2.0], requires_grad=True)).backward()


@pytest.mark.parametrize("setting", ["kernels", "check"])
def test_a_part_that_is_none_is_a_part_that_is_not_there(setting):
    op = cube(SimpleNamespace(forward=cube_forward, backward=None, accepts=None))
    x = Tensor([2.0], requires_grad=True)
    with implementation(setting):
        apply(op, x).backward()
    assert x.grad.tolist() == [12]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cube", "gelu"])  # the second is called as an operation of the package is
def test_its_page_shows_the_kernel_beside_the_reference(kind, name):
    text = "\n".join(page(cube(KINDS[kind], name), SAMPLES, SAMPLES[0]))
    assert "kernel: " in text or "Kernel: " in text
    assert "kernel, against the reference" in text and "FAILED" not in text


WRONG = {
    "forward": (lambda x: (x * x, x), kernel_backward, "forward: off by"),
    "double": (lambda x: ((x * x * x).astype(np.float64), x), kernel_backward, "forward: must return float32 (4, 4)"),
    "shape": (lambda x: ((x * x * x)[0], x), kernel_backward, "(4, 4)"),
    "alone": (lambda x: x * x * x, kernel_backward, "cube.forward: must return a tuple (out, saved), got ndarray"),
    "overwrites": (
        kernel_forward, lambda dout, saved, into: np.copyto(into[0].array, dout * 3 * saved * saved),
        "added to a gradient",
    ),
    "returns": (kernel_forward, lambda dout, saved: dout * 3 * saved * saved, "3 were given"),
    "returns what it should write": (
        kernel_forward, lambda dout, saved, into: (dout * 3 * saved * saved,), "must write its gradients",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_the_gradient_check_finds_what_is_wrong_with_a_kernel(wrong):
    forward, backward, says = WRONG[wrong]
    op = cube(SimpleNamespace(forward=forward, backward=backward))
    found = [finding for finding in check_op(op, SAMPLES) if not finding.passed]
    assert [finding.implementation for finding in found] == ["float32"]
    assert says in found[0].problem + found[0].where


def test_what_numba_cannot_compile_is_told_with_the_reason_and_the_line():
    numba = pytest.importorskip("numba")
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled")

    @numba.njit
    def compiled(x):
        return x.nothing

    line = compiled.py_func.__code__.co_firstlineno + 2
    op = cube(SimpleNamespace(forward=lambda x: (compiled(x), x), backward=kernel_backward))
    (problem,) = [finding.problem for finding in check_op(op, SAMPLES) if not finding.passed]
    assert problem == (
        f"TypingError: Unknown attribute 'nothing' of type array(float32, 2d, C) (test_own_kernels.py, line {line})"
    )


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        (cube_forward, "cube: its kernel must be a module or an object with a function forward, got function"),
        (sys, "got the module sys"),
        (SimpleNamespace(forward=3), "got SimpleNamespace"),
        ("sys", "got the module sys"),
    ],
)
def test_what_is_no_kernel_is_named(kernel, says):
    with pytest.raises(TypeError, match=says):
        apply(cube(kernel), Tensor([1.0]))
    with implementation("numpy"):
        assert apply(cube(kernel), Tensor([2.0])).item() == 8


def test_a_reference_that_returns_its_output_alone_is_told():
    """An array of two rows unpacks into two, and the rest of the program would compute with half of it."""
    op = Op("double", lambda x: 2 * x, lambda dout, saved: (2 * dout,))
    with pytest.raises(TypeError, match=r"double.forward: must return a tuple \(out, saved\), got ndarray"):
        apply(op, Tensor(np.ones((2, 3), np.float32)))


def test_what_is_no_kernel_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "nokernel.py").write_text(
        "from tinygpt import Op\nOP = Op('op', lambda x: (x, None), lambda dout, saved: (dout,), kernel=len)\n"
    )
    for command in ("gradcheck", "explain"):
        assert main([command, "nokernel:OP"]) == 2
        assert capsys.readouterr().err == (
            f"tinygpt: {command}: nokernel:OP: op: its kernel must be a module or an object with a function forward, "
            "got builtin_function_or_method\n"
        )


class SquaredReLU(nn.Module):
    """An MLP with the same matrices as GPT-2's, and another function between them."""

    def __init__(self, mlp):
        self.c_fc, self.c_proj = mlp.c_fc, mlp.c_proj

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)) ** 2)


class Negated(GPT):
    def head(self, hidden):
        return -super().head(hidden)


def own_mlp(model):
    for block in model.h:
        block.mlp = SquaredReLU(block.mlp)


def own_forward(model):
    mlp = model.h[1].mlp
    mlp.forward = lambda x: mlp.c_proj(F.tanh(mlp.c_fc(x)))


def own_norm(model):
    class Twice(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x) * 2

    model.ln_f = Twice(16)


@pytest.mark.parametrize(
    ("kind", "change"), [(GPT, own_mlp), (GPT, own_forward), (GPT, own_norm), (Negated, lambda model: None)]
)
def test_generation_computes_a_model_with_a_part_of_the_users_own_as_it_is_written(kind, change):
    model = kind(GPTConfig(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)).eval()
    for parameter in model.parameters():
        parameter.data[...] *= 5
    plain = model(np.array([[1, 2, 3, 4]])).data[0, -1]
    change(model)
    expected = model(np.array([[1, 2, 3, 4]])).data[0, -1]
    assert kind is Negated or np.abs(expected - plain).max() > 0.1
    decoder = model.decoder()
    decoder.prefill(0, [1, 2, 3])
    np.testing.assert_allclose(decoder.step([0], [4])[0], expected, atol=1e-4 * np.abs(expected).max())
