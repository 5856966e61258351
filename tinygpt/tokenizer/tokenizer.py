"""
The tokenizer to use: text to ids and back, special tokens, training, files.

The class checks its arguments and holds the parts together; each part is a file of its own:

    encode            `special_tokens.py` splits the special tokens off, `encoder.py` turns the rest into ids;
                      `unstable.py` says which of them may change when the text goes on
    decode            `decoder.py`
    train             `training.py`
    load and save     `files/`, one format per file

The algorithm that all of them rest on is `reference.py`; `kernels/` does the same faster. The names, arguments and
rules of the methods are those of tiktoken 0.14; `encode_iterable`, `stream_decoder` and
those that read and write files are ours.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property, partial
from operator import index
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

import numpy as np

from tinygpt.files import locate
from tinygpt.runtime.settings import max_threads
from tinygpt.tokenizer import other_names
from tinygpt.tokenizer.decoder import Decoder, checked_ids
from tinygpt.tokenizer.encoder import Encoder
from tinygpt.tokenizer.files import folder, tiktoken, tokenizer_json
from tinygpt.tokenizer.files.gpt2 import Contents
from tinygpt.tokenizer.reference import without_surrogates
from tinygpt.tokenizer.special_tokens import END_OF_TEXT, Flags, Names, allowed_names, flags_that_matter, split_off
from tinygpt.tokenizer.training import train
from tinygpt.tokenizer.unstable import encode_with_unstable
from tinygpt.tokenizer.validation import check_special_tokens, check_vocabulary, merges_in_pairs

if TYPE_CHECKING:
    from typing_extensions import Self

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Tokenizer:
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
        If a token, an id or a merge is invalid: names it.

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

    if not TYPE_CHECKING:  # to a checker, a name that is not there is an error

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(other_names.message(name), name=name, obj=self)

    def __reduce__(self) -> tuple:
        """Copy and pickle the arguments of the constructor: tables are built again, caches start empty."""
        return type(self), tuple(self._contents())

    def _contents(self) -> Contents:
        """The arguments of the constructor, which files hold."""
        return Contents(
            self.vocab, self.merges, self.special_tokens, self.pattern, self.whole_pieces, self.special_flags
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
            The corpus. Each item of an iterable is a document; none is kept. An empty corpus gives a vocabulary of the
            bytes alone.
        vocab_size : int
            How many tokens to have in all: 256 bytes, the learned ones, the special ones.
        special_tokens : sequence of str
            They get the last ids. Their text in the corpus is left out of the counts.
        byte_order : {"gpt2", "raw"}
            Byte b has id b ("raw"), or the id that GPT-2 gives it ("gpt2"), so that merges are exactly those of Hugging
            Face's trainer. Of equally frequent pairs, the one with the smallest ids is merged first.
        progress : bool
            Whether to show progress bars on stderr.
        pattern : str or None
            As the class has it.

        Returns
        -------
        tokenizer : Tokenizer
            With fewer tokens than `vocab_size`, and a warning, if the corpus has no more pairs to merge.

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
    def max_token_value(self) -> int:
        """The highest id, those of special tokens included."""
        return self.n_vocab - 1

    @property
    def ids(self) -> Collection[int]:
        """All ids of tokens, special tokens included; there may be gaps between them."""
        return self._tokens.keys()

    @property
    def eot_token(self) -> int | None:
        """The id of `<|endoftext|>`, which ends a document; None if the tokenizer has no such token."""
        return self.special_tokens.get(END_OF_TEXT)

    @property
    def special_tokens_set(self) -> set[str]:
        """The texts of all special tokens."""
        return set(self.special_tokens)

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
        Turn a text into ids. What reads like a special token is an error unless an argument says how to encode it.

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
        Do what `encode` does, into an array of shape (N,), dtype uint32.

        Examples
        --------
        >>> Tokenizer.train("", vocab_size=256, special_tokens=(), progress=False).encode_to_numpy("hen")
        array([71, 68, 77], dtype=uint32)
        """
        return np.array(self._encoder.encode(*self._parts(text, allowed_special, disallowed_special)), np.uint32)

    def encode_with_unstable(
        self, text: str, *, allowed_special: Names = frozenset(), disallowed_special: Names = "all"
    ) -> tuple[list[int], list[list[int]]]:
        """
        Encode a text that is not at its end: the tokens that are certain, and those that the rest may become.

        Parameters
        ----------
        text, allowed_special, disallowed_special
            As `encode` takes them.

        Returns
        -------
        stable : list of int
            Their text is a beginning of `text`, which need not be all of it.
        completions : list of list of int
            In ascending order. Each, after `stable`, spells all of `text` or more, and needs its last token for that.
            None if the text is empty or ends in a special token. `unstable.py` says which there are.

        Raises
        ------
        TypeError, ValueError
            As `encode` does.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("hen, then hens", vocab_size=260, byte_order="raw", progress=False)
        >>> tokenizer.encode_with_unstable("the he")
        ([116, 104, 101], [[32, 104, 101], [32, 257]])
        >>> tokenizer.decode_tokens_bytes([32, 257])
        [b' ', b'hen']
        """
        parts, names = self._parts(text, allowed_special, disallowed_special)
        return encode_with_unstable(parts, names, self._encoder, self.vocab, self._sorted_tokens)

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn a text into ids; the text of special tokens is encoded like any other."""
        return self.encode(text, disallowed_special=())

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
        >>> Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False).encode_batch(["hen", "", "egg"])
        [[104, 101, 110], [], [101, 103, 103]]
        """
        encode = partial(self.encode, allowed_special=allowed_special, disallowed_special=disallowed_special)
        return _each("encode_batch", encode, _texts("encode_batch", text), num_threads)

    def encode_ordinary_batch(self, text: Sequence[str], *, num_threads: int = 8) -> list[list[int]]:
        """Apply `encode_ordinary` to each text of a sequence, in several threads."""
        return _each("encode_ordinary_batch", self.encode_ordinary, _texts("encode_ordinary_batch", text), num_threads)

    def encode_iterable(
        self, lines: Iterable[str], *, allowed_special: Names = frozenset(), disallowed_special: Names = "all"
    ) -> Iterator[int]:
        r"""
        Encode a text that comes in parts, such as the lines of an open file, with one part at a time in memory.

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

    def _parts(self, text: str, allowed: Names, disallowed: Names) -> tuple[list[str], list[int]]:
        """The ordinary texts, and the ids of the special tokens between them."""
        if not isinstance(text, str):
            raise TypeError(f"Tokenizer.encode: text must be a str, got {type(text).__name__}; {_remedy(text)}")
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

        Bytes that are not UTF-8 become U+FFFD; other values of `errors` are those of `bytes.decode`.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.decode([0xC3, 0xA9]), tokenizer.decode([0xC3])
        ('é', '�')
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_tokens_bytes(self, tokens: Iterable[int]) -> list[bytes]:
        """
        Return the bytes of each token, ordinary or special, by its id.

        Raises
        ------
        KeyError, TypeError, ValueError
            If no token has an id, or `tokens` is not one sequence of integers.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.decode_tokens_bytes([104, 0xC3, 256])
        [b'h', b'\\xc3', b'<|endoftext|>']
        """
        return self._bytes_of("decode_tokens_bytes", tokens)

    def decode_with_offsets(self, tokens: Iterable[int]) -> tuple[str, list[int]]:
        """
        Turn ids into text, and say where in it each token begins.

        Parameters
        ----------
        tokens : iterable of int, or integer array of shape (N,)

        Returns
        -------
        text : str
        offsets : list of int
            The index of each token's first character in the text. A token that begins inside a character has the
            index of that character.

        Raises
        ------
        UnicodeDecodeError
            If the bytes are not UTF-8, such as those of a part of a character.
        KeyError, TypeError, ValueError
            If no token has an id, or `tokens` is not one sequence of integers.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.decode_with_offsets([0xC3, 0xA9, 104, 256])
        ('éh<|endoftext|>', [0, 0, 1, 2])
        """
        offsets, characters = [], 0  # characters that began in the tokens before
        parts = self._bytes_of("decode_with_offsets", tokens)
        for part in parts:
            inside = _is_continuation(part[0])
            offsets.append(max(0, characters - inside))
            characters += sum(not _is_continuation(byte) for byte in part)
        return b"".join(parts).decode("utf-8"), offsets

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder for ids that arrive one by one."""
        return StreamDecoder(self)

    def decode_batch(
        self, batch: Sequence[Sequence[int]] | np.ndarray, *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """
        Do what `decode` does with each sequence of ids, or each row of an array (N, T), in several threads.

        Examples
        --------
        >>> Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False).decode_batch([[104, 105], []])
        ['hi', '']
        """
        return _each("decode_batch", partial(self.decode, errors=errors), _rows("decode_batch", batch), num_threads)

    def decode_bytes_batch(self, batch: Sequence[Sequence[int]] | np.ndarray, *, num_threads: int = 8) -> list[bytes]:
        """Apply `decode_bytes` to each sequence of ids, or each row of an array (N, T), in several threads."""
        return _each("decode_bytes_batch", self.decode_bytes, _rows("decode_bytes_batch", batch), num_threads)

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """
        Return the id of one token, ordinary or special, by its text or its bytes.

        Raises
        ------
        KeyError
            If there is no such token.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False)
        >>> tokenizer.encode_single_token("A"), tokenizer.encode_single_token("<|endoftext|>")
        (65, 256)
        """
        if not isinstance(text_or_bytes, (str, bytes)):
            got = type(text_or_bytes).__name__
            raise TypeError(
                f"Tokenizer.encode_single_token: needs a str or bytes, got {got}; decode_single_token_bytes takes an id"
            )
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
        >>> Tokenizer.train("", vocab_size=257, byte_order="raw", progress=False).decode_single_token_bytes(0xC3)
        b'\\xc3'
        """
        return self._token("decode_single_token_bytes", token)

    def _bytes_of(self, who: str, tokens: Iterable[int]) -> list[bytes]:
        """The bytes of each token, for a method that its errors name."""
        return [self._token(who, token) for token in checked_ids(who, tokens)]

    def _token(self, who: str, token: int) -> bytes:
        try:
            return self._tokens[_id(who, token)]
        except KeyError:
            raise KeyError(
                f"Tokenizer.{who}: no token has the id {token} (n_vocab = {self.n_vocab}); use the tokenizer that made "
                "it"
            ) from None

    def is_special_token(self, token: int) -> bool:
        """
        Say whether an id is that of a special token; False if no token has it.

        Examples
        --------
        >>> tokenizer = Tokenizer.train("", vocab_size=257, progress=False)
        >>> tokenizer.is_special_token(256), tokenizer.is_special_token(65)
        (True, False)
        """
        return _id("is_special_token", token) in self.special_tokens.values()

    def token_byte_values(self) -> list[bytes]:
        """Return the bytes of all ordinary tokens, sorted by them."""
        return [token for token, _ in self._sorted_tokens]

    @cached_property
    def _sorted_tokens(self) -> list[tuple[bytes, int]]:
        return sorted(self._ids.items())

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """
        Write `vocab.json`, `merges.txt` and `tokenizer_config.json`, as Hugging Face's GPT-2 classes read them.

        The first two have no place for another split pattern than GPT-2's, nor for `whole_pieces`: such a tokenizer
        gets a `tokenizer.json` instead. The folder is created if it does not exist. Files with these names are
        replaced, and those of the other form are removed, so that they are not read. Of two processes that save there
        at once, the second waits.

        Raises
        ------
        ValueError
            If a special token reads like an ordinary one in the file, or the pattern cannot be written.
        """
        folder.save(directory, self._contents())

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """
        Read the tokenizer of a run, of a checkpoint, of a folder with its files, or of a name.

        The files are `vocab.json` and `merges.txt`, OpenAI's `encoder.json` and `vocab.bpe`, or `tokenizer.json`; where
        the last is beside one of the others, it must say the same. Special are the tokens that these files and
        `tokenizer_config.json`, `added_tokens.json` and `special_tokens_map.json` name. In the first two forms, where
        nothing lists all of them, so are the entries that are not bytes and that no merge makes.

        Parameters
        ----------
        directory : path or str
            A run stands for its best checkpoint. Where there is no such folder, ``"gpt2"`` is the tokenizer that
            ``tinygpt tokenizer fetch gpt2`` has put in the user's cache, and other names are those of the Hugging Face
            hub; see `files/locate.py`.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is none of that name, or if a file is missing, malformed, cut off, of another vocabulary or of
            another kind: names the file.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     Tokenizer.train("the hen, the hen", vocab_size=260, progress=False).save_pretrained(directory)
        ...     Tokenizer.from_pretrained(directory).encode("then")
        [257, 77]
        """
        return cls(*locate.read(directory, folder.load, "tokenizer"))

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str]) -> Self:
        """
        Read a `tokenizer.json` that holds a byte-level BPE: that of GPT-2, of Llama 3, or one that we wrote.

        Its added tokens become special tokens. `encode` gives what Hugging Face's does without its post-processor, that
        is with ``add_special_tokens=False``.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing or damaged, or needs something unsupported: names it.

        Examples
        --------
        >>> import tempfile
        >>> tokenizer = Tokenizer.train("the hen, the hen", vocab_size=260, progress=False)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     tokenizer.to_tokenizer_json(directory + "/tokenizer.json")
        ...     Tokenizer.from_tokenizer_json(directory + "/tokenizer.json").fingerprint == tokenizer.fingerprint
        True
        """
        return cls(*tokenizer_json.load(path))

    def to_tokenizer_json(self, path: str | os.PathLike[str]) -> None:
        """
        Write everything into one file, as Hugging Face's tokenizers read it.

        Raises
        ------
        ValueError
            If a special token reads like an ordinary one in the file, or the pattern cannot be written in its dialect.
        """
        tokenizer_json.save(path, *self._contents())

    @classmethod
    def from_tiktoken(
        cls,
        path: str | os.PathLike[str],
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Self:
        """
        Read a rank file of tiktoken, such as `cl100k_base.tiktoken`. The ids are exactly tiktoken's.

        Parameters
        ----------
        path : path
        pattern : str, optional
            The split pattern, which the file does not hold: `pat_str` of a `tiktoken.Encoding`. None is GPT-2's.
        special_tokens : mapping of str to int, optional
            The special tokens, which the file does not hold either.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing, malformed or incomplete: names the line.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     Tokenizer.train("the hen, the hen", vocab_size=260, progress=False).to_tiktoken(directory + "/ranks")
        ...     Tokenizer.from_tiktoken(directory + "/ranks", r"\\p{L}+|\\P{L}", {"<|end|>": 300}).encode("then")
        [257, 77]
        """
        ranks = tiktoken.read_ranks(path)
        merges, whole_pieces = tiktoken.merges_of(ranks)
        vocab = {rank: token for token, rank in ranks.items()}
        return cls(vocab, merges, special_tokens or {}, pattern, whole_pieces)

    def to_tiktoken(self, path: str | os.PathLike[str]) -> None:
        """
        Write the ordinary tokens as a rank file, from which tiktoken makes the same ids.

        The pattern and the special tokens are not in it: they are the arguments `pat_str` and `special_tokens` of
        `tiktoken.Encoding`, and those of `from_tiktoken`.

        Raises
        ------
        ValueError
            If tiktoken would merge otherwise: it goes by the ids alone.
        """
        tiktoken.save(path, self.vocab, self.merges, self.whole_pieces)


class StreamDecoder:
    r"""
    Text from ids that arrive one by one: a character is returned once all of its bytes are there.

    Parameters
    ----------
    tokenizer : Tokenizer

    Examples
    --------
    >>> tokenizer = Tokenizer.train("", vocab_size=256, special_tokens=(), byte_order="raw", progress=False)
    >>> decoder = tokenizer.stream_decoder()
    >>> [decoder.push(id) for id in (0x41, 0xC3, 0xA9, 0xC3)], decoder.flush()
    (['A', '', 'é', ''], '�')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Take the next id and return the characters that it completes, perhaps none."""
        return self._utf8.decode(self._tokenizer.decode_bytes([id]))

    def flush(self) -> str:
        """Return what is left, U+FFFD for an incomplete character, and start again."""
        return self._utf8.decode(b"", final=True)


def _id(who: str, token: int) -> int:
    try:
        return index(token)
    except TypeError:
        got = "text; encode gives its ids" if isinstance(token, (str, bytes)) else f"{type(token).__name__}; give one"
        raise TypeError(f"Tokenizer.{who}: needs an id, got {got}") from None


def _remedy(text: object) -> str:
    """What to do with what is no text."""
    if isinstance(text, (bytes, bytearray)):
        return "decode bytes first"
    return "encode_batch takes several" if isinstance(text, (list, tuple)) else "str(...) makes a text of most things"


def _is_continuation(byte: int) -> bool:
    """Whether a byte of UTF-8 goes on with a character that began before it."""
    return 0x80 <= byte < 0xC0


def _texts(who: str, texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise TypeError(f"Tokenizer.{who}: needs a sequence of str, got {type(texts).__name__}; write [text]")
    return texts


def _rows(who: str, batch: Iterable[_Item]) -> Iterable[_Item]:
    """The sequences of ids of a batch; TypeError if it is one sequence."""
    if isinstance(batch, np.ndarray):
        flat = batch.ndim == 1 and batch.size > 0 and batch.dtype != object
    else:
        if isinstance(batch, (str, bytes, Mapping)) or not isinstance(batch, Iterable):
            text = isinstance(batch, (str, bytes))
            got = "text; encode_batch gives the ids of texts" if text else f"{type(batch).__name__}; write [ids]"
            raise TypeError(f"Tokenizer.{who}: needs a sequence of sequences of ids, got {got}")
        batch = list(batch)
        flat = any(isinstance(row, (int, np.integer)) for row in batch)
    if flat:
        raise TypeError(f"Tokenizer.{who}: needs a sequence of sequences of ids, got a flat one; write [ids]")
    return batch


def _each(who: str, function: Callable[[_Item], _Result], items: Iterable[_Item], num_threads: int) -> list[_Result]:
    """Apply a function to all items, in order; the first error is raised, and items that were not begun are skipped."""
    if num_threads < 1:
        raise ValueError(f"Tokenizer.{who}: num_threads must be at least 1, got {num_threads}")
    if num_threads > max_threads():
        raise ValueError(f"Tokenizer.{who}: num_threads must be at most {max_threads()}, got {num_threads}")
    settings = copy_context()  # the implementation that the caller has chosen holds in the threads too
    with ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(lambda item: settings.copy().run(function, item), items))
