"""The command `tinygpt`."""
