"""The cases and sides of a race that --cases and --sides name: by their whole name, or by words of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Chosen = Callable[[Iterable[str]], list[str]]


def having(texts: Sequence[str] | None) -> Chosen:
    """
    A function that keeps the names which a text is, or those with all of a text's words where it is no name.

    Parameters
    ----------
    texts : sequence of str or None
        None keeps all.

    Examples
    --------
    >>> sides = ["tinygpt float32", "torch float32", "torch float32 compiled", "torch bfloat16"]
    >>> having(["torch float32"])(sides), having(["tinygpt", "compiled"])(sides)
    (['torch float32'], ['tinygpt float32', 'torch float32 compiled'])
    >>> having(["float32"])(sides) == sides[:3] and having(None)(sides) == sides
    True
    >>> having(["n=256"])(["c_fc, N=256", "c_fc, N=1024"])
    ['c_fc, N=256']
    """

    def keep(names: Iterable[str]) -> list[str]:
        found = list(names)
        return found if texts is None else [name for name in found if any(_is(text, name, found) for text in texts)]

    return keep


def _is(text: str, name: str, known: Sequence[str]) -> bool:
    text, name, all_names = text.lower(), name.lower(), {each.lower() for each in known}
    return text == name if text in all_names else all(word in name for word in text.replace(",", " ").split())


def check(what: str, texts: Sequence[str] | None, known: Iterable[str]) -> None:
    """
    Raise ValueError for a text that names nothing.

    Examples
    --------
    >>> check("--sides", ["tourch"], ["tinygpt", "torch"])
    Traceback (most recent call last):
    ValueError: --sides: nothing is called 'tourch'; there are: tinygpt; torch
    """
    names = list(dict.fromkeys(known))
    for text in texts or ():
        if not having([text])(names):
            raise ValueError(f"{what}: nothing is called {text!r}; there are: {'; '.join(names)}")
