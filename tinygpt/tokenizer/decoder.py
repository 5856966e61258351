"""Ids to bytes: token by token in Python, or, when there are many, by the kernels."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Set, Sized
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygpt.tokenizer.switch import Switch, check_agreement, must_check

if TYPE_CHECKING:
    from tinygpt.tokenizer.kernels.decoder import CompiledDecoder

_WORTH_A_CALL = 64  # tokens; below, calling a kernel costs more than it saves
_TEXT = "text, which is decoded already; tokenizer.encode gives its ids"
_BATCH = "tokenizer.decode_batch takes several sequences"
_INTEGERS = "convert them to integers, as by np.asarray(ids, int)"
_TABLE = 1 << 24  # ids; the kernel looks tokens up in a table as long as the highest id


class Decoder:
    """
    The bytes of all tokens of one tokenizer, joined in any order.

    Parameters
    ----------
    tokens : mapping of int to bytes
        By id; no token is empty.

    Examples
    --------
    >>> Decoder({0: b"h", 2: b"en"}).decode([0, 2])
    b'hen'
    """

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        self._tokens = tokens
        self.n_vocab = max(tokens) + 1
        self._switch = Switch("decoding")
        self._compiled: CompiledDecoder | None = None

    def decode(self, ids: Any) -> bytes:
        """Return the bytes of ids; raises what `Tokenizer.decode_bytes` says."""
        ids = checked_ids("decode", ids)
        if self.n_vocab > _TABLE or (len(ids) < _WORTH_A_CALL and not must_check()):
            return self.decode_by_reference(ids)
        if not self._switch.to_kernels(len(ids), ready=self._compiled is not None):
            return self.decode_by_reference(ids)
        data = self._decode_by_kernels(ids)
        if data is None:
            return self.decode_by_reference(ids)  # which raises the error
        if must_check():
            check_agreement("Tokenizer.decode", data, self.decode_by_reference(ids))
        return data

    def decode_by_reference(self, ids: Iterable[int]) -> bytes:
        """Do the same token by token."""
        if isinstance(ids, np.ndarray):
            ids = ids.tolist()
        try:
            return b"".join([self._tokens[index(id)] for id in ids])
        except KeyError as error:
            raise ValueError(
                f"Tokenizer.decode: ids must be in the vocabulary (n_vocab = {self.n_vocab}), got {error.args[0]}; use "
                "the tokenizer that made them, or, if it is text, encode"
            ) from None
        except TypeError:
            raise TypeError(f"Tokenizer.decode: ids must be a sequence of integers, got {_first_wrong(ids)}") from None

    def _decode_by_kernels(self, ids: Iterable[int]) -> bytes | None:
        """None if the ids are invalid."""
        if self._compiled is None:
            from tinygpt.tokenizer.kernels.decoder import CompiledDecoder  # late: it imports Numba

            self._compiled = CompiledDecoder(self._tokens)
        if not isinstance(ids, np.ndarray):
            try:
                ids = np.frombuffer(array("I", ids), np.uint32)
            except (TypeError, OverflowError):
                return None
        elif ids.dtype.kind not in "iu":
            return None
        return self._compiled.decode(ids)


def checked_ids(who: str, ids: Any) -> Any:
    """
    Ids, which are listed if they come one by one; raises TypeError or ValueError unless they are one sequence.

    Parameters
    ----------
    who : str
        The method of `Tokenizer` that is given them.
    ids : any
        The single ids of a list are left to the caller: most are looked up in a table anyway.
    """
    required = f"Tokenizer.{who}: ids must be a sequence of integers, got"
    if isinstance(ids, np.ndarray):
        if ids.ndim == 0:
            raise TypeError(f"{required} a single one; write [{ids}]")
        if ids.ndim > 1:
            raise ValueError(f"Tokenizer.{who}: ids must have shape (N,), got {ids.shape}; {_BATCH}")
        if ids.dtype.kind not in "iu" and ids.size:
            raise TypeError(f"{required} {_TEXT if ids.dtype.kind in 'US' else f'{ids.dtype}; {_INTEGERS}'}")
        return ids
    if isinstance(ids, (str, bytes, bytearray)):
        raise TypeError(f"{required} {_TEXT}")
    if isinstance(ids, (Mapping, Set)):
        raise TypeError(f"{required} {type(ids).__name__}, which has no order; write a list")
    if isinstance(ids, Sized):
        return ids
    try:
        return list(ids)
    except TypeError:
        remedy = f"write [{ids}]" if isinstance(ids, (int, np.integer)) else "tokenizer.encode gives the ids of a text"
        raise TypeError(f"{required} {type(ids).__name__}; {remedy}") from None


def _first_wrong(ids: Any) -> str:
    """What the first of some ids is that is no integer, and the remedy."""
    for id in ids:
        if isinstance(id, (str, bytes)):
            return _TEXT
        if isinstance(id, (list, tuple, np.ndarray)):
            return f"{type(id).__name__} among them; {_BATCH}"
        try:
            index(id)
        except TypeError:
            return f"{type(id).__name__} among them; {'leave it out' if id is None else _INTEGERS}"
    return type(ids).__name__
