"""The methods of `Tokenizer` that read and write files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tinygpt.tokenizer import formats, rank_files

if TYPE_CHECKING:
    from typing_extensions import Self


class FileMethods:
    """Reading and writing: a part of `Tokenizer`, which has the attributes named here."""

    vocab: Mapping[int, bytes]
    merges: Sequence[tuple[bytes, bytes]]
    special_tokens: Mapping[str, int]
    pattern: str | None
    whole_pieces: bool

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """
        Write `vocab.json`, `merges.txt` and `tokenizer_config.json`, as Hugging Face's GPT-2 classes read them.

        The folder is created if it does not exist; files of these names in it are replaced. Raises ValueError if a
        special token reads like an ordinary one in `vocab.json`, or if the tokenizer cuts pieces in a way of its own,
        for which these files have no place.
        """
        if self.pattern is not None or self.whole_pieces:
            raise ValueError(
                "save_pretrained: vocab.json and merges.txt are read with GPT-2's pattern, got a tokenizer with the "
                f"pattern {self.pattern!r}, whole_pieces = {self.whole_pieces}; keep its parts in a file of your own"
            )
        formats.save(directory, self.vocab, self.merges, self.special_tokens)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """
        Read a tokenizer from `vocab.json` and `merges.txt`, or from OpenAI's `encoder.json` and `vocab.bpe`.

        Special are the tokens that `tokenizer_config.json` in the same folder lists, or else the entries that are not
        bytes and that no merge makes.

        Raises
        ------
        FileNotFoundError, ValueError
            If a file is missing, malformed, cut off or of another vocabulary: names the file.

        Examples
        --------
        >>> import tempfile
        >>> from tinygpt import Tokenizer
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     Tokenizer.train("the hen, the hen", vocab_size=260, progress=False).save_pretrained(directory)
        ...     Tokenizer.from_pretrained(directory).encode("then")
        [257, 77]
        """
        return cls(*formats.load(directory))

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
        >>> from tinygpt import Tokenizer
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     Tokenizer.train("the hen, the hen", vocab_size=260, progress=False).to_tiktoken(directory + "/ranks")
        ...     Tokenizer.from_tiktoken(directory + "/ranks", r"\\p{L}+|\\P{L}", {"<|end|>": 300}).encode("then")
        [257, 77]
        """
        ranks = rank_files.read_ranks(path)
        merges, whole_pieces = rank_files.merges_of(ranks)
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
        rank_files.save(path, self.vocab, self.merges, self.whole_pieces)
