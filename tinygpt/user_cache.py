"""Where downloads are kept, so that each is fetched once."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """
    Name a folder for downloads: ``$XDG_CACHE_HOME`` or ``~/.cache``, then ``tinygpt``, then `name`.

    Parameters
    ----------
    name : str
        What is kept there.

    Returns
    -------
    Path
        It need not exist yet.

    Examples
    --------
    >>> cache_folder("gutenberg").parts[-2:]
    ('tinygpt', 'gutenberg')
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the XDG specification says to ignore relative paths
    return (given if given.is_absolute() else Path("~/.cache").expanduser()) / "tinygpt" / name
