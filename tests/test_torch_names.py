"""The table of PyTorch's names: both sides of each row run, and what is missing says what to write."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, Tensor, Tokenizer, nn, no_grad, optim
from tinygpt import functional as F
from tinygpt.generation.generate import generate_batch
from tinygpt.runtime.torch_names import ABSENT, DIFFERS, REFUSED, SAME, WRITE, Row
from tinygpt.study.pytorch_page import page

torch = pytest.importorskip("torch")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coming_from_pytorch.md"
TEXTS = [text for texts in SAME.values() for text in texts]
ROWS = [row for rows in WRITE.values() for row in rows]
DRAWN = (
    "rand",
    "normal",
    "uniform",
    "multinomial",
    "bernoulli",
    "empty",
)  # values that nobody promises: shape and dtype count
ONLY_HERE = ("cuda", "pin_memory", "transformers", "model", "GPT")  # what PyTorch cannot run here, or does not have
NARROW = ("half", "float16", "bfloat16")  # types that tensors here do not have
OBJECTS = {  # rows whose values are no numbers: what both sides must do
    "torch.manual_seed(0)": "value.random() == np.random.default_rng(0).random()",
    "torch.Generator()": "isinstance(value, np.random.Generator)",
    "torch.inference_mode()": "not value(lambda: (w + 1).requires_grad)()",
    "torch.set_grad_enabled(False)": "not value(lambda: (w + 1).requires_grad)()",
    "torch.device('cpu')": "value == 'cpu'",
}


def arrays() -> dict[str, np.ndarray]:
    """What the names of the table stand for."""
    rng = np.random.default_rng(0)
    floats = {"x": [[1, -2, 3], [4, 5, -6]], "y": [[1.5, 2, 0.5], [4, 5.5, 6]], "p": [0.2, 0.3, 0.5],
              "target": [1, 0, 1], "square": rng.normal(size=(3, 3)), "weight": rng.normal(size=(4, 3)),
              "q": rng.normal(size=(2, 3, 3)), "k": rng.normal(size=(2, 3, 3)),
              "v": rng.normal(size=(2, 3, 3))}  # fmt: skip
    found = {name: np.array(values, np.float32) for name, values in floats.items()}
    return found | {"ids": np.array([[0, 2], [1, 1]]), "targets": np.array([2, 0]), "mask": found["x"] > 0}


def theirs() -> dict[str, Any]:
    names: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays().items()}
    w, bias = (torch.tensor(arrays()["x"][index], requires_grad=True) for index in (slice(None), 0))
    return names | {"torch": torch, "F": torch.nn.functional, "nn": torch.nn, "optim": torch.optim, "np": np, "w": w,
                    "bias": bias, "loss": (w * w).sum() + (bias * bias).sum(), "array": np.arange(3.0)}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pretrained")
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    config = GPTConfig(vocab_size=256, n_positions=8, n_embd=4, n_layer=1, n_head=2)
    GPT(config).save_pretrained(path, tokenizer)
    return str(path)


@pytest.fixture(autouse=True)
def _print_options_stay():
    """One row sets NumPy's, and the examples of docstrings, run later, print arrays."""
    with np.printoptions():
        yield


@pytest.fixture
def ours(folder) -> dict[str, Any]:
    return names_here(folder)


def names_here(folder: str) -> dict[str, Any]:
    names: dict[str, Any] = {name: Tensor(array) for name, array in arrays().items()}
    w, bias = (Tensor(arrays()["x"][index], requires_grad=True) for index in (slice(None), 0))
    return names | {"torch": tinygpt, "transformers": tinygpt, "tinygpt": tinygpt, "F": F, "nn": nn, "optim": optim,
                    "np": np, "w": w, "bias": bias, "loss": (w * w).sum() + (bias * bias).sum(),
                    "array": np.arange(3.0), "rng": np.random.default_rng(0), "math": math, "Tensor": Tensor,
                    "no_grad": no_grad,
                    "GPT": GPT, "GPTConfig": GPTConfig, "Tokenizer": Tokenizer, "generate_batch": generate_batch,
                    "folder": folder, "path": f"{folder}/state.safetensors",
                    "model": GPT.from_pretrained(folder).eval()}  # fmt: skip


def run(text: str, names: dict[str, Any]) -> Any:
    """The value of the expression, or of `x` after the statement; of a new optimizer, what its step makes of w."""
    *statements, last = text.split("; ")
    exec("; ".join(statements), names)
    try:
        value = eval(last, names)
    except SyntaxError:
        exec(last, names)
        value = names["x"]
    if hasattr(value, "param_groups"):
        names["loss"].backward()
        value.step()
        value = [names["w"], names["bias"]]
    return names["x"] if value is None else value


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, torch.dtype):
        return np.dtype(str(value).removeprefix("torch."))
    if isinstance(value, type) and issubclass(value, np.generic):
        return np.dtype(value)
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def assert_same(found: Any, expected: Any) -> None:
    found, expected = plain(found), plain(expected)
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    elif isinstance(expected, np.ndarray):
        assert np.shape(found) == expected.shape
        if not isinstance(found, (bool, float, int)):
            assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert found == pytest.approx(expected) if isinstance(expected, float) else found == expected


def id_of(row: Row) -> str:
    return row.torch


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_typed_as_in_pytorch_gives_its_values_and_gradients(text, ours):
    names = theirs()
    found, expected = run(text, ours), run(text, names)
    if text in OBJECTS:
        assert eval(OBJECTS[text], ours | {"value": found})
    else:
        assert_same(found, expected)
    if names["w"].grad is not None:
        assert_same(ours["w"].grad, names["w"].grad)


@pytest.mark.parametrize("row", DIFFERS, ids=id_of)
def test_what_has_another_meaning_here_has_a_form_with_pytorchs(row, folder, ours):
    expected, found = run(row.torch, theirs()), run(row.torch, names_here(folder))
    with pytest.raises(AssertionError):
        assert_same(found, expected)
    if row.here:
        assert_same(run(row.here, ours), expected)


@pytest.mark.parametrize("row", REFUSED, ids=id_of)
def test_what_numpy_means_otherwise_is_refused_and_has_a_form_with_pytorchs_values(row, ours):
    with pytest.raises((TypeError, ValueError)) as error:
        run(row.torch, ours)
    form = re.search(r"(correction=1|weight\.T|\.(?:amax|amin|argmax|swapaxes|tile)|\(\(0, 0\), \(1, 1\)\))", row.here)
    assert form[1].lstrip(".") in str(error.value)
    assert_same(run(row.here, ours), run(row.torch, theirs()))


@pytest.mark.parametrize("row", ROWS, ids=id_of)
def test_a_name_that_is_missing_says_what_to_write(row, ours):
    with pytest.raises((AttributeError, TypeError, ValueError)) as error:
        run(row.torch, ours)
    assert f": for {row.torch} write {row.here}" in str(error.value)
    assert row.note in str(error.value) and "\n" not in str(error.value)
    run(row.here, ours)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not any(word in row.torch for word in (*ONLY_HERE, *NARROW))], ids=id_of
)
def test_what_to_write_gives_pytorchs_values(row, ours):
    found = run(row.here, ours)
    with torch.enable_grad():
        expected = run(row.torch, theirs())
    if row.torch in OBJECTS:
        assert eval(OBJECTS[row.torch], ours | {"value": found})
    elif any(word in row.torch for word in DRAWN):
        assert np.shape(plain(found)) == tuple(expected.shape) and found.dtype == plain(expected).dtype
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("row", ABSENT, ids=id_of)
def test_a_name_that_has_no_counterpart_says_why(row, ours):
    with pytest.raises((AttributeError, TypeError)) as error:
        run(row.torch, ours | {"dataset": None, "function": None})
    assert str(error.value).endswith(f": {row.note}")


@pytest.mark.parametrize("name", sorted({*F.__all__} & {*dir(torch)} - {*dir(tinygpt), "transpose", "max", "min"}))
def test_a_function_of_torch_is_found_in_functional(name):
    with pytest.raises(AttributeError, match=rf"no attribute '{name}': write tinygpt\.functional\.{name}$"):
        getattr(tinygpt, name)


def test_an_operation_in_place_says_which_one_to_write():
    with pytest.raises(
        AttributeError, match=r"'exp_': operations do not write into tensors; write x = x\.exp\(\.\.\.\)$"
    ):
        Tensor([1.0]).exp_()


def test_the_page_is_that_of_the_table():
    remedy = "python -m tinygpt.study.pytorch_page > docs/coming_from_pytorch.md"
    assert PAGE.read_text(encoding="utf-8") == page(), f"the table has changed; run {remedy}"


def test_the_training_loop_of_the_page_runs_and_learns(capsys):
    (loop,) = re.findall(r"^```python\n(.*?)^```$", page(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(loop, str(PAGE), "exec"), names)
    assert names["loss"].item() < 0.5 and names["right"].mean() > 0.9
    assert re.fullmatch(r"loss 0\.\d{3}, \d+% right\n", capsys.readouterr().out)


def test_the_table_holds_each_expression_once():
    texts = [*TEXTS, *(row.torch for row in (*REFUSED, *DIFFERS, *ROWS, *ABSENT))]
    assert len(texts) == len(set(texts)) > 100


def test_a_name_that_nobody_knows_gets_pythons_own_words():
    for owner, name in ((Tensor([1.0]), "shapee"), (F, "softmx"), (tinygpt, "Tensr"), (optim, "Sgdd"), (nn, "Linar")):
        with pytest.raises(AttributeError, match=rf"has no attribute '{name}'$") as error:
            getattr(owner, name)
        assert error.value.name == name and error.value.obj is owner  # from which Python suggests the nearest name


def test_what_python_and_numpy_look_for_is_absent_as_before():
    x = Tensor([1.0, 2.0])
    for name in ("__array_interface__", "__cuda_array_interface__", "__len_hint__", "_repr_png_", "_ipython_display_"):
        assert not hasattr(x, name)
    assert not hasattr(x, "cuda") and not hasattr(tinygpt, "zeros")
    assert "cuda" not in dir(x) and "zeros" not in dir(tinygpt)
    assert inspect.unwrap(Tensor.sum).__name__ == "sum" and inspect.getdoc(x).startswith("A NumPy array")
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        np.testing.assert_array_equal(twin, x)


def test_a_tensor_takes_no_new_attributes():
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'name'"):
        Tensor([1.0]).name = "x"


def test_the_table_is_not_imported_before_a_name_is_missing():
    from test_public_names import run as run_alone

    program = "import sys, tinygpt; tinygpt.Tensor([1.0]).sum(); print('tinygpt.runtime.torch_names' in sys.modules)"
    assert run_alone(program) == "False"


def test_the_number_of_new_tokens_has_two_names(ours):
    model, prompt = ours["model"], [1, 2]
    expected = list(model.generate(prompt, max_tokens=3, seed=0))
    assert list(model.generate(prompt, max_new_tokens=3, seed=0)) == expected and len(expected) == 3
    with pytest.raises(TypeError, match="max_new_tokens is another name of max_tokens; give one of them"):
        model.generate(prompt, max_new_tokens=3, max_tokens=3)


def test_the_model_takes_ids_by_the_name_that_transformers_has(ours):
    np.testing.assert_array_equal(ours["model"](input_ids=ours["ids"]), ours["model"](ours["ids"]))


def test_a_field_that_the_configuration_lacks_is_found_before_the_weights_are_read():
    with pytest.raises(TypeError, match=r"^GPT.from_pretrained: GPTConfig has no field 'n_layers'$"):
        GPT.from_pretrained(Path("nowhere"), n_layers=1)


IMPORTS = {  # what an import line of PyTorch's says after `torch` was replaced
    "from tinygpt import tensor": "cannot import name 'tensor' from 'tinygpt': for torch.tensor([1.0, 2.0]) write",
    "from tinygpt import no_grad, exp": "cannot import name 'exp' from 'tinygpt': write tinygpt.functional.exp",
    "from tinygpt.nn import BatchNorm1d": "cannot import name 'BatchNorm1d' from 'tinygpt.nn': the layers are those",
    "from tinygpt.nn.functional import one_hot": "cannot import name 'one_hot' from 'tinygpt.functional': for F.one",
    "from tinygpt.autograd import gradcheck": "for torch.autograd.gradcheck(torch.tanh,",
    "from tinygpt.optim.lr_scheduler import CyclicLR": ": LambdaLR takes the rate as a function of the step",
    "from tinygpt.nn.utils import clip_grad_norm_": "No module named 'tinygpt.nn.utils': for nn.utils.clip_grad_norm_",
    "from tinygpt.utils.data import DataLoader": "No module named 'tinygpt.utils': a batch is rows of an array",
    "import tinygpt.cuda.amp as amp": "No module named 'tinygpt.cuda': for torch.cuda.is_available() write False",
    "import tinygpt.backends.cudnn": "No module named 'tinygpt.backends': everything computes on the CPU",
}


@pytest.mark.parametrize("line", IMPORTS)
def test_an_import_line_says_what_to_write(line):
    with pytest.raises(ImportError) as error:
        exec(line, {})
    assert IMPORTS[line] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from tinygpt import nothing", "cannot import name 'nothing' from 'tinygpt' ("),
        ("from tinygpt.functional import softmx", "cannot import name 'softmx' from 'tinygpt.functional' ("),
        ("import tinygpt.nothing", "No module named 'tinygpt.nothing'"),
    ],
)
def test_an_import_line_that_nobody_knows_gets_pythons_own_words(line, words):
    with pytest.raises(ImportError) as error:
        exec(line, {})
    assert str(error.value).startswith(words)


def test_a_function_of_torch_that_is_a_method_here_is_named():
    for owner in (tinygpt, F):
        with pytest.raises(AttributeError, match=r"no attribute 'unsqueeze': write x\.unsqueeze\(0\)$"):
            owner.unsqueeze(None, 0)
        with pytest.raises(AttributeError, match=r"no attribute 'eq': for x\.eq\(y\) write x == y$"):
            owner.eq(None, None)
    with pytest.raises(AttributeError, match=r"no attribute 'cat': for torch\.cat\(\[x, y\], dim=1\) write F\.concat"):
        F.cat(None)


def test_an_operation_in_place_that_is_not_here_promises_nothing():
    with pytest.raises(AttributeError, match=r"'index_add_': operations do not write into tensors; what changes a par"):
        Tensor([1.0]).index_add_(0, None, None)


def test_python_adds_no_name_of_its_own_to_what_to_write():
    for owner, name in ((tinygpt, "tensor"), (Tensor([1.0]), "mul_"), (tinygpt.autograd, "grad")):
        with pytest.raises(AttributeError) as error:
            getattr(owner, name)
        assert "Did you mean" not in "".join(traceback.format_exception(error.value))


def test_what_to_write_for_multinomial_draws_from_each_row():
    (row,) = (row for row in ROWS if row.torch == "torch.multinomial(p, 1)")
    p = Tensor(np.tile(np.array([[0.2, 0.3, 0.5], [0.9, 0.1, 1e-30]], np.float32), (5000, 1)))
    drawn = eval(row.here, {"p": p, "np": np, "Tensor": Tensor, "rng": np.random.default_rng(0)})
    assert drawn.shape == (10000, 1) and drawn.dtype == np.int64
    for first, expected in ((0, [0.2, 0.3, 0.5]), (1, [0.9, 0.1, 0.0])):
        np.testing.assert_allclose(np.bincount(drawn.data[first::2, 0], minlength=3) / 5000, expected, atol=0.02)
