"""Training: the settings of a run (settings), its data (dataset), the loop (train), its log, its scores (evaluate)."""
