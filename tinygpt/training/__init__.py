"""Training and evaluation: what a run is told, its data, the loop, its log."""
