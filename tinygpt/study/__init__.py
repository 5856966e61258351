"""For people who study gradients: check them, see where implementations part, find what is wrong with a backward."""
