"""Seeds: the same everywhere, from 0 on, and another number says what to write."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig
from tinygpt.runtime.seeds import check_seed
from tinygpt.text.corpus import sample_batch
from tinygpt.training.settings import TrainingSettings

CONFIG = GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)
TAKE_A_SEED = {
    "GPT": lambda seed: GPT(CONFIG, seed=seed),
    "generate": lambda seed: list(GPT(CONFIG).generate([1], max_tokens=1, seed=seed)),
    "sample_batch": lambda seed: sample_batch(np.arange(9), 1, 4, seed, 0),
    "gradcheck": lambda seed: tinygpt.gradcheck(lambda x: x, [np.ones(2)], seed=seed),
    "train": lambda seed: TrainingSettings.from_preset("tiny", seed=seed),
}


@pytest.mark.parametrize("who", TAKE_A_SEED)
def test_a_seed_is_any_whole_number_from_0_on(who):
    for seed in (0, 1, 2**31):
        TAKE_A_SEED[who](seed)
    message = f"{who}: seed must be at least 0, got -1; any whole number from 0 on is a seed, such as 1"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TAKE_A_SEED[who](-1)
    with pytest.raises(TypeError, match=f"^{who}: seed must be an integer"):
        TAKE_A_SEED[who](1.5)


def test_numpys_integers_are_seeds():
    np.testing.assert_array_equal(GPT(CONFIG, seed=np.int64(3)).flat_parameters, GPT(CONFIG, seed=3).flat_parameters)
    with pytest.raises(ValueError, match="at least 0, got -3"):
        check_seed("GPT", np.int8(-3))
    with pytest.raises(TypeError, match="must be an integer, got ndarray"):
        check_seed("GPT", np.array([1, 2]))


def test_a_seed_in_a_configuration_file(tmp_path, monkeypatch, capsys):
    from tinygpt.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text("seed = -1\n")
    assert main(["train", "--config", "run.toml"]) == 2
    assert "seed must be at least 0, got -1; any whole number from 0 on is a seed" in capsys.readouterr().err
