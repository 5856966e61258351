"""Byte-level BPE, GPT-2's way: `reference.py` is the algorithm, `tokenizer.py` the class to use."""

from tinygpt.tokenizer.tokenizer import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
