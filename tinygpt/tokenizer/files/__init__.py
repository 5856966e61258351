"""
The files that hold a tokenizer, one format per file.

    folder.py              a folder: which of the following it has, and how they combine
    gpt2.py                vocab.json with merges.txt, encoder.json with vocab.bpe
    tokenizer_json.py      tokenizer.json of Hugging Face's tokenizers; onig_dialect.py: its split patterns
    tokenizer_config.py    tokenizer_config.json, written; added_tokens.py reads it and the older files beside it
    tiktoken.py            rank files
    reading.py             the limits within which all of them are read
"""
