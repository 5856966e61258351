"""The gradient of a whole GPT-2 against differences: for each parameter, along one random direction."""

from __future__ import annotations

import numpy as np

from tinygpt.autograd import no_grad
from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.model import GPT
from tinygpt.runtime import settings
from tinygpt.study.checks import STEPS, Finding, errors_by_step

CONFIG = GPTConfig(vocab_size=29, n_positions=10, n_embd=12, n_layer=2, n_head=3)


def check_model(config: GPTConfig = CONFIG, seed: int = 5) -> list[Finding]:
    """
    The loss of a small GPT-2 in float64, dropout off: for each parameter, the error of the best difference.

    Examples
    --------
    >>> findings = check_model(GPTConfig(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2))
    >>> findings[0].input, all(finding.passed for finding in findings)
    ('wte.weight', True)
    """
    rng = np.random.default_rng(seed)
    model = GPT(config, dtype=np.float64).eval()
    model.flat_parameters += 0.2 * rng.standard_normal(model.flat_parameters.size)  # none stays 0 or 1
    tokens, targets = rng.integers(0, config.vocab_size, (2, 2, config.n_positions))
    with settings.implementation("numpy"):
        model.loss(tokens, targets).backward()

        def loss() -> float:
            with no_grad():
                return model.loss(tokens, targets).item()

        findings = []
        for name, parameter in model.named_parameters():
            errors = errors_by_step(loss, parameter.data, np.asarray(parameter.grad))
            findings.append(
                Finding("GPT", name, "reference", min(errors), "along a direction", STEPS[int(np.argmin(errors))])
            )
    return findings
