"""Text from ids that arrive one by one: a token may end in the middle of a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinygpt.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    r"""
    Text from ids that arrive one by one: a character is given out when all of its bytes are there.

    Parameters
    ----------
    tokenizer : Tokenizer

    Examples
    --------
    >>> from tinygpt.tokenizer import Tokenizer
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
        """Return what is left, U+FFFD for a character that never became whole, and start afresh."""
        return self._utf8.decode(b"", final=True)
