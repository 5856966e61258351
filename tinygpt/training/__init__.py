"""
Training: the settings of a run (settings), its data (dataset), the loop (train), its log, what it shows (progress), its
scores (evaluate).

What runs there are, and how far each is, can be seen from outside: runs.
"""
