"""For people who study gradients: check them, explain an operation, compare implementations, find a wrong backward."""
