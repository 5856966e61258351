"""
From scores to more tokens: choose the next one of each text, let the model read it, ask again.

What a text longer than the context does: positions are learned with their numbers, up to `n_positions`, so a text
cannot be shifted under them. Of a longer prompt the last `n_positions` tokens are read. Whenever the context is full,
the newest half of it is read anew, as a text of its own, and goes on from there: one pass every n_positions / 2 tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import no_grad
from tinygpt.generation.sampling import check_sampling, logprob, sample
from tinygpt.ops.embedding import check_ids


class Token(NamedTuple):
    """
    What was chosen.

    Attributes
    ----------
    id : int
    logprob : float or None
        The natural logarithm of its probability, as the model itself gives it (before temperature, top-k and top-p);
        None unless it was asked for.
    """

    id: int
    logprob: float | None = None


def generate(model: Any, ids: Any, **options: Any) -> Iterator[int]:
    """
    Continue a text, one token at a time.

    Parameters
    ----------
    model : GPT
        See `generate_batch`.
    ids : sequence of int
        The prompt, at least one token.
    **options
        Those of `generate_batch`.

    Yields
    ------
    int

    Raises
    ------
    TypeError, ValueError
        If the prompt is empty or out of range, or an option is. At the call, before the first token is asked for.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> len(list(model.generate([1, 2], max_tokens=5, seed=0)))
    5
    """
    tokens = generate_batch(model, [ids], **options)
    return (token.id for _, token in tokens)


def generate_batch(
    model: Any,
    prompts: Iterable[Any],
    *,
    max_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_ids: Iterable[int] = (),
    logprobs: bool = False,
    cache: bool = True,
    finished: Collection[int] = (),
    allowed: np.ndarray | None = None,
) -> Iterator[tuple[int, Token]]:
    """
    Continue several texts side by side: the weights are read once for all of them.

    Parameters
    ----------
    model : GPT
        With a `decoder` method; or anything with `config.n_positions`, `config.vocab_size`, `hidden(tokens)`,
        `head(hidden)`, and a `training` flag that `train(mode)` sets. Dropout is off while it computes.
    prompts : sequence of sequences of int
        Of any lengths, at least one token each. Of one that is longer than the context the last tokens are read.
    max_tokens : int
        How many to generate at most, for each.
    temperature : float
        0: always the most probable token. 1: the model's own probabilities. Above: flatter.
    top_k : int, optional
        Choose among the k most probable only.
    top_p : float, optional
        Choose among the most probable that together reach probability p, in (0, 1].
    seed : int, optional
        The same seed gives the same texts; without one, every run differs.
    stop_ids : collection of int
        End before any of these (the end-of-text token, say).
    logprobs : bool
        Whether tokens tell the logarithm of their probability.
    cache : bool
        False reads the whole text again for each token: the same, slowly.
    finished : collection of int
        Numbers of prompts that need no more tokens. The caller may add to it on the way.
    allowed : array of int, optional
        Choose among these ids only, in rising order. A model whose vocabulary was padded to a round number has ids that
        its tokenizer does not have: see `completion.known_ids`. What `logprobs` tells stays the model's own.

    Yields
    ------
    int, Token
        The number of the prompt, and its next token.

    Raises
    ------
    TypeError, ValueError
        If a prompt is empty or out of range, or an option is. At the call, before the first token is asked for.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> [number for number, token in generate_batch(model, [[1], [2, 3]], max_tokens=2)]
    [0, 1, 0, 1]
    """
    context = model.config.n_positions
    texts = [_checked(ids, model.config.vocab_size)[-context:] for ids in _listed(prompts)]
    if not isinstance(max_tokens, (int, np.integer)) or isinstance(max_tokens, bool):
        raise TypeError(f"generate: max_tokens must be an integer, got {max_tokens!r}")
    if max_tokens < 0:
        raise ValueError(f"generate: max_tokens must be at least 0, got {max_tokens}")
    check_sampling(temperature, top_k, top_p)
    rng = np.random.default_rng(seed)
    rngs = [rng, *rng.spawn(max(0, len(texts) - 1))]
    stop_ids = _stop_ids(stop_ids)

    def tokens() -> Iterator[tuple[int, Token]]:
        longest = max(map(len, texts), default=0) + max_tokens
        cached = cache and hasattr(model, "decoder")
        decoder = model.decoder(len(texts), longest) if cached else Rereader(model, len(texts))
        going = list(range(len(texts)))
        for count in range(max_tokens):
            going = [i for i in going if i not in finished]
            scores = _read(decoder, texts, going, context, first=count == 0)
            for i in list(going):
                id = sample(scores[i] if allowed is None else scores[i][allowed], rngs[i], temperature, top_k, top_p)
                id = id if allowed is None else int(allowed[id])
                if id in stop_ids:
                    going.remove(i)
                    continue
                texts[i].append(id)
                yield i, Token(id, logprob(scores[i], id) if logprobs else None)

    return tokens()


def _listed(prompts: Any) -> list[Any]:
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Iterable):
        got = type(prompts).__name__
        raise TypeError(f"generate_batch: prompts must be a list of lists of ids, got {got}; write [[id, ...]]")
    return list(prompts)


def _stop_ids(ids: Any) -> frozenset[int]:
    if not isinstance(ids, Iterable):
        raise TypeError(
            f"generate: stop_ids must be a list of ids, got {ids!r}, which is not iterable; write [{ids!r}]"
        )
    found = np.asarray([] if isinstance(ids, (str, bytes, Mapping)) else list(ids))
    if isinstance(ids, (str, bytes, Mapping)) or (found.size and (found.ndim != 1 or found.dtype.kind not in "iu")):
        raise TypeError(f"generate: stop_ids must be a list of ids, which are integers, got {ids!r}")
    return frozenset(found.astype(np.int64).tolist())


def _checked(ids: Any, vocab_size: int) -> list[int]:
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"generate: ids must be integers, got a {type(ids).__name__}; write tokenizer.encode(text)")
    if isinstance(ids, (list, tuple)) and len(ids) > 1 and any(isinstance(id, (list, tuple)) for id in ids):
        raise TypeError(
            "generate: ids must be a list of integers, got lists among them; use generate_batch for several"
        )
    array = check_ids("generate: ids", ids, vocab_size)
    if array.ndim == 2 and len(array) == 1:
        array = array[0]  # a batch of one
    if array.ndim != 1:
        remedy = "write [id]" if array.ndim == 0 else "use generate_batch for several texts"
        raise TypeError(f"generate: ids must be a list of integers (T,), got shape {array.shape}; {remedy}")
    ids = array.tolist()
    if not ids:
        raise ValueError("generate: the prompt must have at least one token, got none")
    return ids


def _read(decoder: Any, texts: list[list[int]], going: list[int], context: int, first: bool) -> dict[int, np.ndarray]:
    """The scores after each text, of which all but the last token has been read before (nothing, the first time)."""
    scores, one_more = {}, []
    for i in going:
        if len(texts[i]) > context:
            texts[i] = texts[i][-max(1, context // 2) :]
        elif not first:
            one_more.append(i)
            continue
        scores[i] = decoder.read(i, texts[i])
    if one_more:
        scores |= zip(one_more, decoder.step(one_more, [texts[i][-1] for i in one_more]), strict=True)
    return scores


class Rereader:
    """What `Decoder` does, for any model and without a cache: everything is read again for each token."""

    def __init__(self, model: Any, sequences: int):
        self.model = model
        self.texts: list[list[int]] = [[] for _ in range(sequences)]

    def read(self, sequence: int, tokens: Any) -> np.ndarray:
        """The scores (V,) after a text that takes the place of the sequence's."""
        self.texts[sequence] = list(tokens)
        return next_logits(self.model, self.texts[sequence])

    def step(self, sequences: Any, tokens: Any) -> np.ndarray:
        """The scores (B, V) after one token more for each of some sequences."""
        for sequence, token in zip(sequences, tokens, strict=True):
            self.texts[sequence].append(token)
        return np.stack([next_logits(self.model, self.texts[sequence]) for sequence in sequences])


def next_logits(model: Any, ids: list[int]) -> np.ndarray:
    """The scores (V,) of the token that follows `ids`, dropout off and nothing recorded."""
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            hidden = model.hidden(np.array([ids]))  # (1, T, C)
            return model.head(hidden[:, -1]).data[0]  # (V,): the head is asked about the last token only
    finally:
        model.train(was_training)
