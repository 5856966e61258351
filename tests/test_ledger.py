"""The memory ledger against what a process really needs."""

from __future__ import annotations

import sys

import pytest
from kernel_checks import in_a_process

from tinygpt import GPT, GPTConfig
from tinygpt.gpt2.memory_estimate import number_of_parameters, predict

PROGRAM = """
import pathlib, numpy as np
from tinygpt import GPT, AdamW, GPTConfig
sizes, B, T, recompute = {sizes}, {B}, {T}, {recompute}
for config in (GPTConfig(vocab_size=65, n_positions=64, n_embd=32, n_layer=1, n_head=2), GPTConfig(**sizes)):
    model = GPT(config)
    model.recompute = recompute
    optimizer = AdamW(model.parameters())
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (B, min(T, config.n_positions)))
    for _ in range(3):
        model.loss(tokens, tokens).backward()
        optimizer.step(scale=0.5)
        optimizer.zero_grad()
print(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
# Mostly parameters; mostly activations; mostly logits
CASES = {
    "parameters": ({"vocab_size": 20000, "n_positions": 256, "n_embd": 512, "n_layer": 8, "n_head": 8}, 2, 64),
    "activations": ({"vocab_size": 2048, "n_positions": 256, "n_embd": 256, "n_layer": 6, "n_head": 8}, 16, 256),
    "narrow": (
        {"vocab_size": 2048, "n_positions": 256, "n_embd": 256, "n_layer": 6, "n_head": 8, "n_inner": 100},
        16,
        256,
    ),
    "wide": (
        {"vocab_size": 2048, "n_positions": 256, "n_embd": 256, "n_layer": 6, "n_head": 8, "n_inner": 3001},
        16,
        256,
    ),
    "logits": ({"vocab_size": 50257, "n_positions": 256, "n_embd": 256, "n_layer": 2, "n_head": 4}, 4, 256),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_prediction_is_within_a_tenth_of_the_measured_peak(name, recompute):
    sizes, B, T = CASES[name]
    program = PROGRAM.format(sizes=sizes, B=B, T=T, recompute=recompute)
    in_a_process(program)  # once more than needed: whatever must be compiled is not part of what is measured
    measured = 1024 * int(in_a_process(program))
    predicted = predict(GPTConfig(**sizes), B, T, recompute).total
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("sizes", [case[0] for case in CASES.values()])
def test_the_number_of_parameters_is_the_model_s(sizes):
    small = GPTConfig(**sizes | {"vocab_size": 300, "n_layer": 2})
    assert number_of_parameters(small) == GPT(small).num_parameters()


def test_each_kind_grows_with_what_it_depends_on():
    config = GPTConfig.preset("gpt2")
    small, large = predict(config, 1, 512), predict(config, 2, 512)
    assert small.parameters == small.gradients == small.moments // 2 == 4 * 124_439_808
    assert large.activations == pytest.approx(2 * small.activations)
    assert predict(config, 1, 512, recompute=True).activations < small.activations / 4
    assert str(small).splitlines()[-1].split()[0] == "total"
