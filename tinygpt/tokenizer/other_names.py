"""What to write in place of names of tiktoken and Hugging Face that `Tokenizer` does not have."""

from __future__ import annotations

WRITE = {
    # tiktoken: private names are those that programs use to extend an encoding
    "name": "tokenizer.fingerprint, which tells tokenizers apart",
    "_pat_str": "tokenizer.pattern, which is None for GPT-2's",
    "_special_tokens": "tokenizer.special_tokens",
    "_mergeable_ranks": "{token: id for id, token in tokenizer.vocab.items()}",
    # transformers and tokenizers
    "add_special_tokens": "Tokenizer(tokenizer.vocab, tokenizer.merges, special_tokens), which makes another tokenizer",
    "all_special_tokens": "tokenizer.special_tokens_set",
    "batch_decode": "tokenizer.decode_batch(batch)",
    "batch_encode_plus": "tokenizer.encode_batch(texts)",
    "bos_token_id": "tokenizer.eot_token",
    "convert_ids_to_tokens": "tokenizer.decode_tokens_bytes(ids)",
    "convert_tokens_to_ids": "tokenizer.encode_single_token(token) for each",
    "encode_plus": "tokenizer.encode(text)",
    "eos_token_id": "tokenizer.eot_token",
    "from_file": "Tokenizer.from_tokenizer_json(path)",
    "get_vocab": "tokenizer.vocab, which maps ids to bytes",
    "get_vocab_size": "tokenizer.n_vocab",
    "id_to_token": "tokenizer.decode_single_token_bytes(id)",
    "pad_token_id": "-100 in targets that do not count; GPT-2 has no padding token",
    "token_to_id": "tokenizer.encode_single_token(token)",
    "tokenize": "tokenizer.decode_tokens_bytes(tokenizer.encode(text))",
    "vocab_size": "tokenizer.n_vocab",
}


def message(name: str) -> str:
    """
    The text of the AttributeError for a name that `Tokenizer` does not have.

    Examples
    --------
    >>> message("vocab_size")
    'Tokenizer has no vocab_size; write tokenizer.n_vocab'
    >>> message("nosuch")
    "'Tokenizer' object has no attribute 'nosuch'"
    """
    if name in WRITE:
        return f"Tokenizer has no {name}; write {WRITE[name]}"
    return f"'Tokenizer' object has no attribute {name!r}"
