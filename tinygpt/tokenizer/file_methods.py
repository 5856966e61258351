"""The methods of `Tokenizer` that read and write files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt.files.atomic import one_writer
from tinygpt.files.one_line import shown
from tinygpt.tokenizer import published
from tinygpt.tokenizer.added_tokens import check_config, read_added_tokens
from tinygpt.tokenizer.files import gpt2, tiktoken, tokenizer_json
from tinygpt.tokenizer.files.tokenizer_config import save_config
from tinygpt.tokenizer.special_tokens import Flags

if TYPE_CHECKING:
    from typing_extensions import Self


class FileMethods:
    """Reading and writing: a part of `Tokenizer`, which has the attributes named here."""

    vocab: Mapping[int, bytes]
    merges: Sequence[tuple[bytes, bytes]]
    special_tokens: dict[str, int]
    pattern: str | None
    whole_pieces: bool
    special_flags: Mapping[str, Flags]

    if TYPE_CHECKING:

        def __init__(self, *parts: Any, **options: Any) -> None: ...

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
                gpt2.save(folder, self.vocab, self.merges, self.special_tokens, self.special_flags)
                outdated: tuple[str, ...] = (single,)
            else:
                self.to_tokenizer_json(folder / single)
                save_config(folder, self.special_tokens, "PreTrainedTokenizerFast", self.special_flags)
                outdated = (*pair, "encoder.json", "vocab.bpe")
            for name in (*outdated, "added_tokens.json", "special_tokens_map.json"):
                (folder / name).unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """
        Read a tokenizer from a folder with the files of GPT-2 in either form, or with a `tokenizer.json`.

        ``"gpt2"`` without such a folder is the one that ``tinygpt tokenizer fetch gpt2`` has put in the user's cache.
        That is `vocab.json` and `merges.txt`, OpenAI's `encoder.json` and `vocab.bpe`, or `tokenizer.json`; where the
        last is beside one of the others, it must say the same. Special are the tokens that these files and
        `tokenizer_config.json`, `added_tokens.json` and `special_tokens_map.json` name. In the first two forms, where
        nothing lists all of them, so are the entries that are not bytes and that no merge makes.

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
        return cls(*_contents(published.resolve(directory)))

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
        tokenizer_json.save(path, self.vocab, self.merges, self.special_tokens, self.pattern, self.whole_pieces,
                            self.special_flags)  # fmt: skip

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


def _contents(folder: Path) -> gpt2.Contents:
    """What the files of a folder say together."""
    single, pair = folder / "tokenizer.json", gpt2.is_there(folder)
    if not single.exists():
        check_config(folder, pair=pair, pattern=False)
        return gpt2.load(folder)
    contents = tokenizer_json.load(single)
    check_config(folder, pair=False, pattern=contents.pattern is not None)
    if not pair:
        ids = gpt2.written_ids(contents.vocab, contents.special_tokens)
        added = read_added_tokens(folder, ids, gpt2.with_flags(contents))
        return contents._replace(special_tokens=added.ids, special_flags=added.flags)
    if contents.pattern is not None or contents.whole_pieces:
        raise ValueError(
            f"{shown(single)}: must split as GPT-2 does where vocab.json and merges.txt are beside it, and does not; "
            "transformers reads it before them: remove what is outdated"
        )
    return gpt2.load(folder, contents)
