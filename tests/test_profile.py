"""Where the time of a step goes: every call is counted once, the parts add up, and nothing is changed by looking."""

from __future__ import annotations

import importlib
import json
import threading
from collections import Counter

import numpy as np
import pytest

from benchmarks.modules import OPS
from tinygpt import GPT, AdamW, GPTConfig, Op, Tensor, apply, clip_grad_norm, grad_norm, implementation
from tinygpt.autograd.watch import observed
from tinygpt.cli.main import main
from tinygpt.study.profile import Profile, profile
from tinygpt.study.training_profile import profile_training
from tinygpt.study.work import FUNCTIONS, work
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import train

TOKENS = np.arange(12).reshape(2, 6)
PEAK = {"float32_gflops": 100.0, "bfloat16_gflops": 200.0, "read_gbytes": 10.0}


def model_of(layers: int, dropout: float = 0.1) -> GPT:
    rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
    return GPT(GPTConfig(vocab_size=13, n_positions=6, n_embd=8, n_layer=layers, n_head=2, **rates))


def calls_of(found: Profile, direction: str) -> dict[str, float]:
    calls: Counter[str] = Counter()
    for row in found.rows():
        if row.direction == direction:
            calls[row.operation] += row.calls
    return dict(calls)


def calls_in(layers: int) -> dict[str, int]:
    """How often `GPT.loss` calls each operation, counted in gpt2/model.py by hand."""
    return {"embedding": 2, "add": 1 + 2 * layers, "dropout": 1 + 2 * layers, "layernorm": 2 * layers + 1,
            "linear": 3 * layers, "attention": layers, "gelu_linear": layers, "reshape": 1,
            "linear_cross_entropy": 1}  # fmt: skip


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("side", ["kernels", "numpy"])
def test_every_operation_is_counted_forward_and_backward(layers, side):
    model = model_of(layers)
    with implementation(side), profile() as found:
        for _ in range(2):
            model.loss(TOKENS, TOKENS).backward()
            found.step()
    assert calls_of(found, "forward") == calls_of(found, "backward") == calls_in(layers)


def test_a_recomputed_block_is_counted_twice_and_its_own_time_is_pythons():
    model = model_of(2)
    model.recompute = True
    with profile() as found:
        model.loss(TOKENS, TOKENS).backward()
    again = {"add": 4, "dropout": 4, "layernorm": 4, "linear": 6, "attention": 2, "gelu_linear": 2}
    twice = {name: count + again.get(name, 0) for name, count in calls_in(2).items()}
    assert calls_of(found, "forward") == twice | {"recompute": 2}
    assert calls_of(found, "backward") == calls_in(2) | {"recompute": 2}
    assert {row.code for row in found.rows() if row.operation == "recompute"} == {"python"}


@pytest.mark.parametrize("side", ["kernels", "numpy", "check"])
def test_the_rows_add_up_to_the_whole(side):
    model = model_of(2)
    optimizer = AdamW(model.parameters())
    with implementation(side), profile() as found:
        for _ in range(3):
            model.loss(TOKENS, TOKENS).backward()
            grad_norm(model.parameters())
            optimizer.step()
            optimizer.zero_grad()
            found.step()
    rows = found.rows()
    assert sum(row.ms for row in rows) == pytest.approx(found.ms, rel=1e-12)
    assert sum(row.share for row in rows) == pytest.approx(1, rel=1e-12)
    assert all(row.ms >= 0 for row in rows) and rows[-1].name == "everything else" and rows[-1].ms > 0
    assert 0 < found.python_share < 1


def test_the_update_and_the_norm_are_apart_from_the_python_around_them():
    model = model_of(1)
    optimizer = AdamW(model.parameters())
    for side, update, squares in (("kernels", "adamw update", "norm squares"),
                                  ("numpy", "adamw_update", "sum_of_squares")):  # fmt: skip
        assert model.flat_gradients.size  # of gradients that somebody has seen, all are read for the norm
        with implementation(side), profile() as found:
            model.loss(TOKENS, TOKENS).backward()
            grad_norm(model.parameters())
            optimizer.step()
            optimizer.zero_grad()
        codes = {row.name: row.code for row in found.rows() if not row.operation}
        python = ("Optimizer.step", "Optimizer.zero_grad", "grad_norm", "everything else")
        code = "kernel" if side == "kernels" else "numpy"
        assert codes == dict.fromkeys(python, "python") | {update: code, squares: code}
        moved = {row.name: row.rate * row.ms / 1e3 for row in found.rows() if row.name in (update, squares)}
        size = model.num_parameters()
        assert moved == pytest.approx({update: 28 * size, squares: 4 * size})


SETTINGS = {"steps": 20, "batch_size": 2, "context": 16, "vocab_size": 300, "eval_every": 20, "eval_tokens": 64}


@pytest.mark.parametrize("changes", [{"dropout": 0.0}, {"dropout": 0.1, "grad_accumulation": 2, "recompute": True,
                                          "precision": "bfloat16"}])  # fmt: skip
def test_the_losses_are_those_of_the_run_bit_by_bit(changes, tmp_path, monkeypatch):
    monkeypatch.setattr("tinygpt.study.training_profile.rates", lambda: PEAK)
    settings = TrainingSettings.from_preset("tiny", **SETTINGS | changes)
    found = profile_training(settings, steps=4, progress=False)
    train(settings, tmp_path / "run", progress=False, stop_after=11)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert found.losses == [line["loss"] for line in lines if "loss" in line]
    calls = {row.name: row.calls for row in found.profile.rows()}
    parts = changes.get("grad_accumulation", 1)
    assert calls["Optimizer.step"] == calls["grad_norm"] == 1 and calls["sample_batch"] == parts
    assert calls["linear backward"] == 3 * 4 * parts  # the preset has four layers
    assert calls["dropout backward"] == (1 + 2 * 4) * parts if changes["dropout"] else "dropout backward" not in calls


def test_what_runs_outside_of_the_block_or_in_another_thread_is_not_counted():
    x = Tensor(np.ones(4, np.float32), requires_grad=True)
    with profile() as found:
        y = x * x
        thread = threading.Thread(target=lambda: (x + x).sum())
        thread.start()
        thread.join()
    y.sum().backward()
    assert [(row.name, row.calls) for row in found.rows() if row.operation] == [("mul_forward", 1)]


def test_a_block_that_fails_is_measured_up_to_there():
    found = Profile()
    with pytest.raises(ZeroDivisionError), profile(found):
        Tensor([1.0]) * 2
        raise ZeroDivisionError
    with profile(found):
        Tensor([1.0]) * 2
    assert [(row.name, row.calls) for row in found.rows() if row.operation] == [("mul_forward", 2)]
    assert sum(row.ms for row in found.rows()) == pytest.approx(found.ms, rel=1e-12)


def test_a_profile_that_measures_cannot_be_entered_again():
    with profile() as found, pytest.raises(ValueError, match="is measuring already"), profile(found):
        pass


def test_an_operation_of_the_users_own_has_its_name():
    square = Op("square", lambda x: (x * x, x), lambda dout, x: (dout * 2 * x,))
    with profile() as found:
        apply(square, Tensor([3.0], requires_grad=True)).backward(np.ones(1, np.float32))
    assert [row.name for row in found.rows() if row.operation] == ["square forward", "square backward"]


def test_an_operation_of_the_users_own_may_have_the_name_of_one_of_ours():
    """Its work is not known, whatever shapes it takes."""
    mine = Op("linear", lambda x: (x * x, x), lambda dout, x: (dout * 2 * x,))
    with profile() as found:
        apply(mine, Tensor([3.0], requires_grad=True)).backward(np.ones(1, np.float32))
    assert [(row.name, row.rate) for row in found.rows() if row.operation] == [("linear forward", None),
                                                                              ("linear backward", None)]  # fmt: skip


@pytest.mark.parametrize(("side", "name"), [("kernels", "norm update"), ("numpy", "scale")])
def test_the_clip_has_a_row_of_its_own(side, name):
    model = model_of(1)
    assert model.flat_gradients.size  # gradients that nobody has seen would be clipped later, by the optimizer
    with implementation(side), profile() as found:
        model.loss(TOKENS, TOKENS).backward()
        clip_grad_norm(model.parameters(), 1e-6)
    assert name in [row.name for row in found.rows()]


def test_a_function_is_itself_where_nobody_watches():
    assert observed(len, "numpy") is len


@pytest.mark.parametrize("name", [name for name in OPS if name not in ("adamw", "norm", "sgd")])
def test_the_work_of_an_operation_is_what_its_benchmark_counts(name):
    module = importlib.import_module(f"benchmarks.bench_{name}")
    op = module.OP if hasattr(module, "OP") else None
    for case, sizes in module.CASES.items():
        if any(isinstance(size, int) and size > 30_000 for size in sizes.values()):
            continue  # large arrays
        given = module.given(sizes, np.random.default_rng(1))
        attrs = {"ids": given.attrs["ids"]} if name == "embedding" else given.attrs
        shapes = [np.shape(array) for array in given.arrays]
        found = work(name if op is None else op.name, shapes, attrs)
        assert {found.unit: found.forward + sum(found.gradients)} == module.cost(sizes), case


def test_the_work_outside_of_the_graph_is_what_the_benchmarks_count():
    cost = {name: importlib.import_module(f"benchmarks.bench_{name}").cost({"size": 1})["bytes"]
            for name in ("adamw", "norm")}  # fmt: skip
    assert FUNCTIONS["tinygpt.kernels.adamw.update"] * 4 == cost["adamw"]
    assert FUNCTIONS["tinygpt.kernels.norm.squares"] * 4 == cost["norm"]
    for name in FUNCTIONS:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("a", "b", "products"),
    [
        ((2, 3), (3, 5), 30),
        ((3,), (3, 5), 15),
        ((2, 3), (3,), 6),
        ((7, 2, 3), (3, 5), 210),
        ((7, 1, 2, 3), (4, 3, 5), 840),
    ],
)
def test_the_work_of_a_matrix_product_counts_its_batch(a, b, products):
    assert work("matmul", [a, b], {}).forward == 2 * products


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr("tinygpt.study.training_profile.rates", lambda: PEAK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more: str) -> list[str]:
    options = (f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items())
    return ["train", "--quiet", *options, *more]


def test_the_command_prints_a_table_of_80_columns_and_leaves_nothing(here, capsys):
    assert main(command("--profile", "2", "--recompute", "--dropout=0.1", "--grad-accumulation=2")) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "2 steps of 2 x 2 x 16 tokens, after 3 for warm-up" in out
    for row in ("linear backward", "adamw update", "sample_batch", "everything else", "a step", "forward "):
        assert f"\n{row}" in out
    assert not list(here.iterdir())


def test_the_command_prints_json_of_which_the_rows_add_up(here, capsys):
    assert main(command("--profile", "2", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 2 and found["tokens_per_step"] == 32 and found["peak"] == PEAK
    assert sum(row["ms"] for row in found["rows"]) == pytest.approx(found["ms"])
    linear = next(row for row in found["rows"] if row["name"] == "linear forward")
    assert linear["of_peak"] == pytest.approx(linear["rate"] / 1e11) and linear["unit"] == "flops"


def test_a_run_that_exists_is_profiled_with_its_settings_and_not_touched(here, capsys):
    assert main(command("--out", "run", "--stop-after", "1", "--grad-accumulation", "3")) == 0
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    capsys.readouterr()
    assert main(["train", "--quiet", "--out", "run", "--resume", "--profile", "1"]) == 0
    assert "1 step of 3 x 2 x 16 tokens" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_training_that_diverges_is_one_line(here, capsys):
    assert main(command("--profile", "5", "--lr", "1e20", "--min-lr", "0", "--warmup", "0")) == 2
    said = capsys.readouterr().err
    assert "training diverged" in said and said.count("\n") == 1
