"""
The published tokenizers that have a name in tinygpt: GPT-2's, whose two files come from OpenAI.

`fetch.py` brings them into the user's cache, `locate.py` finds them there.
"""

from __future__ import annotations

from typing import NamedTuple


class PublishedFile(NamedTuple):
    """The size and checksum of a file."""

    size: int
    sha256: str


PUBLISHED = {
    "gpt2": {
        "encoder.json": PublishedFile(1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
        "vocab.bpe": PublishedFile(456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    }
}
