"""
Text in, text out: encode the prompts, generate tokens, decode them, up to a stop text.

A token may end within a character, and a stop text may end within a token. So a piece of text is returned when its
characters are complete, and when it can no longer be the beginning of a stop text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tinygpt.generation.generate import Token, generate_batch
from tinygpt.runtime.aliases import aliases
from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.special_tokens import Names
from tinygpt.tokenizer.validation import list_of_texts


@dataclass
class Completion:
    """
    The continuation of one prompt.

    Attributes
    ----------
    prompt, text : str
        The prompt, and the text that follows it.
    tokens : list of Token
        All tokens that were generated, those of a stop text included.
    reason : {"length", "stop", "end of text"}
        Why it ends: the maximum number of tokens, a stop text, or the end-of-text token.
    """

    prompt: str
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    reason: str = "end of text"


@aliases(max_new_tokens="max_tokens")
def complete(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    *,
    stop: str | Sequence[str] = (),
    max_tokens: int = 100,
    allowed_special: Names = frozenset(),
    disallowed_special: Names = "all",
    **options: Any,
) -> list[Completion]:
    """
    Continue several texts in one batch.

    Parameters
    ----------
    model : GPT
    tokenizer : Tokenizer
        The model's.
    prompts : sequence of str or None
        None starts a new text.
    stop : str or sequence of str
        End a continuation before this text, or before the first of these.
    max_tokens : int
        Maximum number of new tokens per prompt.
    allowed_special, disallowed_special
        How the prompts are encoded: see `Tokenizer.encode`.
    **options
        Those of `generate_batch`, such as temperature, top_k, top_p, seed and logprobs. Ids that the model has and the
        tokenizer has not, because the vocabulary was padded, are never sampled.

    Returns
    -------
    list of Completion
        In the order of the prompts.

    Raises
    ------
    TypeError, ValueError
        If a prompt is empty, or an option is impossible.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> [result.reason for result in complete(model, tokenizer, ["Good", "night"], max_tokens=3, seed=0)]
    ['length', 'length']
    """
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Iterable):
        got = type(prompts).__name__
        raise TypeError(f"complete: prompts must be a list of str or None, got {got}; write [prompt]")
    prompts = list(prompts)
    encode = partial(prompt_ids, tokenizer, allowed_special=allowed_special, disallowed_special=disallowed_special)
    ids = [encode(prompt) for prompt in prompts]
    results = [Completion(prompt or "") for prompt in prompts]
    for number, piece in _pieces(model, tokenizer, ids, results, stop, max_tokens, options):
        results[number].text += piece
    return results


@aliases(max_new_tokens="max_tokens")
def stream(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str | None,
    *,
    stop: str | Sequence[str] = (),
    max_tokens: int = 100,
    allowed_special: Names = frozenset(),
    disallowed_special: Names = "all",
    **options: Any,
) -> Iterator[str]:
    """
    Continue one text, and yield it piece by piece.

    Parameters
    ----------
    model, tokenizer, stop, max_tokens, allowed_special, disallowed_special, **options
        As for `complete`.
    prompt : str or None
        None starts a new text.

    Yields
    ------
    str
        The next piece of the continuation.

    Raises
    ------
    TypeError, ValueError
        As `complete` does; raised by the call itself, before the first token is generated.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> len("".join(stream(model, tokenizer, "Good", max_tokens=3, top_k=1)))
    3
    """
    ids = prompt_ids(tokenizer, prompt, allowed_special, disallowed_special)
    pieces = _pieces(model, tokenizer, [ids], [Completion(prompt or "")], stop, max_tokens, options)
    return (piece for _, piece in pieces)


def prompt_ids(
    tokenizer: Tokenizer,
    prompt: str | None,
    allowed_special: Names = frozenset(),
    disallowed_special: Names = "all",
) -> list[int]:
    """The tokens of a prompt; for None, the end-of-text token, or a newline where the tokenizer has no such token."""
    if prompt is not None:
        if not isinstance(prompt, str):
            got = type(prompt).__name__
            raise TypeError(f"generate: a prompt must be a str, or None for a new text, got {got}; decode ids first")
        if not prompt:
            raise ValueError("generate: the prompt must not be empty; leave it out to start a new text")
        return tokenizer.encode(prompt, allowed_special=allowed_special, disallowed_special=disallowed_special)
    return [tokenizer.eot_token] if tokenizer.eot_token is not None else tokenizer.encode("\n")


def known_ids(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray | None:
    """
    The ids of a model that its tokenizer has too. A model may have more: vocabularies are padded to round numbers.

    Parameters
    ----------
    tokenizer : Tokenizer
    vocab_size : int
        The number of ids that the model has.

    Returns
    -------
    array of int, or None
        In ascending order; None if the tokenizer has all of them.

    Examples
    --------
    >>> tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {"<|endoftext|>": 300})
    >>> known_ids(tokenizer, 320)[-2:], known_ids(tokenizer, 256)
    (array([255, 300]), None)
    """
    ids = {id for id in (*tokenizer.vocab, *tokenizer.special_tokens.values()) if id < vocab_size}
    return None if len(ids) == vocab_size else np.array(sorted(ids))


def _pieces(model, tokenizer, prompts, results, stop, max_tokens, options) -> Iterator[tuple[int, str]]:
    stop = [stop] if isinstance(stop, str) else list_of_texts("generate: stop", () if stop is None else stop)
    if any(not text for text in stop):
        raise ValueError("generate: a stop text must not be empty")
    finished: set[int] = set()
    tokens = generate_batch(
        model,
        prompts,
        max_tokens=max_tokens,
        stop_ids=() if tokenizer.eot_token is None else (tokenizer.eot_token,),
        finished=finished,
        **{"allowed": known_ids(tokenizer, model.config.vocab_size), **options},
    )

    def pieces() -> Iterator[tuple[int, str]]:
        decoders = [tokenizer.stream_decoder() for _ in prompts]
        endings = [Ending(stop) for _ in prompts]
        for number, token in tokens:
            results[number].tokens.append(token)
            yield number, endings[number].push(decoders[number].push(token.id))
            if endings[number].reached:
                finished.add(number)
                results[number].reason = "stop"
        for number, (decoder, ending, result) in enumerate(zip(decoders, endings, results, strict=True)):
            if not ending.reached:
                yield number, ending.push(decoder.flush()) + ending.flush()
                result.reason = "length" if len(result.tokens) == max_tokens else "end of text"

    return pieces()


class Ending:
    """
    Passes text on up to the first stop text, and holds back what may be the beginning of one.

    Parameters
    ----------
    stop : sequence of str

    Attributes
    ----------
    reached : bool
        Whether a stop text has come.

    Examples
    --------
    >>> ending = Ending(["The end"])
    >>> ending.push("Good night. Th"), ending.push("e en"), ending.push("d of it")
    ('Good night. ', '', '')
    >>> ending.reached
    True
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.reached = False
        self._held = ""

    def push(self, piece: str) -> str:
        """Add a piece of text; return the part that is final."""
        text = self._held + piece
        found = [start for start in (text.find(stop) for stop in self.stop) if start >= 0]
        if found:
            self.reached, self._held = True, ""
            return text[: min(found)]
        overlap = max((_overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - overlap :]
        return text[: len(text) - overlap]

    def flush(self) -> str:
        """Return the rest, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of the stop text."""
    longest = min(len(stop) - 1, len(text))
    return next(n for n in range(longest, -1, -1) if text.endswith(stop[:n]))
