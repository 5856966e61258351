"""
The methods of `Tokenizer` for many texts, for lines and for single tokens.

Their names, arguments and rules are those of tiktoken 0.14, so that its users feel at home; `encode_iterable` is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from operator import index
from typing import TypeVar

import numpy as np

from tinygpt.runtime.settings import max_threads
from tinygpt.tokenizer.special_tokens import Names

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class TiktokenMethods:
    """Batches, lines and single tokens: a part of `Tokenizer`, which has the attributes named here."""

    special_tokens: dict[str, int]
    encode: Callable[..., list[int]]
    encode_ordinary: Callable[[str], list[int]]
    decode: Callable[..., str]
    decode_bytes: Callable[..., bytes]
    _tokens: dict[int, bytes]
    _ids: dict[bytes, int]

    def encode_batch(
        self,
        text: Sequence[str],
        *,
        num_threads: int = 8,
        allowed_special: Names = frozenset(),
        disallowed_special: Names = "all",
    ) -> list[list[int]]:
        """
        Do what `encode` does with each text of a sequence, in several threads.

        Examples
        --------
        >>> from tinygpt import Tokenizer
        >>> Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False).encode_batch(["hen", "", "egg"])
        [[104, 101, 110], [], [101, 103, 103]]
        """
        encode = partial(self.encode, allowed_special=allowed_special, disallowed_special=disallowed_special)
        return _each("encode_batch", encode, _texts("encode_batch", text), num_threads)

    def encode_ordinary_batch(self, text: Sequence[str], *, num_threads: int = 8) -> list[list[int]]:
        """Do what `encode_ordinary` does with each text of a sequence, in several threads."""
        return _each("encode_ordinary_batch", self.encode_ordinary, _texts("encode_ordinary_batch", text), num_threads)

    def decode_batch(
        self, batch: Sequence[Sequence[int]] | np.ndarray, *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """
        Do what `decode` does with each sequence of ids, or each row of an array (N, T), in several threads.

        Examples
        --------
        >>> from tinygpt import Tokenizer
        >>> Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False).decode_batch([[104, 105], []])
        ['hi', '']
        """
        return _each("decode_batch", partial(self.decode, errors=errors), _rows("decode_batch", batch), num_threads)

    def decode_bytes_batch(self, batch: Sequence[Sequence[int]] | np.ndarray, *, num_threads: int = 8) -> list[bytes]:
        """Do what `decode_bytes` does with each sequence of ids, or each row of an array (N, T), in several threads."""
        return _each("decode_bytes_batch", self.decode_bytes, _rows("decode_bytes_batch", batch), num_threads)

    def encode_iterable(
        self, lines: Iterable[str], *, allowed_special: Names = frozenset(), disallowed_special: Names = "all"
    ) -> Iterator[int]:
        r"""
        Give out the ids of a text that comes in parts, such as the lines of an open file, keeping one part at a time.

        Each part is encoded by itself: the ids are those of ``encode(part)`` one after the other. They decode to the
        joined text, but can differ from its ids where two parts meet: two line ends in a row can be one token there,
        and are two here. The same parts always give the same ids. A special token is found only within a part.

        Parameters
        ----------
        lines : iterable of str
        allowed_special, disallowed_special
            As `encode` takes them.

        Yields
        ------
        id : int

        Raises
        ------
        TypeError
            If `lines` is a str itself, or a part is none.
        ValueError
            If a part holds a disallowed special token.

        Examples
        --------
        >>> from tinygpt import Tokenizer
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> list(tokenizer.encode_iterable(["hi\n", "ho\n"]))
        [104, 105, 10, 104, 111, 10]
        """
        if isinstance(lines, (str, bytes)) or not isinstance(lines, Iterable):
            raise TypeError(
                f"Tokenizer.encode_iterable: lines must be an iterable of str, got {type(lines).__name__}; pass an "
                "open text file, or a whole text to encode"
            )
        encode = partial(self.encode, allowed_special=allowed_special, disallowed_special=disallowed_special)
        return (id for line in lines for id in encode(line))

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """
        Return the id of one token, ordinary or special, by its text or its bytes.

        Raises
        ------
        KeyError
            If there is no such token.

        Examples
        --------
        >>> from tinygpt import Tokenizer
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.encode_single_token("A"), tokenizer.encode_single_token("<|endoftext|>")
        (65, 256)
        """
        if not isinstance(text_or_bytes, (str, bytes)):
            got = type(text_or_bytes).__name__
            raise TypeError(f"Tokenizer.encode_single_token: needs a str or bytes, got {got}")
        data = text_or_bytes
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")  # which makes bytes of a lone surrogate that no token has
        if data in self._ids:
            return self._ids[data]
        for text, id in self.special_tokens.items():
            if text.encode("utf-8") == data:
                return id
        raise KeyError(f"Tokenizer.encode_single_token: {text_or_bytes!r} is not one token; encode gives its tokens")

    def decode_single_token_bytes(self, token: int) -> bytes:
        """
        Return the bytes of one token, ordinary or special, by its id.

        Raises
        ------
        KeyError
            If no token has that id.

        Examples
        --------
        >>> from tinygpt import Tokenizer
        >>> Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False).decode_single_token_bytes(0xC3)
        b'\\xc3'
        """
        try:
            return self._tokens[index(token)]
        except KeyError:
            raise KeyError(f"Tokenizer.decode_single_token_bytes: no token has the id {token}") from None

    def token_byte_values(self) -> list[bytes]:
        """Return the bytes of all ordinary tokens, sorted by them."""
        return sorted(self._ids)


def _texts(who: str, texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise TypeError(f"Tokenizer.{who}: needs a sequence of str, got {type(texts).__name__}; write [text]")
    return texts


def _rows(who: str, batch: Iterable[_Item]) -> Iterable[_Item]:
    """The sequences of ids of a batch; one sequence is no batch."""
    if isinstance(batch, np.ndarray):
        flat = batch.ndim == 1 and batch.size > 0 and batch.dtype != object
    else:
        if isinstance(batch, (str, bytes, Mapping)) or not isinstance(batch, Iterable):
            got = type(batch).__name__
            raise TypeError(f"Tokenizer.{who}: needs a sequence of sequences of ids, got {got}; write [ids]")
        batch = list(batch)
        flat = any(isinstance(row, (int, np.integer)) for row in batch)
    if flat:
        raise TypeError(f"Tokenizer.{who}: needs a sequence of sequences of ids, got a flat one; write [ids]")
    return batch


def _each(who: str, function: Callable[[_Item], _Result], items: Iterable[_Item], num_threads: int) -> list[_Result]:
    """Apply a function to all items, in order; the first error is raised, and what was not begun is left."""
    if num_threads < 1:
        raise ValueError(f"Tokenizer.{who}: num_threads must be at least 1, got {num_threads}")
    if num_threads > max_threads():
        raise ValueError(f"Tokenizer.{who}: num_threads must be at most {max_threads()}, got {num_threads}")
    settings = copy_context()  # the implementation that the caller has chosen holds in the threads too
    with ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(lambda item: settings.copy().run(function, item), items))
