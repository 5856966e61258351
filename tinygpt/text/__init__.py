"""
From text to token ids.

    corpus.py              documents in memory: read, split, encode, draw batches
    decoding.py            the bytes of a text file to text
    streaming.py           documents of files that may be larger than memory
    token_file.py          token ids on disk, memory-mapped
    gutenberg.py           books of Project Gutenberg
    published_texts.py     Shakespeare and TinyStories, fetched
    default_tokenizer.py   a tokenizer for who names none
"""
