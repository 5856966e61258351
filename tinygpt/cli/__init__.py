"""The command `tinygpt`. `main(["train", "--steps", "100"])` runs it from Python and returns its exit status."""

from tinygpt.cli.main import main

__all__ = ["main"]
