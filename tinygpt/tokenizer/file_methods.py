"""The methods of `Tokenizer` that read and write files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt.durable import one_writer
from tinygpt.tokenizer import formats, published, rank_files, tokenizer_json
from tinygpt.tokenizer.tokenizer_config import save_config

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

        These cannot hold a pattern of one's own, nor `whole_pieces`: with either, `tokenizer.json` takes the place of
        the first two. The folder is created if it does not exist; files of these names in it are replaced, and those of
        the other form are removed, lest a reader take them. Of two that save there at once, the second waits.

        Raises
        ------
        ValueError
            If a special token reads like an ordinary one in the file, or the pattern cannot be written.
        """
        folder = Path(directory)
        pair, single = ("vocab.json", "merges.txt"), "tokenizer.json"
        with one_writer(folder):
            if self.pattern is None and not self.whole_pieces:
                formats.save(folder, self.vocab, self.merges, self.special_tokens)
                outdated: tuple[str, ...] = (single,)
            else:
                self.to_tokenizer_json(folder / single)
                save_config(folder, self.special_tokens, "PreTrainedTokenizerFast")
                outdated = (*pair, "encoder.json", "vocab.bpe")
            for name in outdated:
                (folder / name).unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """
        Read a tokenizer from a folder with the files of GPT-2 in either form, or with a `tokenizer.json`.

        ``"gpt2"`` without such a folder is the one that ``tinygpt tokenizer fetch gpt2`` has put in the user's cache.
        The first that is there counts: `vocab.json` and `merges.txt`; OpenAI's `encoder.json` and `vocab.bpe`;
        `tokenizer.json`. In the first two, special are the tokens that `tokenizer_config.json` lists, or else the
        entries that are not bytes and that no merge makes.

        Raises
        ------
        FileNotFoundError, ValueError
            If a file is missing, malformed, cut off, of another vocabulary or of another kind: names the file.

        Examples
        --------
        >>> import tempfile
        >>> from tinygpt import Tokenizer
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     Tokenizer.train("the hen, the hen", vocab_size=260, progress=False).save_pretrained(directory)
        ...     Tokenizer.from_pretrained(directory).encode("then")
        [257, 77]
        """
        folder = published.resolve(directory)
        if (folder / "tokenizer.json").exists() and not formats.is_there(folder):
            return cls.from_tokenizer_json(folder / "tokenizer.json")
        return cls(*formats.load(folder))

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str]) -> Self:
        """
        Read a `tokenizer.json` that holds a byte-level BPE: that of GPT-2, of Llama 3, or one that we wrote.

        Its added tokens become special tokens. `encode` gives what Hugging Face's does without its post-processor, that
        is with ``add_special_tokens=False``.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing or damaged, or asks for what is not supported: names it.

        Examples
        --------
        >>> import tempfile
        >>> from tinygpt import Tokenizer
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
        tokenizer_json.save(path, self.vocab, self.merges, self.special_tokens, self.pattern, self.whole_pieces)

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
