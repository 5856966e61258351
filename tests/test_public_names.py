"""What `import tinygpt` offers: the public names and no others, each imported at its first use."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import numpy as np
import pytest
from every_operation import assert_lists

import tinygpt
import tinygpt.functional as F
from tinygpt import Tensor

MODULES = ("autograd", "functional", "nn", "ops", "optim")


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("module", MODULES)
def test_a_public_module_is_reachable_after_a_bare_import(module):
    assert run(f"import tinygpt; print(tinygpt.{module}.__name__)") == f"tinygpt.{module}"


def test_dir_lists_exactly_the_public_names():
    classes = {"Adam", "AdamW", "CapturedStep", "GPT", "GPTConfig", "GradientCheckError", "Op", "SGD", "Tensor"}
    classes |= {"Tokenizer"}
    functions = {"apply", "clip_grad_norm", "cosine_schedule", "grad_norm", "gradcheck", "implementation", "load"}
    functions |= {"get_float32_matmul_precision", "num_threads", "set_float32_matmul_precision", "set_num_threads"}
    functions |= {"load_state", "manual_seed", "no_grad", "save_state"}
    assert set(dir(tinygpt)) == classes | functions | {*MODULES, "__version__"} == set(tinygpt.__all__)
    assert run("import tinygpt; print(*dir(tinygpt))").split() == dir(tinygpt)  # before any of them is imported
    assert all(hasattr(tinygpt, name) for name in dir(tinygpt))


def test_every_operation_is_a_function_of_functional():
    composed = {"all", "amax", "amin", "any", "argmax", "argmin", "argsort", "binary_cross_entropy_with_logits",
                "chunk", "clamp", "cosh", "diagonal", "dot", "exp2", "expand", "expand_dims", "flatten", "flip",
                "floor_divide", "gather", "index_select", "l1_loss", "leaky_relu", "log10", "log2", "masked_fill",
                "min", "minimum", "mse_loss", "nll_loss", "outer", "permute", "reciprocal", "relu6",
                "repeat_interleave", "sign", "silu", "sinh", "softplus", "sort", "split", "square", "squeeze", "stack",
                "swapaxes", "tile", "topk", "trace", "tril", "triu", "unbind"}  # fmt: skip
    composed |= {"layer_norm", "scaled_dot_product_attention"}  # with PyTorch's arguments
    assert_lists(set(F.__all__) - composed, "__all__ of tinygpt/functional.py, and import it there")
    assert all(callable(getattr(F, name)) for name in F.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tinygpt' has no attribute 'nosuch'"):
        tinygpt.nosuch  # noqa: B018


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import tinygpt; dir(tinygpt)", "numpy numba matplotlib tinygpt.autograd tinygpt.ops tinygpt.nn"),
        ("from tinygpt import GPTConfig", "numba matplotlib tinygpt.autograd"),
        ("from tinygpt import Tokenizer", "numba matplotlib tinygpt.autograd"),
        ("from tinygpt import Tensor; (Tensor([1.0]) + 1).sum()", "numba matplotlib tinygpt.nn tinygpt.kernels"),
    ],
)
def test_an_import_loads_nothing_that_is_not_used(program, absent):
    assert run(f"{program}; import sys; print({{*sys.modules}} & {{*{absent.split()}}} or None)") == "None"


EXPRESSIONS = {
    "x + 1": [2, 3],
    "1 + x": [2, 3],
    "x - 1": [0, 1],
    "1 - x": [0, -1],
    "x * 2": [2, 4],
    "2 * x": [2, 4],
    "x / 2": [0.5, 1],
    "2 / x": [2, 1],
    "x ** 2": [1, 4],
    "2 ** x": [2, 4],
    "x ** x": [1, 4],
    "x % 2": [1, 0],
    "3 % x": [0, 1],
    "x // 2": [0, 1],
    "3 // x": [3, 1],
    "divmod(x, 2)[0]": [0, 1],
    "divmod(3, x)[1]": [0, 1],
    "abs(x - 1.5)": [0.5, 0.5],
    "+x": [1, 2],
    "-x": [-1, -2],
    "(x > 0) & (x < 2)": [True, False],
    "(x > 1) | (x < 1)": [False, True],
    "(x > 1) ^ True": [True, False],
    "True & (x > 1)": [False, True],
    "False | (x > 1)": [False, True],
    "True ^ (x > 1)": [True, False],
    "~(x > 1)": [True, False],
    "x @ x": 5,
    "[3.0, 1.0] @ x": 5,
    "x == 1": [True, False],
    "x != 1": [False, True],
    "x < 2": [True, False],
    "x <= 1": [True, False],
    "x > 1": [False, True],
    "x >= 2": [False, True],
    "x[1]": 2,
    "x.T": [1, 2],
    "x.exp().log()": [1, 2],
    "(x * x).sqrt()": [1, 2],
    "x.tanh() < 0.8": [True, False],
    "(x - 1.5).relu()": [0, 0.5],
    "x.clip(max=1.5)": [1, 1.5],
    "x.clamp(min=1.5)": [1.5, 2],
    "(x * 0).cos() + (x * 0).sin()": [1, 1],
    "(x * 0).sigmoid()": [0.5, 0.5],
    "x.square()": [1, 4],
    "x.reciprocal()": [1, 0.5],
    "x.expm1().log1p()": [1, 2],
    "x.exp2().log2()": [1, 2],
    "(x * 0 + 100).log10()": [2, 2],
    "x.cosh() * x.cosh() - x.sinh() * x.sinh()": [1, 1],
    "(x - 1.5).sign()": [-1, 1],
    "x.add(1).sub(1).mul(4).div(2).pow(2).neg().abs()": [4, 16],
    "x.matmul(x)": 5,
    "x.reshape(1, 2).mm(x.reshape(2, 1))": [[5]],
    "x.sum()": 3,
    "x.mean()": 1.5,
    "x.var()": 0.25,
    "x.max()": 2,
    "x.min()": 1,
    "x.softmax().sum()": 1,
    "x.log_softmax().exp().sum()": 1,
    "x.astype('float64')": [1, 2],
    "x.reshape(2, 1)": [[1], [2]],
    "x.reshape(2, 1).squeeze(1)": [1, 2],
    "x.expand_dims(0)": [[1, 2]],
    "x.expand_dims(0).transpose()": [[1], [2]],
    "x.expand_dims(0).swapaxes(0, 1)": [[1], [2]],
    "x.broadcast_to((2, 2))": [[1, 2], [1, 2]],
    "np.exp(0 * x)": [1, 1],
    "np.array([1.0, 1.0]) + x": [2, 3],
    "np.concatenate([x, x])": [1, 2, 1, 2],
}


@pytest.mark.parametrize(("expression", "expected"), EXPRESSIONS.items(), ids=EXPRESSIONS)
def test_every_operator_and_method_computes(expression, expected):
    found = eval(expression, {"np": np, "x": Tensor([1.0, 2.0])})
    np.testing.assert_allclose(found, np.array(expected), rtol=2e-6)


def test_operators_exist_without_any_other_import():
    program = "import numpy as np; from tinygpt.autograd import Tensor; x = Tensor([1.0, 2.0])"
    for text in ("x + 1", "1 - x", "x.sum()", "x == 1", "x[1]", "np.exp(x)", "np.array([1.0, 1.0]) + x"):
        assert run(f"{program}; print({text})") == str(eval(text, {"np": np, "x": Tensor([1.0, 2.0])}))


def test_repr_does_not_depend_on_what_else_was_imported():
    module = "Linear(2, 3, np.random.default_rng(0))"
    shown = "import numpy as np; print(m); print(m._repr_html_()); print(m.weight._repr_html_())"
    alone = run(f"import numpy as np; from tinygpt.nn import Linear; m = {module}; {shown}")
    after = run(f"import numpy as np, tinygpt.study.explain; from tinygpt import GPT; from tinygpt.nn import Linear; "
                f"m = {module}; {shown}")  # fmt: skip
    assert alone == after and alone.startswith("Linear: 9 parameters, float32, training\n")
    tensor = "print(Tensor([1.0])._repr_html_())"
    assert run(f"from tinygpt.autograd import Tensor; {tensor}") == "<b>Tensor</b> (1,), float32<pre>[1.]</pre>"


def test_methods_are_defined_in_the_class_where_an_editor_finds_them():
    source = {
        name: inspect.unwrap(getattr(Tensor, name)).__code__.co_filename
        for name in ("__add__", "__eq__", "sum", "reshape")
    }
    assert all(path.endswith("tensor.py") for path in source.values())
    assert hash(Tensor([1.0])) != hash(Tensor([1.0]))  # by identity, though == compares elements


def test_a_method_takes_the_arguments_of_the_function_of_its_name():
    def options(function):
        parameters = list(inspect.signature(function).parameters.values())
        return [(each.name, each.default, each.kind) for each in parameters[1:] if each.default is not each.empty]

    common = [name for name in F.__all__ if callable(vars(Tensor).get(name))]
    assert len(common) > 60
    for name in common:
        assert options(vars(Tensor)[name]) == options(getattr(F, name)), name


def test_help_on_a_method_says_something_or_names_the_function_that_does():
    methods = {name: method for name, method in vars(Tensor).items() if callable(method) and name[0] != "_"}
    assert [name for name, method in methods.items() if not method.__doc__] == []
    named = [re.findall(r"`tinygpt\.functional\.(\w+)`", method.__doc__) for method in methods.values()]
    assert {"exp", "relu", "add"} <= {name for names in named for name in names} <= set(F.__all__)
    assert all(inspect.getdoc(getattr(F, name)) for names in named for name in names)
