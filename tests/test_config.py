"""Configurations: the presets have the published sizes, impossible ones are refused, config.json goes both ways."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from tinygpt import GPTConfig
from tinygpt.gpt2.config import PRESETS

RATES = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


def rates_of(config: GPTConfig) -> tuple[float, ...]:
    return tuple(getattr(config, name) for name in RATES)


# Radford et al. 2019, table 2 (layers and width); heads as in OpenAI's hparams.json: 64 features each.
@pytest.mark.parametrize(
    ("name", "n_layer", "n_embd"),
    [("gpt2", 12, 768), ("gpt2-medium", 24, 1024), ("gpt2-large", 36, 1280), ("gpt2-xl", 48, 1600)],
)
def test_the_gpt2_presets_have_the_published_sizes(name, n_layer, n_embd):
    config = GPTConfig.preset(name)
    assert (config.n_layer, config.n_embd, config.n_embd // config.n_head) == (n_layer, n_embd, 64)
    assert (config.vocab_size, config.n_positions) == (50257, 1024)
    assert rates_of(config) == (0.1, 0.1, 0.1)
    assert (config.layer_norm_epsilon, config.initializer_range) == (1e-5, 0.02)


def test_our_own_presets_have_the_promised_sizes():
    assert GPTConfig.preset("bedtime") == GPTConfig.preset("gpt2", n_positions=512)
    nano = GPTConfig.preset("shakespeare-char")  # nanoGPT's recipe for a CPU
    assert (nano.n_layer, nano.n_head, nano.n_embd, nano.n_positions, nano.vocab_size) == (4, 4, 128, 64, 256)
    assert rates_of(nano) == (0, 0, 0)
    assert set(PRESETS) == {"tiny", "shakespeare-char", "bedtime", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}


def test_a_preset_takes_changes_and_stays_as_it_was():
    before = copy.deepcopy(PRESETS)
    config = GPTConfig.preset("tiny", n_layer=7, dropout=0.25)
    assert (config.n_layer, config.n_head, rates_of(config)) == (7, 4, (0.25, 0.25, 0.25))
    config = GPTConfig.preset("shakespeare-char", dropout=0.25, attn_pdrop=0.5)  # the particular rate wins
    assert rates_of(config) == (0.25, 0.5, 0.25)
    assert rates_of(GPTConfig.preset("shakespeare-char", resid_pdrop=0.5)) == (0, 0, 0.5)
    assert before == PRESETS


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"GPTConfig\.preset: must be one of tiny, .*gpt2-xl, got 'gpt-2'"):
        GPTConfig.preset("gpt-2")
    with pytest.raises(TypeError, match="n_layers"):
        GPTConfig.preset("tiny", n_layers=2)


@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"])
def test_a_size_must_be_a_positive_integer(name):
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"GPTConfig: {name} must be at least 1, got {value}"):
            GPTConfig(**{name: value})
    for value in (12.0, "12", None, True):
        with pytest.raises(TypeError, match=f"GPTConfig: {name} must be an integer, got {value!r}"):
            GPTConfig(**{name: value})


@pytest.mark.parametrize(("n_embd", "n_head"), [(768, 10), (4, 8), (7, 2)])
def test_the_heads_must_share_the_features_evenly(n_embd, n_head):
    message = f"n_embd must be a multiple of n_head, got n_embd = {n_embd}, n_head = {n_head}; n_embd = (?P<fits>\\d+)"
    with pytest.raises(ValueError, match=message) as raised:
        GPTConfig(n_embd=n_embd, n_head=n_head)
    fits = int(re.search(message, str(raised.value))["fits"])
    assert GPTConfig(n_embd=fits, n_head=n_head).n_embd >= n_embd


@pytest.mark.parametrize("name", RATES)
def test_a_rate_must_leave_something(name):
    for value in (-0.1, 1, 1.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"GPTConfig: {name} must be at least 0 and below 1, got {value}"):
            GPTConfig(**{name: value})
    for value in (0, 0.0, 0.999, np.float32(0.5)):
        assert getattr(GPTConfig(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["layer_norm_epsilon", "initializer_range"])
@pytest.mark.parametrize("value", [0, -1e-5, math.nan, math.inf])
def test_a_scale_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"GPTConfig: {name} must be positive and finite, got {value}"):
        GPTConfig(**{name: value})


@pytest.mark.parametrize("name", [*RATES, "layer_norm_epsilon", "initializer_range"])
@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_a_rate_or_scale_must_be_a_number(name, value):
    with pytest.raises(TypeError, match=re.escape(f"GPTConfig: {name} must be a number, got {value!r}")):
        GPTConfig(**{name: value})


def test_a_configuration_cannot_change_under_a_model():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().n_embd = 5


def test_a_config_json_comes_back_as_it_was_written():
    config = GPTConfig(7, 6, 8, 3, 2, 0.1, 0.2, 0.3, 1e-4, 0.5)
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_a_config_json_lacks_is_gpt2s_and_what_is_not_ours_is_ignored():
    assert GPTConfig.from_dict({}) == GPTConfig() == GPTConfig.preset("gpt2")
    config = GPTConfig.from_dict({"n_layer": 3, "model_type": "gpt2", "n_ctx": 5, "summary_type": "cls_index"})
    assert config == GPTConfig(n_layer=3)


def test_an_mlp_may_have_any_width():
    assert GPTConfig.from_dict({"n_inner": None}).inner == GPTConfig().inner == 4 * 768
    assert GPTConfig.from_dict({"n_inner": 2048}).inner == 2048
    for value in (0, -4):
        with pytest.raises(ValueError, match=f"n_inner must be at least 1, got {value}"):
            GPTConfig.from_dict({"n_inner": value})
    with pytest.raises(TypeError, match=r"n_inner must be an integer, got 20\.0"):
        GPTConfig.from_dict({"n_inner": 20.0})
    with pytest.raises(ValueError, match="n_layer must be at least 1, got 0"):
        GPTConfig.from_dict({"n_layer": 0})


def test_sizes_have_the_names_of_other_models_too_which_count_first_as_in_transformers():
    names = {"hidden_size": 48, "max_position_embeddings": 20, "num_attention_heads": 3, "num_hidden_layers": 5}
    transformers = pytest.importorskip("transformers")
    for given in (names, names | {"n_layer": 9, "n_head": 12}):
        ours, theirs = GPTConfig.from_dict(given), transformers.GPT2Config.from_dict(given)
        for name in ("n_embd", "n_positions", "n_head", "n_layer"):
            assert getattr(ours, name) == getattr(theirs, name)
    with pytest.raises(TypeError, match="GPTConfig: num_hidden_layers must be an integer, got '5'"):
        GPTConfig.from_dict({"num_hidden_layers": "5"})


def test_names_and_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Config().to_dict()
    assert theirs.items() >= GPTConfig().to_dict().items()
    assert GPTConfig.from_dict(theirs) == GPTConfig()


def test_the_package_gives_the_configuration_without_the_engine_and_the_model_with_it():
    code = (
        "import sys; from tinygpt.gpt2 import GPTConfig; GPTConfig(); print('tinygpt.autograd' in sys.modules)\n"
        "import tinygpt, tinygpt.gpt2; from tinygpt.gpt2 import GPT, checkpoint\n"
        "print(GPT is tinygpt.GPT, GPTConfig is tinygpt.GPTConfig, hasattr(tinygpt.gpt2, 'nothing'))"
    )
    told = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert told.split() == ["False", "True", "True", "False"]
