"""
The tokenizer to use: text to ids and back, special tokens, training, files.

This class holds the parts together: `encoder.py` (ordinary text to ids), `decoder.py`, `special_tokens.py`,
`training.py`, `stream.py`, and two sets of methods, `file_methods.py` and `tiktoken_methods.py`. The algorithm that all
of them rest on is `reference.py`; `kernels/` does the same faster.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from tinygpt.tokenizer.decoder import Decoder
from tinygpt.tokenizer.encoder import Encoder
from tinygpt.tokenizer.file_methods import FileMethods
from tinygpt.tokenizer.reference import without_surrogates
from tinygpt.tokenizer.special_tokens import END_OF_TEXT, Flags, Names, allowed_names, flags_that_matter, split_off
from tinygpt.tokenizer.stream import StreamDecoder
from tinygpt.tokenizer.tiktoken_methods import TiktokenMethods
from tinygpt.tokenizer.training import train
from tinygpt.tokenizer.validation import check_special_tokens, check_vocabulary, merges_in_pairs


class Tokenizer(TiktokenMethods, FileMethods):
    """
    A byte-level BPE tokenizer: any text to integers and back.

    Parameters
    ----------
    vocab : mapping of int to bytes, or sequence of bytes
        The ordinary tokens by id. All 256 single bytes must be among them; ids may have holes.
    merges : sequence of (bytes, bytes)
        Which two tokens become one, the earliest first.
    special_tokens : mapping of str to int
        Their ids, all different from the ordinary ones.
    pattern : str, optional
        How a text is cut into pieces: a regular expression of the package `regex` whose matches cover all of a text.
        None is GPT-2's pattern. Either goes by Unicode 16, as tiktoken and Hugging Face do; see `pattern.py`.
    whole_pieces : bool
        Whether a piece that is a token is that token, whatever the merges would make of it.
    special_flags : mapping of str to Flags, optional
        How special tokens are looked for, where it is not as GPT-2's are; see `special_tokens.py`.

    All are attributes, too; do not change them, since the tokenizer has built its tables from them.

    Raises
    ------
    TypeError, ValueError
        If a token, an id or a merge is not what it must be; names it.

    Examples
    --------
    >>> tokenizer = Tokenizer([bytes([b]) for b in range(256)] + [b"he"], [(b"h", b"e")], {"<|endoftext|>": 257})
    >>> tokenizer.encode("hen")
    [256, 110]
    >>> tokenizer.decode([256, 110])
    'hen'
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes] | Sequence[bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Mapping[str, int],
        pattern: str | None = None,
        whole_pieces: bool = False,
        special_flags: Mapping[str, Flags] | None = None,
    ) -> None:
        self.vocab = dict(vocab) if isinstance(vocab, Mapping) else dict(enumerate(vocab))
        self.merges = merges_in_pairs(merges)
        if not isinstance(special_tokens, Mapping):
            got = type(special_tokens).__name__
            raise TypeError(f"Tokenizer: special_tokens must map str to int, got {got}; write {{'<|endoftext|>': id}}")
        self.special_tokens = dict(special_tokens)
        self.pattern, self.whole_pieces = pattern, whole_pieces
        check_special_tokens(self.special_tokens, self.vocab)
        if unknown := (special_flags or {}).keys() - self.special_tokens.keys():
            raise ValueError(f"Tokenizer: special_flags must be of special tokens, got {min(unknown)!r}, which is none")
        self.special_flags = flags_that_matter(self.special_tokens, special_flags or {})
        self._ids = check_vocabulary(self.vocab, self.merges)
        self._tokens = self.vocab | {id: text.encode("utf-8") for text, id in self.special_tokens.items()}
        self._decoder = Decoder(self._tokens)
        self._encoder = Encoder(self._ids, self.merges, self.n_vocab, pattern, whole_pieces)

    def __repr__(self) -> str:
        return f"Tokenizer(n_vocab={self.n_vocab}, merges={len(self.merges)}, special_tokens={self.special_tokens})"

    def __reduce__(self) -> tuple:
        """Be copied and pickled by what the tokenizer is made of: its tables are built again, its memory is empty."""
        return type(self), (
            self.vocab,
            self.merges,
            self.special_tokens,
            self.pattern,
            self.whole_pieces,
            self.special_flags,
        )

    @classmethod
    def train(
        cls,
        text_or_iterator: str | Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        byte_order: Literal["gpt2", "raw"] = "gpt2",
        progress: bool = True,
        pattern: str | None = None,
    ) -> Tokenizer:
        """
        Learn a vocabulary from text.

        Parameters
        ----------
        text_or_iterator : str or iterable of str
            The corpus. Of an iterable, each item is a document, and none is kept. An empty corpus teaches nothing
            and gives the bytes alone.
        vocab_size : int
            How many tokens to have in all: 256 bytes, the learned ones, the special ones.
        special_tokens : sequence of str
            They get the last ids. Their text in the corpus is left out: it teaches neither them nor their parts.
        byte_order : {"gpt2", "raw"}
            Byte b has id b ("raw"), or the id that GPT-2 gives it, so that merges are exactly those of Hugging Face's
            trainer ("gpt2"). Of equally frequent pairs, the one with the smallest ids is merged first.
        progress : bool
            Whether to show progress bars on stderr.
        pattern : str or None
            As the class has it.

        Returns
        -------
        tokenizer : Tokenizer
            With fewer tokens than asked for, and a warning, if the corpus has no more pairs to merge.

        Raises
        ------
        TypeError, ValueError
            If the corpus is not text, or `vocab_size` leaves no room for the bytes and the special tokens.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("the hen, the hen", vocab_size=260, progress=False)
        >>> tokenizer.merges
        [(b'h', b'e'), (b't', b'he'), (b' ', b'he')]
        >>> tokenizer.special_tokens
        {'<|endoftext|>': 259}
        """
        return cls(*train(text_or_iterator, vocab_size, special_tokens, byte_order, progress, pattern), pattern=pattern)

    @property
    def n_vocab(self) -> int:
        """The number of ids that a model must provide for: the highest id, special tokens included, plus one."""
        return self._decoder.n_vocab

    @property
    def ids(self) -> Collection[int]:
        """All ids that stand for something, special tokens included; there may be holes between them."""
        return self._tokens.keys()

    @property
    def eot_token(self) -> int | None:
        """The id of `<|endoftext|>`, which ends a document; None if the tokenizer has no such token."""
        return self.special_tokens.get(END_OF_TEXT)

    @cached_property
    def fingerprint(self) -> str:
        """Sixty-four hexadecimal digits that differ if any token, id, merge or the pattern differs (SHA-256)."""
        contents: list = [
            [[id, token.hex()] for id, token in sorted(self.vocab.items())],
            [[left.hex(), right.hex()] for left, right in self.merges],
            sorted(self.special_tokens.items()),
        ]
        if self.pattern is not None or self.whole_pieces:
            contents.append([self.pattern, self.whole_pieces])
        if self.special_flags:
            contents.append(sorted(self.special_flags.items()))
        return hashlib.sha256(json.dumps(contents).encode("ascii")).hexdigest()

    def encode(
        self, text: str, *, allowed_special: Names = frozenset(), disallowed_special: Names = "all"
    ) -> list[int]:
        """
        Turn a text into ids. What reads like a special token is an error unless you say what it shall be.

        Parameters
        ----------
        text : str
            Any text, also empty. Surrogate pairs are joined, lone surrogates become U+FFFD.
        allowed_special : "all" or set of str
            Special tokens whose text becomes their id. Where several begin, the longest counts.
        disallowed_special : "all" or set of str
            Special tokens that the text must not hold; "all" means all that are not allowed. Pass ``()`` to have the
            text of the others encoded like any text: right for a corpus, and for what strangers type.

        Returns
        -------
        ids : list of int
            In general ``encode(a) + encode(b) != encode(a + b)``.

        Raises
        ------
        TypeError, ValueError
            If `text` is not a str, or holds a disallowed special token.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.encode("A<|endoftext|>", allowed_special={"<|endoftext|>"})
        [65, 256]
        >>> tokenizer.encode("<|", disallowed_special=())
        [60, 124]
        """
        return self._encoder.encode_to_list(*self._parts(text, allowed_special, disallowed_special))

    def encode_to_numpy(
        self, text: str, *, allowed_special: Names = frozenset(), disallowed_special: Names = "all"
    ) -> np.ndarray:
        """
        Do what `encode` does, into an array of shape (N,): uint16 if every id of the tokenizer fits, else uint32.

        Examples
        --------
        >>> Tokenizer.train("", vocab_size=256, special_tokens=(), progress=False).encode_to_numpy("hen")
        array([71, 68, 77], dtype=uint16)
        """
        ids = self._encoder.encode(*self._parts(text, allowed_special, disallowed_special))
        return np.array(ids, np.uint16 if self.n_vocab <= 1 << 16 else np.uint32)

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn a text into ids, special tokens being text like any other."""
        return self.encode(text, disallowed_special=())

    def _parts(self, text: str, allowed: Names, disallowed: Names) -> tuple[list[str], list[int]]:
        """The ordinary texts, and the ids of the special tokens between them."""
        if not isinstance(text, str):
            raise TypeError(f"Tokenizer.encode: text must be a str, got {type(text).__name__}; decode bytes first")
        text = without_surrogates(text)
        parts = split_off(text, allowed_names(text, self.special_tokens, allowed, disallowed), self.special_flags)
        return parts[::2], [self.special_tokens[name] for name in parts[1::2]]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        r"""
        Turn ids into the exact bytes they stand for, which need not be whole characters.

        Parameters
        ----------
        ids : iterable of int, or integer array of shape (N,)

        Raises
        ------
        ValueError
            If an id is not in the vocabulary.
        TypeError
            If `ids` are not integers.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.decode_bytes([0xC3, 256])
        b'\xc3<|endoftext|>'
        """
        return self._decoder.decode(ids)

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """
        Turn ids into text, as `decode_bytes` turns them into bytes.

        Bytes that are no character become U+FFFD, or what another value of `errors` says, as in `bytes.decode`.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.decode([0xC3, 0xA9]), tokenizer.decode([0xC3])
        ('é', '�')
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder for ids that arrive one by one."""
        return StreamDecoder(self)
