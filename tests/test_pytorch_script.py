"""A script written for PyTorch, tests/pytorch_script.py, with the lines replaced that the page on PyTorch lists."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygpt.runtime.torch_names import SCRIPT, Row

torch = pytest.importorskip("torch")

SOURCE = Path(__file__).with_name("pytorch_script.py").read_text(encoding="utf-8")
TOTAL = 20  # steps of a run
REMEDIES = {  # what the errors of the lines say, where a script still has PyTorch's
    "from torch.nn.utils import clip_grad_norm_": "write tinygpt.clip_grad_norm([w], 1.0)",
    'self.register_buffer("tril"': "write tinygpt.functional.tril",
    "x = x + self.proj": "write F.concatenate([x, y], axis=1)",
    "pos =": "write Tensor(np.arange(5))",
    "idx =": "write Tensor([1.0, 2.0])",
    "x = torch.zeros": "write Tensor(np.zeros((2, 3), np.float32))",
    "y = torch.full": "write Tensor(np.full((2, 3), 7.0, np.float32))",
    "x[row, column]": "or x.data[index] = value for values alone",
    "checkpoint = torch.load": "in Python, tinygpt.load_state reads the file",
    "torch.save": "write tinygpt.save_state(model.state_dict(), path)",
    "device =": "write False; everything computes on the CPU",
}


def replaced(rows: tuple[Row, ...] = SCRIPT) -> str:
    """The script with these lines replaced, and the imports of all others by the name of the package alone."""
    text = SOURCE
    for row in rows:
        text, count = re.subn(
            rf"^( *){re.escape(row.torch)}$", lambda found, row=row: found[1] + row.here, text, flags=re.M
        )
        assert count == 1, f"{row.torch} is in the script {count} times"
    return re.sub(r"^(from|import) torch\b", r"\1 tinygpt", text, flags=re.M)


def names_of(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "script"}
    exec(compile(source, "script.py", "exec"), names)
    return names


def small(names: dict[str, Any]) -> Any:
    return names["NameModel"](len(names["CHARS"]) + 1, n_embd=16, n_head=2, n_layer=2, dropout=0.0)


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    return names_of(replaced())


@pytest.fixture(scope="module")
def initial() -> dict[str, np.ndarray]:
    """The weights that both sides begin with, as PyTorch has them."""
    torch.manual_seed(0)
    return {name: tensor.numpy() for name, tensor in small(names_of(SOURCE)).state_dict().items()}


def ours(names: dict[str, Any], initial: dict[str, np.ndarray]) -> Any:
    """A model with these weights: those of Linear transposed, a matrix that no name calls an embedding or a mask."""
    model = small(names)
    model.load_state_dict({name: array.T if array.ndim == 2 and not re.match("tok|pos|.*tril", name) else array
                           for name, array in initial.items()})  # fmt: skip
    return model


def test_the_script_has_pytorchs_losses_here(here, initial, tmp_path):
    theirs = names_of(SOURCE)
    model = small(theirs)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in initial.items()})
    twin = ours(here, initial)
    expected = theirs["train"](model, TOTAL, TOTAL, tmp_path / "theirs.pt")
    found = here["train"](twin, TOTAL, TOTAL, tmp_path / "ours.safetensors")
    assert found[-1] < 0.9 * found[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert here["evaluate"](twin) == pytest.approx(theirs["evaluate"](model), rel=1e-4)
    assert twin.sample(np.random.default_rng(3)) == model.sample(np.random.default_rng(3))


def test_the_script_resumes_from_its_checkpoint_with_the_same_bits(here, initial, tmp_path):
    whole = here["train"](ours(here, initial), TOTAL, TOTAL, tmp_path / "whole.safetensors")
    path = tmp_path / "parts.safetensors"
    parts = [here["train"](ours(here, initial), TOTAL // 2, TOTAL, path) for _ in range(2)]
    assert parts[0] + parts[1] == whole


def test_the_script_runs_from_its_command_line(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["script.py", "--steps", "10", "--checkpoint", str(tmp_path / "names.safetensors")]
    )
    here["main"]()
    assert re.match(
        r"26832 parameters\nstep 0: loss \d\.\d{4}, norm \d+\.\d\d, lr 0\.\d{4}\nfinal", capsys.readouterr().out
    )


@pytest.mark.parametrize("line", REMEDIES)
def test_each_line_that_stays_as_in_pytorch_says_what_to_write(line, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--steps", "5", "--checkpoint", str(tmp_path / "names.safetensors")])
    others = tuple(row for row in SCRIPT if not row.torch.startswith(line))
    assert len(others) == len(SCRIPT) - 1
    with pytest.raises((ImportError, AttributeError, TypeError, OSError)) as error:
        for _ in range(2):  # a checkpoint is read by the second run
            names_of(replaced(others))["main"]()
    assert REMEDIES[line] in str(error.value)


def test_what_changes_besides_imports_has_a_remedy():
    changed = [row.torch for row in SCRIPT if not re.match("(import|from) ", row.torch)]
    assert all(any(line.startswith(begin) for begin in REMEDIES) for line in changed)
