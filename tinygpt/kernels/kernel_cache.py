"""
Compiled code on disk: verified before it is loaded, and compiled again whenever it cannot be used.

Numba's own cache keeps an index and numbered files, and trusts them: a file that was cut short ends the program, and
one with a flipped bit can crash it. Here each compiled function is one file that verifies itself,

    MAGIC  digest  content        digest = SHA-256(identity, content)

where the identity says which function it is, for which argument types, and for which processor. A file that was cut,
changed, or put under another's name does not match its digest. It is replaced as a whole by a rename:
two processes that compile at the same time cannot mix their writes, and no index could disagree with it.

The content is what Numba pickles of a compiled function. Unpickling runs code, as the compiled function itself will: so
it is done only after the digest matches, and only in a folder that no other user can write (see `user_cache.distrust`).

If reading or writing fails for any reason, the function is compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import Any

from numba.core.compiler import CompileResult
from numba.core.serialize import dumps, loads

from tinygpt.files.user_cache import distrust, make_folder
from tinygpt.kernels.dependencies import digest

SUFFIX = ".nbc"
PARTIAL = ".partial"  # a file that is being written, or that a killed process left behind
_MAGIC = b"tinygpt kernel 1\n"
_DIGEST = hashlib.sha256().digest_size
_LARGEST = 2**28  # bytes; the largest kernel takes some hundred thousand
_OPEN = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


class KernelFolder:
    """
    The files of one group of kernels.

    Parameters
    ----------
    path : Path or None
        None: nothing is kept.

    Attributes
    ----------
    trouble : str
        Why the last file could not be written; empty where all could.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.trouble = ""

    def read(self, name: str, identity: bytes) -> bytes | None:
        """The content of a file, None where it is not whole or not of this identity; OSError where there is none."""
        if self.path is None or distrust(self.path):
            return None
        descriptor = os.open(self.path / (name + SUFFIX), _OPEN)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
            if not stat.S_ISREG(status.st_mode) or not own or status.st_size > _LARGEST:
                return None
            data = file.read()
        start = len(_MAGIC) + _DIGEST
        content = data[start:]
        return content if data[:start] == _MAGIC + _digest(identity, content) else None

    def write(self, name: str, identity: bytes, content: bytes) -> None:
        """Write a file, or nothing."""
        if self.path is None or distrust(make_folder(self.path)):
            return
        descriptor, temporary = tempfile.mkstemp(PARTIAL, ".", self.path)
        try:
            with open(descriptor, "wb") as file:
                file.write(_MAGIC + _digest(identity, content) + content)
            os.replace(temporary, self.path / (name + SUFFIX))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def check(self) -> str:
        """Why files cannot be kept here; empty where they can."""
        if self.path is None:
            return "there is no folder"
        try:
            make_folder(self.path)
            fault = distrust(self.path)
            if not fault:
                with tempfile.TemporaryFile(suffix=PARTIAL, dir=self.path) as file:
                    file.write(bytes(2**20))
        except OSError as error:
            return str(error)
        return f"{self.path} {fault}" if fault else self.trouble


class KernelCache:
    """
    The cache of one function's compiled code: the interface of Numba's `_Cache`, on a `KernelFolder`.

    Parameters
    ----------
    function : function
        The Python function.
    folder : KernelFolder
    known : container of str
        Paths of the files that the folder's name stands for. What a function from elsewhere depends on is part of its
        identity (see `dependencies.py`); where that cannot be told, nothing is kept.
    """

    def __init__(self, function: Any, folder: KernelFolder, known: Container[str] = ()) -> None:
        self._function = function
        self._folder = folder
        self._known = known

    @property
    def cache_path(self) -> str | None:
        """Where the files are."""
        return None if self._folder.path is None else str(self._folder.path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for these types of arguments; None where it has to be compiled."""
        if self._folder.path is not None:
            with contextlib.suppress(Exception):
                target_context.refresh()
                return self._load(sig, target_context)
        return None

    def _load(self, sig: Any, target_context: Any) -> Any:
        identity = self._identity(sig, target_context.codegen())
        content = None if identity is None else self._folder.read(*identity)
        if content is None:
            return None
        types, reduced = loads(content)
        return CompileResult._rebuild(target_context, *reduced) if types == sig else None

    def save_overload(self, sig: Any, compiled: Any) -> None:
        """Keep a compiled function, if that is possible."""
        if self._folder.path is None or compiled.lifted or compiled.library.has_dynamic_globals:
            return
        try:
            identity = self._identity(sig, compiled.codegen)
            if identity is not None:
                self._folder.write(*identity, dumps((sig, compiled._reduce())))
                self._folder.trouble = ""
        except Exception as error:
            self._folder.trouble = f"{type(error).__name__}: {error}"

    def _identity(self, sig: Any, codegen: Any) -> tuple[str, bytes] | None:
        """A name for the file, and what its digest covers besides the content; None if the latter cannot be told."""
        function = self._function
        elsewhere = digest(function, self._known)
        if elsewhere is None:
            return None
        closure = [] if elsewhere else [cell.cell_contents for cell in function.__closure__ or ()]
        identity = repr((
            sys.implementation.cache_tag, function.__module__, function.__qualname__, function.__code__.co_firstlineno,
            hashlib.sha256(function.__code__.co_code).hexdigest(), elsewhere,
            hashlib.sha256(dumps(closure) if closure else b"").hexdigest(), sig, codegen.magic_tuple(),
        )).encode()  # fmt: skip
        letters = "".join(letter for letter in function.__qualname__ if letter.isalnum() or letter in "._")
        return f"{letters[:80]}-{hashlib.sha256(identity).hexdigest()[:24]}", identity

    def enable(self) -> None:
        """A part of Numba's interface: nothing to do."""

    disable = flush = enable


def supported(dispatcher: Any) -> bool:
    """Whether this version of Numba has what `KernelCache` calls, most of which is not public."""
    return hasattr(dispatcher, "_cache") and hasattr(CompileResult, "_reduce") and hasattr(CompileResult, "_rebuild")


def _digest(identity: bytes, content: bytes) -> bytes:
    return hashlib.sha256(len(identity).to_bytes(8, "little") + identity + content).digest()
