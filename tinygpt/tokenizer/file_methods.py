"""The methods of `Tokenizer` that read and write files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tinygpt.tokenizer import formats

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
