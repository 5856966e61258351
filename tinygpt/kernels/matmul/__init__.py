"""The matrix product: blocked for the caches, packed, and multiplied tile by tile in registers."""
