"""
Numba, as tinygpt uses it: decorators whose compiled code is kept on disk and never goes stale.

Numba's own cache looks at the file that holds a function, not at the files of the functions that it calls: after an
edit there, it would run the old code silently. So the code of each *group* of kernels is kept in a folder named
by a hash of all files of the group, of the versions of what compiles them, and of the processor's features. A changed
file is a new folder. What is in the folder is verified before it is used: see `kernel_cache.py`. A function from
outside of the group, such as a user's kernel, is kept there too, with all that it depends on: see `dependencies.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tinygpt.runtime import settings

if not settings.threads_from_environment():  # a number beyond reason is refused: Numba would start so many threads
    os.environ.pop("NUMBA_NUM_THREADS", None)  # an empty text: Numba would warn

import llvmlite.binding
import numba
import numpy as np
from numba.core import event
from numba.core.ccallback import CFunc
from numba.core.registry import CPUDispatcher

from tinygpt.files.user_cache import MARK, distrust, kernel_root, make_folder
from tinygpt.kernels.notice import Notice
from tinygpt.runtime.guard import call_guarded

try:
    from tinygpt.kernels.kernel_cache import KernelCache, KernelFolder, supported
except ImportError:  # a version of Numba that is built in another way
    KernelCache = KernelFolder = supported = None  # type: ignore[assignment,misc]

Function = TypeVar("Function", bound=Callable)

NOTICE = Notice()
event.register("numba:compile", NOTICE)

# The fast-math flags: a product and a sum may become one instruction. No other flag: NaN must propagate; a division
# must not become a product with the reciprocal in some places of a loop; and a sum must keep its order, because a
# function is compiled again in each function that calls it, where the compiler could choose another order.
FAST = {"contract"}

# Numba's settings that change the code it makes.
_SETTINGS = ("CPU_NAME", "CPU_FEATURES", "OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX",
             "DISABLE_INTEL_SVML", "USING_SVML", "DEBUGINFO_DEFAULT")  # fmt: skip


class _Guarded(CPUDispatcher):
    """A compiled function that works beside protected pages whenever Python calls it."""

    def __call__(self, *arguments: Any) -> Any:
        return call_guarded(super().__call__, arguments)


class Compiler:
    """
    The decorators of one group of kernels.

    Parameters
    ----------
    name : str
        What the group's cache folder begins with.
    sources : iterable of Path
        All files whose text the compiled code may depend on. A folder stands for all its Python files, those of its
        subfolders included.
    facts : object
        What else the code depends on, such as constants that were computed when a file was imported: its `repr` counts.
    subject : str
        What the notice calls these kernels, see `notice.py`.
    pipeline : subclass of numba.core.compiler.Compiler, optional
        What compiles them, in place of that class.

    Attributes
    ----------
    folder : Path or None
        Where compiled code is kept; None where that is impossible (each process then compiles anew), or where
        ``NUMBA_DISABLE_JIT=1`` makes every kernel plain Python.
    folder_name : str
        The name that the folder has, or would have.
    reason : str
        Why `folder` is None; else empty.
    """

    def __init__(
        self,
        name: str,
        sources: Iterable[Path],
        facts: object = "",
        subject: str = "kernels",
        pipeline: type[numba.core.compiler.Compiler] = numba.core.compiler.Compiler,
    ) -> None:
        self.folder: Path | None = None
        self.folder_name = self.reason = ""
        self._subject, self._pipeline = subject, pipeline
        self._stages = set[str]()
        self._known = set[str]()
        self._callbacks: list[Any] = []
        try:
            files = _named(sources)
            self._known = {str(file) for _, file in files}
            self.folder_name = f"{name}-{_hash_of(files, facts)}"
            self.folder = self._usable_folder()
        except OSError as error:
            self.reason = str(error)
        self._files = None if KernelFolder is None else KernelFolder(self.folder)

    def kernel(self, function: Function, **options: Any) -> Function:
        """
        Compile a function when it is first called; it runs without the global interpreter lock.

        Division by zero gives infinity as in NumPy: Numba's default check for it would stop vectorization. There are
        no reference counts: a kernel works in memory that it is given, and allocates none.
        """
        return self._compile(function, _nrt=False, **options)

    def float_kernel(self, function: Function) -> Function:
        """Like `kernel`, for floating-point numbers: see `FAST`."""
        return self.kernel(function, fastmath=FAST)

    def parallel_kernel(self, function: Function) -> Function:
        """Like `float_kernel`, and the iterations of each `prange` are shared among threads."""
        return self._compile(function, fastmath=FAST, parallel=True)

    def inlined(self, function: Function) -> Function:
        """Inline a function into each kernel that calls it."""
        return numba.njit(inline="always", nogil=True, error_model="numpy", fastmath=FAST, _nrt=False)(function)

    def _compile(self, function: Function, **options: Any) -> Function:
        compiled = numba.njit(nogil=True, error_model="numpy", pipeline_class=self._pipeline, **options)(function)
        if self._files is not None and supported(compiled):
            compiled._cache = KernelCache(function, self._files, self._known)
        if not numba.config.DISABLE_JIT:
            compiled.subject = self._subject
            if settings.GUARD:
                compiled.__class__ = _Guarded
        return compiled

    def callback(self, function: Function, signature: Any) -> int:
        """
        Compile a function for callers that know its address, or load it; it takes and returns what C does.

        Parameters
        ----------
        function : function, or what a decorator above made of one
        signature : numba.core.typing.Signature
        """
        function = getattr(function, "py_func", function)
        options = {"error_model": "numpy", "_nrt": False, "nopython": True}
        compiled: Any = CFunc(function, (signature.args, signature.return_type), {}, options)
        if self._files is not None:
            compiled._cache = KernelCache(function, self._files, self._known)
        compiled.compile()
        self._callbacks.append(compiled)  # its code goes when it does
        return compiled.address

    def has_compiled(self, stage: str) -> bool:
        """Whether all kernels of a stage of the work are compiled, as far as `compiling` knows."""
        if stage not in self._stages and (numba.config.DISABLE_JIT or self._mark(stage, os.path.exists)):
            self._stages.add(stage)
        return stage in self._stages

    @contextlib.contextmanager
    def compiling(self, *stages: str, progress: bool = True) -> Iterator[None]:
        """
        Show what is compiled inside. If nothing fails there, these stages are marked as compiled, on disk too.

        Parameters
        ----------
        *stages : str
            Names of which the work inside reaches all kernels, as well as their usual arguments tell.
        progress : bool
            Show a line with progress.
        """
        with NOTICE.shown(self._subject, progress):
            yield
        for stage in stages:
            self._stages.add(stage)
            with contextlib.suppress(OSError):
                self._mark(stage, lambda path: Path(path).touch())

    def _mark(self, stage: str, do: Callable[[str], Any]) -> Any:
        return None if self.folder is None else do(f"{self.folder / stage}{MARK}")

    def trouble(self) -> str:
        """Why compiled code is not kept, as far as is known now; empty where it is kept."""
        return self.reason if self.folder is None or self._files is None else self._files.check()

    def _usable_folder(self) -> Path | None:
        if numba.config.DISABLE_JIT:
            self.reason = "NUMBA_DISABLE_JIT is set: nothing is compiled"
            return None
        if KernelFolder is None:
            self.reason = f"the inner parts of Numba {numba.__version__} are not those that tinygpt knows"
            return None
        folder = make_folder(kernel_root(numba.config.CACHE_DIR or "") / self.folder_name)
        fault = distrust(folder) or ("" if os.access(folder, os.W_OK) else "cannot be written")
        self.reason = f"{folder} {fault}" if fault else ""
        return None if fault else folder


def _hash_of(files: Iterable[tuple[str, Path]], facts: object) -> str:
    """16 hexadecimal digits for all that compiled code depends on."""
    digest = hashlib.sha256()
    for item in (numba.__version__, llvmlite.__version__, np.__version__, sys.implementation.cache_tag, repr(facts),
                 llvmlite.binding.get_host_cpu_name(), _host_features(),
                 *(getattr(numba.config, name, None) for name in _SETTINGS)):  # fmt: skip
        _add(digest, str(item).encode())
    _add(digest, Path(__file__).read_bytes())
    for name, path in sorted(files):
        _add(digest, name.encode())
        _add(digest, path.read_bytes())
    return digest.hexdigest()[:16]


def _named(sources: Iterable[Path]) -> list[tuple[str, Path]]:
    """
    All files, each with a name that is the same wherever the package lies: its path from the folder that holds all.

    Raises
    ------
    FileNotFoundError
        If a folder holds no Python file, as in a frozen application: an edit could not be seen.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        found = list(source.rglob("*.py")) if source.is_dir() else [source]
        if not found:
            raise FileNotFoundError(f"there is no source code in {source} to tell compiled code of another version by")
        files += found
    root = os.path.commonpath([file.parent for file in files]) if files else ""
    return [(file.relative_to(root).as_posix(), file) for file in files]


def _add(digest: Any, data: bytes) -> None:
    """Add a length and so many bytes: where one item ends must count, too."""
    digest.update(len(data).to_bytes(8, "little") + data)


def _host_features() -> str:
    try:
        return llvmlite.binding.get_host_cpu_features().flatten()
    except RuntimeError:  # the operating system does not report them
        return "unknown"
