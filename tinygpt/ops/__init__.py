"""The operations, one per file: a derivation, a forward and a backward in plain NumPy, and a public function."""
