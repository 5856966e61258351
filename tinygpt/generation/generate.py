"""
The loop over tokens: sample the next token of each text from its logits, let the model read it, and repeat.

A text may grow longer than the context. Positions are learned by number, up to `n_positions`, so the text cannot be
shifted under them. Of a longer prompt the model reads the last `n_positions` tokens. Whenever the context is full, it
reads the newest half again, as a text of its own, and continues from there: one more pass every n_positions / 2 tokens.

With `lookup`, a pass may give several tokens of a text: see lookup.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import no_grad
from tinygpt.generation.lookup import PromptLookup, draft
from tinygpt.generation.sampling import check_sampling, logprob, sample
from tinygpt.ops.embedding import OF_ANOTHER_TOKENIZER, check_ids
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.seeds import check_seed


class Token(NamedTuple):
    """
    A token that was generated.

    Attributes
    ----------
    id : int
    logprob : float or None
        Natural logarithm of its probability under the model itself: before temperature, top-k and top-p. None unless
        `logprobs` was set.
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
        If the prompt is empty or has ids that the model does not have, or an option is impossible. Raised by the call
        itself, before the first token is generated.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> len(list(model.generate([1, 2], max_tokens=5, seed=0)))
    5
    """
    tokens = generate_batch(model, [ids], **options)
    return (token.id for _, token in tokens)


@aliases(max_new_tokens="max_tokens")
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
    lookup: bool = False,
) -> Iterator[tuple[int, Token]]:
    """
    Continue several texts in one batch: the weights are read once for all of them.

    Parameters
    ----------
    model : GPT
        Or any model with a `decoder` method, or with `config.n_positions`, `config.vocab_size`, `hidden(tokens)`,
        `head(hidden)`, and a `training` flag that `train(mode)` sets. Dropout is off during generation.
    prompts : sequence of sequences of int
        Of any lengths, at least one token each. Of a prompt longer than the context, the last tokens are read.
    max_tokens : int
        Maximum number of new tokens per prompt; `max_new_tokens` is another name.
    temperature : float
        Divides the logits. 0 always takes the most probable token, 1 samples from the model's own probabilities.
    top_k : int, optional
        Sample from the k most probable tokens only.
    top_p : float, optional
        Sample from the most probable tokens that together reach probability p, in (0, 1].
    seed : int, optional
        The same seed gives the same texts. Without one, every run differs.
    stop_ids : collection of int
        End a text before any of these, such as the end-of-text token.
    logprobs : bool
        Whether each `Token` has its log probability.
    cache : bool
        False reads the whole text again for each token: slow, and the same up to rounding.
    finished : collection of int
        Indices of prompts that need no more tokens. The caller may add to it during generation.
    allowed : array of int, optional
        Sample from these ids only, in ascending order. A model whose vocabulary was padded to a round number has ids
        that its tokenizer does not have: see `completion.known_ids`. `logprobs` are those of the whole vocabulary.
    lookup : bool
        Prompt look-up decoding: guess tokens where the text repeats itself, and verify all guesses in one pass. Faster
        on code and the like, and never another text. Without effect where a pass cannot read several tokens as exactly
        as one: without a cache, by NumPy, in float64, or where a part of the model is the user's own.

    Yields
    ------
    int, Token
        The index of a prompt, and its next token. One token of each prompt in turn; with `lookup`, one or several.

    Raises
    ------
    TypeError, ValueError
        If a prompt is empty or has ids that the model does not have, or an option is impossible. Raised by the call
        itself, before the first token is generated.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> [index for index, token in generate_batch(model, [[1], [2, 3]], max_tokens=2)]
    [0, 1, 0, 1]
    """
    context = model.config.n_positions
    texts = [_checked(ids, model.config.vocab_size)[-context:] for ids in _listed(prompts)]
    if not isinstance(max_tokens, (int, np.integer)) or isinstance(max_tokens, bool):
        raise TypeError(f"generate: max_tokens must be an integer, got {max_tokens!r}; the default is 100")
    if max_tokens < 0:
        raise ValueError(f"generate: max_tokens must be at least 0, got {max_tokens}")
    check_sampling(temperature, top_k, top_p)
    check_seed("generate", seed)
    rng = np.random.default_rng(seed)
    rngs = [rng, *rng.spawn(max(0, len(texts) - 1))]
    stop_ids, options = _stop_ids(stop_ids), (temperature, top_k, top_p)

    def tokens() -> Iterator[tuple[int, Token]]:
        longest = max(map(len, texts), default=0) + max_tokens
        cached = cache and getattr(model, "has_decoder", hasattr(model, "decoder"))
        decoder = model.decoder(len(texts), max(1, longest)) if cached else UncachedDecoder(model, len(texts))
        lookups = [PromptLookup(text) for text in texts] if lookup and cached else []
        made, ended, first = [0] * len(texts), set(), True
        active = list(range(len(texts)))
        while active := [i for i in active if made[i] < max_tokens and i not in ended and i not in finished]:
            rooms = [min(max_tokens - made[i] - 1, context - len(texts[i])) for i in active]
            drafts = _drafts(decoder, lookups, active, rooms) if lookups and not first else {}
            new, more = _divided(texts, active, context, first)
            first = False
            logits = {i: decoder.prefill(i, texts[i])[None] for i in new}  # (1 + K, V) each, after K drafted tokens
            newest, sampled = [texts[i][-1] for i in more], dict[int, int]()
            if drafts:
                rows = decoder.extend(more, [[texts[i][-1], *drafts.get(i, ())] for i in more])
                logits |= zip(more, rows, strict=True)
            elif more and not (logprobs or allowed is not None) and hasattr(decoder, "next_tokens"):
                uniforms = [rngs[i].random() if temperature > 0 else 0.0 for i in more]
                ids = decoder.next_tokens(more, newest, uniforms, *options)
                sampled = dict(zip(more, ids.tolist(), strict=True))
            elif more:
                logits |= zip(more, decoder.step(more, newest)[:, None], strict=True)
            for i in active:
                for row, guess in zip(logits.get(i, (None,)), [*drafts.get(i, ()), None], strict=True):
                    if i in sampled:
                        id = sampled[i]
                    elif allowed is None:
                        id = sample(row, rngs[i], *options)
                    else:
                        id = int(allowed[sample(row[allowed], rngs[i], *options)])
                    if id in stop_ids:
                        ended.add(i)
                        break
                    texts[i].append(id)
                    made[i] += 1
                    if lookups:
                        lookups[i].append(id)
                    yield i, Token(id, logprob(row, id) if logprobs else None)
                    if id != guess or i in finished:
                        break
                if i in drafts:
                    decoder.truncate(i, len(texts[i]) - 1)  # what was not accepted; the newest token is yet to be read

    return tokens()


def _listed(prompts: Any) -> list[Any]:
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Iterable):
        text = isinstance(prompts, (str, bytes))
        got = "text: encode it with tokenizer.encode first" if text else f"{type(prompts).__name__}; write [[id, ...]]"
        raise TypeError(f"generate_batch: prompts must be a list of lists of ids, got {got}")
    return list(prompts)


def _stop_ids(ids: Any) -> frozenset[int]:
    if not isinstance(ids, Iterable):
        raise TypeError(
            f"generate: stop_ids must be a list of ids, got {ids!r}, which is not iterable; write [{ids!r}]"
        )
    try:
        found = np.asarray([] if isinstance(ids, (str, bytes, Mapping)) else list(ids))
    except ValueError:  # lists of different lengths
        found = np.zeros((1, 1), int)
    if isinstance(ids, (str, bytes, Mapping)) or (found.size and (found.ndim != 1 or found.dtype.kind not in "iu")):
        remedy = "; encode text with tokenizer.encode first" if isinstance(ids, str) or found.dtype.kind in "US" else ""
        if found.ndim > 1:
            remedy = "; to stop at a text of several tokens, use `stop` of generation.completion.complete"
        raise TypeError(f"generate: stop_ids must be a list of ids, which are integers, got {ids!r}{remedy}")
    return frozenset(found.astype(np.int64).tolist())


def _checked(ids: Any, vocab_size: int) -> list[int]:
    if isinstance(ids, (str, bytes)):
        raise TypeError("generate: ids must be integers, got text: encode it with tokenizer.encode first")
    if isinstance(ids, (list, tuple)) and len(ids) > 1 and any(isinstance(id, (list, tuple)) for id in ids):
        raise TypeError(
            "generate: ids must be a list of integers, got lists among them; use generate_batch for several"
        )
    array = check_ids("generate: ids", ids, vocab_size, OF_ANOTHER_TOKENIZER)
    if array.ndim == 2 and len(array) == 1:
        array = array[0]  # a batch of one
    if array.ndim != 1:
        remedy = "write [id]" if array.ndim == 0 else "use generate_batch for several texts"
        raise TypeError(f"generate: ids must be a list of integers (T,), got shape {array.shape}; {remedy}")
    ids = array.tolist()
    if not ids:
        raise ValueError("generate: the prompt must have at least one token, got none; begin with tokenizer.eot_token")
    return ids


def _drafts(decoder: Any, lookups: list[PromptLookup], active: list[int], rooms: list[int]) -> dict[int, list[int]]:
    """Tokens to verify after the newest one, for the texts that have some; none where they gain nothing."""
    if not getattr(decoder, "extends_at_once", False):
        return {}
    drafts = zip(active, draft([lookups[i] for i in active], rooms), strict=True)
    return {i: tokens for i, tokens in drafts if tokens}


def _divided(texts: list[list[int]], active: list[int], context: int, first: bool) -> tuple[list[int], list[int]]:
    """The active texts that are read from their beginning, and those of which all but the last token was read."""
    new, more = [], []
    for i in active:
        if len(texts[i]) > context:
            texts[i] = texts[i][-max(1, context // 2) :]
        elif not first:
            more.append(i)
            continue
        new.append(i)
    return new, more


class UncachedDecoder:
    """
    The methods of a `Decoder`, for any model and without a cache: each token reads the whole text again.

    Parameters
    ----------
    model : GPT
        Or another model, as in `generate_batch`.
    sequences : int
        How many texts are read side by side.
    """

    def __init__(self, model: Any, sequences: int):
        self.model = model
        self.texts: list[list[int]] = [[] for _ in range(sequences)]

    def prefill(self, sequence: int, tokens: Any) -> np.ndarray:
        """Logits (V,) of the token after a text, which replaces the tokens of the sequence."""
        self.texts[sequence] = list(tokens)
        return next_logits(self.model, self.texts[sequence])

    def step(self, sequences: Any, tokens: Any) -> np.ndarray:
        """Logits (B, V) after one more token for each of some sequences."""
        for sequence, token in zip(sequences, tokens, strict=True):
            self.texts[sequence].append(token)
        return np.stack([next_logits(self.model, self.texts[sequence]) for sequence in sequences])

    def extend(self, sequences: Any, tokens: Any) -> list[np.ndarray]:
        """Logits (T, V) after each of several more tokens, for each of some sequences."""
        return [np.concatenate([self.step([sequence], [token]) for token in own])
                for sequence, own in zip(sequences, tokens, strict=True)]  # fmt: skip

    def truncate(self, sequence: int, length: int) -> None:
        """Forget all but the first tokens of a sequence."""
        del self.texts[sequence][length:]


def next_logits(model: Any, ids: list[int]) -> np.ndarray:
    """Logits (V,) of the token that follows `ids`; dropout is off, and nothing is recorded."""
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            hidden = model.hidden(np.array([ids]))  # (1, T, C)
            return model.head(hidden[:, -1]).data[0]  # (V,): the head computes the last token's logits only
    finally:
        model.train(was_training)
