"""Texts before a model sees them: documents, books of Project Gutenberg, token files, batches."""
