"""
Does my model see the future? What every language model must be true of, checked by changing tokens and by gradients.

    no logit depends on a later token            token s of a row is replaced; logits before s must stay as they are
    no loss has a gradient by a later input      d loss_t / d input_s = 0 for s > t, by backward
    rows of a batch do not depend on each other  row 1 is replaced; the logits of row 0 must stay
    in eval, dropout is off                      the same batch twice gives the same logits
    the head is the table of embeddings          a row of it that no token reads is changed; its logit must change
    every parameter has a gradient               after backward of the loss of a batch

A model that sees the future has a low loss, in training and in validation, and generates nonsense: no loss tells.
The first claim also finds what gradients cannot, such as a statistic of the whole row behind a comparison. The second
finds what is cut off before the logits but trained through.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor, no_grad
from tinygpt.functional import cross_entropy
from tinygpt.nn import Embedding, Module

POSITIONS = 12  # of a row that are checked, at most
_ROUNDING = 1e-5  # of the largest logit, or gradient, that is not counted as a dependence


class Claim(NamedTuple):
    """
    What must be true of a model.

    Attributes
    ----------
    claim : str
    holds : bool or None
        None where it does not apply, as that of the head in a model that has another one.
    evidence : str
        What was seen.
    """

    claim: str
    holds: bool | None
    evidence: str


def check_causality(
    model: Module, vocab_size: int | None = None, context: int | None = None, seed: int = 0
) -> list[Claim]:
    """
    Check what must be true of a language model.

    Parameters
    ----------
    model : Module
        From ids (B, T) to logits (B, T, V). It is checked in eval, and left as it was, but for gradients.
    vocab_size, context : int, optional
        How many ids there are, and tokens in a row; by default those of `model.config`, or of its first `Embedding`,
        and at most 12 tokens.
    seed : int
        Of the tokens.

    Returns
    -------
    list of Claim

    Raises
    ------
    TypeError, ValueError
        If it is no such model.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> claims = check_causality(GPT(GPTConfig(vocab_size=29, n_positions=8, n_embd=8, n_layer=2, n_head=2)))
    >>> all(claim.holds for claim in claims)
    True
    """
    if not isinstance(model, Module):
        raise TypeError(f"check_causality: needs a tinygpt.nn.Module, got {type(model).__name__}")
    table = next((part for part in model.modules() if isinstance(part, Embedding)), None)
    config = getattr(model, "config", None)
    vocab_size = vocab_size or getattr(config, "vocab_size", None) or (0 if table is None else len(table.weight.data))
    if vocab_size < 2:
        raise ValueError("check_causality: vocab_size must be given, at least 2, of a model without an Embedding")
    context = min(context or POSITIONS, getattr(config, "n_positions", context or POSITIONS))
    if context < 2:
        raise ValueError(f"check_causality: context must be at least 2, got {context}")
    tokens = np.random.default_rng(seed).integers(0, vocab_size, (2, context))
    training = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        logits = _logits(model, tokens)
        if logits.shape != (2, context, vocab_size):
            expected = (2, context, vocab_size)
            raise ValueError(f"check_causality: the model must give logits {expected}, got {logits.shape}")
        if not np.isfinite(logits).all():
            raise ValueError("check_causality: the logits must be finite numbers")
        return [
            _sees_no_later_token(model, tokens, logits, vocab_size),
            _no_gradient_from_later(model, tokens, table),
            _rows_are_apart(model, tokens, logits, vocab_size),
            _is_the_same_twice(model, tokens, logits),
            _head_is_tied(model, tokens, logits, table),
            _all_have_gradients(model, tokens),
        ]
    finally:
        for part, was in training:
            part.training = was


def _logits(model: Module, tokens: np.ndarray) -> np.ndarray:
    with no_grad():
        return np.array(model(tokens).data)


def _change(before: np.ndarray, after: np.ndarray, scale: np.ndarray) -> float:
    """The largest difference, as a share of the largest logit."""
    gap = np.abs(after.astype(np.float64) - before)
    return float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0) / max(float(np.max(np.abs(scale))), 1e-30))


def _sees_no_later_token(model: Module, tokens: np.ndarray, logits: np.ndarray, vocab_size: int) -> Claim:
    claim = "no logit depends on a later token"
    for s in range(1, tokens.shape[1]):
        changed = tokens.copy()
        changed[0, s] = (changed[0, s] + 1) % vocab_size
        after = _logits(model, changed)
        for t in range(s):
            if (change := _change(logits[0, t], after[0, t], logits)) > _ROUNDING:
                said = f"logits at token {t} change by {change:.2g} of the largest when token {s} does"
                return Claim(claim, False, said)
    return Claim(claim, True, f"{tokens.shape[1]} tokens, each replaced")


def _no_gradient_from_later(model: Module, tokens: np.ndarray, table: Embedding | None) -> Claim:
    claim = "no loss has a gradient by a later input"
    if table is None:
        return Claim(claim, None, "the model has no Embedding whose output could be watched")
    seen: list[Tensor] = []

    def as_input(module: Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        seen.append(Tensor(output.data.copy(), requires_grad=True))
        return seen[-1]

    handle = table.register_forward_hook(as_input)
    try:
        for t in range(tokens.shape[1] - 1):
            seen.clear()
            logits = model(tokens)
            cross_entropy(logits[:, t], tokens[:, t + 1]).backward()
            gradient = seen[0].grad
            if gradient is None or gradient.shape[:2] != tokens.shape:
                return Claim(claim, None, "the first Embedding is not that of the tokens")
            of_each = np.abs(gradient).max(axis=(0, 2))
            later = of_each[t + 1 :]
            if later.max(initial=0) > _ROUNDING * of_each.max():
                s = t + 1 + int(later.argmax())
                share = later.max() / of_each.max()
                return Claim(claim, False, f"the loss at token {t} has one by token {s}, {share:.2g} of the largest")
    finally:
        handle.remove()
        model.zero_grad()
    return Claim(claim, True, f"{tokens.shape[1] - 1} losses, one at a time")


def _rows_are_apart(model: Module, tokens: np.ndarray, logits: np.ndarray, vocab_size: int) -> Claim:
    claim, changed = "rows of a batch do not depend on each other", tokens.copy()
    changed[1] = (changed[1] + 1) % vocab_size
    change = _change(logits[0], _logits(model, changed)[0], logits)
    said = "as they were" if change <= _ROUNDING else f"changed by {change:.2g} of the largest"
    return Claim(claim, change <= _ROUNDING, f"row 1 was replaced; the logits of row 0 are {said}")


def _is_the_same_twice(model: Module, tokens: np.ndarray, logits: np.ndarray) -> Claim:
    change = _change(logits, _logits(model, tokens), logits)
    said = "equal" if change <= _ROUNDING else f"apart by {change:.2g} of the largest"
    return Claim("in eval, dropout is off", change <= _ROUNDING, f"the logits of two passes are {said}")


def _head_is_tied(model: Module, tokens: np.ndarray, logits: np.ndarray, table: Embedding | None) -> Claim:
    """Where the sizes are those of a tied head: one matrix of V rows in the whole model."""
    claim = "the head is the table of embeddings"
    free = np.setdiff1d(np.arange(logits.shape[-1]), tokens)
    if table is None or len(table.weight.data) != logits.shape[-1] or not free.size:
        return Claim(claim, None, "there is no table of as many rows as logits, or no row that no token reads")
    row = table.weight.data[free[0]]
    before = row.copy()
    try:
        row += np.random.default_rng(0).standard_normal(row.shape)  # not a constant, which a layer norm takes out
        after = _logits(model, tokens)
    finally:
        row[...] = before
    if _change(logits[..., free[0]], after[..., free[0]], logits) > _ROUNDING:
        return Claim(claim, True, f"row {free[0]}, which no token reads, changes the logit of {free[0]}")
    return Claim(claim, False, f"row {free[0]}, which no token reads, changes no logit: the head has other weights")


def _all_have_gradients(model: Module, tokens: np.ndarray) -> Claim:
    claim = "every parameter has a gradient"
    model.zero_grad()
    logits = model(tokens[:, :-1])
    cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1)).backward()
    parameters = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    without = [name for name, each in parameters if each.grad is None or not np.any(each.grad)]
    model.zero_grad()
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        return Claim(claim, False, f"{without[0]}{more} has none, or only zeros")
    return Claim(claim, True, f"{len(parameters)} parameters")


def report(claims: list[Claim]) -> str:
    """
    The claims for people, one a line.

    Examples
    --------
    >>> print(report([Claim("rows are apart", True, "as they were"), Claim("tied", None, "no table")]))
    holds           rows are apart  (as they were)
    does not apply  tied            (no table)
    """
    words = {True: "holds", False: "FAILS", None: "does not apply"}
    width = max(len(each.claim) for each in claims)
    return "\n".join(f"{words[each.holds]:14}  {each.claim:{width}}  ({each.evidence})" for each in claims)
