"""`tinygpt diff`: implementations agree to rounding, and a planted divergence is named where it is planted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from tinygpt import nn
from tinygpt.autograd import dispatch, tensor
from tinygpt.autograd.watch import watching
from tinygpt.cli.diff import any_model
from tinygpt.cli.main import main
from tinygpt.ops import linear
from tinygpt.study import divergence
from tinygpt.study.recorder import Recorder

TOKENS = np.random.default_rng(1).integers(0, 101, (2, 2, 16))


def gaps(a: str, b: str) -> list[divergence.Gap]:
    model = any_model()
    first, second = (divergence.trace(model, *TOKENS, side) for side in (a, b))
    return divergence.compare(first, second, divergence.allowed_between(a, b))


@pytest.mark.parametrize(("a", "b"), [("kernels", "numpy"), ("kernels", "float64"), ("numpy", "float64"),
                                      ("bfloat16", "float64")])  # fmt: skip
def test_all_implementations_agree(a, b):
    found = gaps(a, b)
    assert not any(gap.differs for gap in found)
    directions = [gap.direction for gap in found]
    assert directions == sorted(directions, key=["forward", "backward", "gradient"].index)
    assert {"h.1.attn.c_proj: linear", "h.0.ln_2: layernorm", "h.1.attn: attention", "linear_cross_entropy"} <= {
        gap.where for gap in found
    }
    assert max(gap.gap for gap in found) > 0  # not the same thing twice


def test_transformers_agrees_and_a_gradient_that_does_not_is_named(monkeypatch):
    pytest.importorskip("transformers")
    found = gaps("kernels", "transformers")
    assert not any(gap.differs for gap in found)
    compared = {gap.where for gap in found}
    assert {
        "wte: embedding",
        "h.1.mlp.c_proj: gelu_linear",
        "h.0.attn.c_attn: linear",
        "linear_cross_entropy",
    } <= compared
    assert {name for name, _ in any_model().named_parameters()} <= compared
    kernel = importlib.import_module("tinygpt.kernels.layernorm")
    backward = kernel.backward

    def wrong(dout, saved, into):
        backward(dout, saved, into)
        into[2].array[:] *= 1.01

    monkeypatch.setattr(kernel, "backward", wrong)
    assert gaps("kernels", "transformers")[-1].where.endswith((".bias", "ln_f.bias"))


PLANTED = [
    ("embedding", "forward", "wte: embedding"), ("layernorm", "forward", "h.0.ln_1: layernorm"),
    ("linear", "forward", "h.0.attn.c_attn: linear"), ("attention", "forward", "h.0.attn: attention"),
    ("gelu_linear", "forward", "h.0.mlp.c_proj: gelu_linear"), ("layernorm", "backward", "ln_f: layernorm"),
    ("linear_cross_entropy", "forward", "linear_cross_entropy"),
    ("gelu_linear", "backward", "h.1.mlp.c_proj: gelu_linear"),
    ("embedding", "backward", "wpe: embedding"), ("attention", "backward", "h.1.attn: attention"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "direction", "where"), PLANTED, ids=[f"{op} {way}" for op, way, _ in PLANTED])
def test_a_planted_divergence_is_named(monkeypatch, op, direction, where):
    """A kernel that is off by two percent in one element: the first call of it, in the order of computation."""
    kernel = importlib.import_module(f"tinygpt.kernels.{op}")
    original = getattr(kernel, direction)

    def forward(*arrays, **attrs):
        out, saved = original(*arrays, **attrs)
        out = np.array(out)
        out.reshape(-1)[np.argmax(np.abs(out))] *= 1.02
        return out, saved

    def backward(dout, saved, into):
        original(dout, saved, into)
        slot = next(slot for slot in into if slot is not None)
        slot.array.reshape(-1)[np.argmax(np.abs(slot.array))] *= 1.02

    monkeypatch.setattr(kernel, direction, forward if direction == "forward" else backward)
    found = gaps("kernels", "numpy")
    assert (found[-1].where, found[-1].direction) == (where, direction) and found[-1].differs
    assert found[-1].gap == pytest.approx(0.02, rel=0.01)
    assert not any(gap.differs for gap in found[:-1])


def watched_names() -> list:
    """What an observer could have put something else in place of."""
    return [nn.Module.__call__, nn.Linear.forward, tensor.select, tensor.apply, dispatch.select, linear.LINEAR]


def test_it_observes_its_own_thread_and_patches_nothing():
    model = any_model()
    before = watched_names()
    recorder = Recorder(model)
    with watching(recorder):
        other = threading.Thread(target=lambda: model.loss(*TOKENS))
        other.start()
        other.join()
        assert recorder.results == []
        model.loss(*TOKENS)
        during = watched_names()
    assert all(a is b for a, b in zip(before, during, strict=True))
    assert {"wte: embedding", "h.1.attn: attention"} <= {result.where for result in recorder.results}


def test_the_command_says_so(tmp_path):
    command = [sys.executable, "-m", "tinygpt", "diff"]
    told = subprocess.run([*command, "kernels", "numpy"], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0 and "kernels and numpy agree: " in told.stdout
    strict = [*command, "numpy", "float64", "--tolerance", "1e-12", "--json"]
    told = subprocess.run(strict, capture_output=True, text=True, timeout=300)
    assert told.returncode == 1 and json.loads(told.stdout)[-1]["differs"] is True
    told = subprocess.run([*command, "kernels", "torch"], capture_output=True, text=True, timeout=300)
    assert (
        told.returncode == 2
        and "must be one of kernels, numpy, float64, bfloat16, transformers, got 'torch'" in told.stderr
    )


def test_a_context_that_the_model_does_not_have_is_refused_as_in_evaluate(capsys):
    assert main(["diff", "kernels", "numpy", "--context", "33"]) == 2
    assert capsys.readouterr().err == "tinygpt: diff: --context must be at most the model's 32 tokens, got 33\n"
    assert main(["diff", "numpy", "numpy", "--context", "32"]) == 0
