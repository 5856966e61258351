"""
Training: the settings of a run (settings), its data (dataset), the loop (train), its log, what it shows (progress), its
scores (evaluate).
"""
