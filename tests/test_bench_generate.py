"""What the benchmarks of generation, look-up and whole runs claim is checked: a wrong result is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks import bench_generate, bench_lookup, bench_perplexity, bench_recipe, texts
from benchmarks.kernel_race import WrongResult
from benchmarks.worker import WorkerError
from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.quantization import KINDS, quantize_model

SIZES = {"vocab_size": 97, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}


@pytest.fixture
def model() -> GPT:
    return GPT(GPTConfig(**SIZES), seed=1).eval()


def test_the_bytes_of_a_token_are_those_of_all_matrices_but_positions(model):
    V, C, L = 97, 32, 2
    numbers = V * C + L * (3 * C * C + C * C + 4 * C * C + 4 * C * C)
    assert bench_generate.weights_read(model) == 4 * numbers
    quantize_model(model, "int8")
    scales = V + L * (3 * C + C + 4 * C + C)
    assert bench_generate.weights_read(model) == numbers + 4 * scales


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_must_be_those_of_the_whole_text(model, kind, monkeypatch):
    quantize_model(model, kind)
    prompt, told, tolerance = [3, 1, 4, 1, 5], [9, 2, 6], bench_generate.TOLERANCE[kind]
    bench_generate.verify_logits(model, prompt, told, tolerance)
    step = type(model.decoder()).step
    monkeypatch.setattr(type(model.decoder()), "step", lambda *given: step(*given) * np.float32(1 + 3 * tolerance))
    with pytest.raises(WrongResult, match="cached logits are off by"):
        bench_generate.verify_logits(model, prompt, told, tolerance)


def test_the_loss_token_by_token_is_the_definition(model):
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, 97, (2, 3, 7))
    expected = 0.0
    for row, wanted in zip(inputs, targets, strict=True):
        logits = model(row[None]).data[0].astype(np.float64)
        expected -= sum(
            math.log(np.exp(each[id]) / np.exp(each).sum()) for each, id in zip(logits, wanted, strict=True)
        )
    assert bench_perplexity.decoded_loss(model, inputs, targets) == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_that_of_whole_windows_is_refused():
    bench_perplexity.verify("tinygpt int8", "code", {"loss": 3.001, "whole": 3.0})
    with pytest.raises(WrongResult, match=r"code: tinygpt float32 has a loss of 3\.00100 token by token, 3\.00000 in"):
        bench_perplexity.verify("tinygpt float32", "code", {"loss": 3.001, "whole": 3.0})
    with pytest.raises(WrongResult, match="nan token by token"):
        bench_perplexity.verify("tinygpt int8", "code", {"loss": math.nan, "whole": 3.0})


def test_another_text_with_look_up_is_refused():
    bench_lookup.verify("code", "tinygpt float32 lookup", [[1, 2], [3]], [[1, 2], [3]])
    with pytest.raises(
        WrongResult, match=r"code: tinygpt float32 lookup continues prompt 1 by \[4\], without it \[3\]"
    ):
        bench_lookup.verify("code", "tinygpt float32 lookup", [[1, 2], [3]], [[1, 2], [4]])


def test_prompts_are_different_places_of_a_text_and_repeated_text_is_repeated(model, monkeypatch):
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    monkeypatch.setattr(bench_lookup, "_side", {"model": model, "tokenizer": tokenizer})
    for case in bench_lookup.CASES:
        found = bench_lookup.prompts(case)
        assert len(found) == bench_lookup.PROMPTS and len({*map(tuple, found)}) == len(found)
        assert all(0 < len(prompt) <= SIZES["n_positions"] // 2 for prompt in found)
    part = len(found[0]) // 3
    assert all(prompt == prompt[:part] * 3 for prompt in bench_lookup.prompts("repeated text"))


def test_the_texts_are_different_long_and_the_same_each_time():
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    found = [texts.ids_of(name, tokenizer, 4000) for name in texts.TEXTS]
    assert len(found) == 3 and all(len(ids) == 4000 for ids in found) and found[0] != found[1] != found[2]
    assert found == [texts.ids_of(name, tokenizer, 4000) for name in texts.TEXTS]
    assert b"import" in bytes(found[2])


def test_a_run_that_learned_nothing_or_less_than_ours_is_refused():
    bench_recipe.verify({"tinygpt float32": 1.88, "torch float32": 1.90})
    for wrong in (2.1, math.nan):
        with pytest.raises(WrongResult, match="torch float32 ends at a loss of"):
            bench_recipe.verify({"tinygpt float32": 1.88, "torch float32": wrong})
    with pytest.raises(WrongResult, match=r"tinygpt float32 ends at a loss of 5\.6"):
        bench_recipe.verify({"tinygpt float32": 5.6, "torch float32": 5.6})


def test_the_last_loss_of_a_run_is_that_over_the_whole_validation_text(tmp_path):
    lines = [{"step": 0, "validation_loss": 5.5}, {"step": 1, "loss": 5.0},
             {"step": 1, "validation_loss": 4.9, "final_validation_loss": 4.8}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert bench_recipe._loss(tmp_path) == 4.8
    (tmp_path / "theirs").write_text('{"loss": 4.7}')
    assert bench_recipe._loss(tmp_path / "theirs") == 4.7


def test_a_command_that_fails_is_told_by_its_last_line(tmp_path):
    with pytest.raises(WorkerError, match=r"tinygpt float32: its command ended with status 2: .*no_such"):
        bench_recipe.run("tinygpt float32", tmp_path / "no_such.txt", 1)


def test_the_text_of_a_run_is_the_user_s_or_the_bundled_stories(tmp_path, monkeypatch):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    assert bench_recipe.text_of(mine, tmp_path) == mine
    monkeypatch.setenv("TINYGPT_TEST_DATA", str(tmp_path))
    assert bench_recipe.text_of(None, tmp_path).name == "the bundled stories.txt"
    (tmp_path / "tinyshakespeare.txt").write_text("theirs")
    assert bench_recipe.text_of(None, tmp_path) == tmp_path / "tinyshakespeare.txt"


def test_the_rival_of_a_whole_run_has_the_recipe_of_ours():
    pytest.importorskip("torch", reason="the rival is PyTorch's: install the extra 'reference'")
    from benchmarks import torch_recipe
    from tinygpt.optim import cosine_schedule
    from tinygpt.training.settings import TrainingSettings

    settings = TrainingSettings.from_preset("shakespeare-char")
    model = torch_recipe.initial_model()
    ours = GPT(GPTConfig.preset("shakespeare-char"))
    assert sum(p.numel() for p in model.parameters()) == sum(p.data.size for p in ours.parameters())
    for step in (0, 50, 99, 100, 1000, 1999):
        expected = cosine_schedule(
            step, lr=settings.lr, min_lr=settings.min_lr, warmup=settings.warmup, steps=settings.steps
        )
        assert torch_recipe.learning_rate(step, settings.steps) == pytest.approx(expected, rel=0.02)
    assert (settings.batch_size, settings.context) == (torch_recipe.B, torch_recipe.T)
    assert settings.eval_every == torch_recipe.EVAL_EVERY
    stds = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2}
    ours_stds = {name: float(p.data.std()) for name, p in ours.named_parameters() if p.data.ndim == 2}
    assert stds == pytest.approx(ours_stds, rel=0.05)
