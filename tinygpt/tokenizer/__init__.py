"""
Byte-level BPE as GPT-2 does it. `Tokenizer` is the class to use, `StreamDecoder` decodes ids that arrive one by one.

To read, in this order:

    reference.py         the algorithm: split, merge, learn merges
    explain.py           the tokens of a text, drawn as trees of merges
    encoder.py, decoder.py, training.py     the reference with a cache, or the kernels where there is enough text
    special_tokens.py    names such as <|endoftext|> that have an id of their own
    unstable.py          the tokens that may change when a text goes on
    pattern.py           other split patterns than GPT-2's
    tokenizer.py         the class that holds these together
    other_names.py       what to write for names of tiktoken's and Hugging Face's tokenizers
    files/               one file format per file
    kernels/             the reference's functions as Numba loops
"""

from tinygpt.tokenizer.tokenizer import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
