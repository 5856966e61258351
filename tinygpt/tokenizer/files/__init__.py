"""The files that hold a tokenizer, one format a file."""
