"""
When kernels may run: after a fork, and when several threads launch parallel loops at once.

A fork copies one thread. The threads that parallel loops run on are not in the child, and a lock that another thread
held stays locked there. Parallel loops on our own pool (`kernels/thread_pool.py`) run in a child as anywhere: it starts
threads of its own. But

    another thread was compiling, or importing  the child uses no kernel at all

Where parallel loops run on Numba's threading layer, GNU OpenMP ends a child at its first one, other layers can hang. So

    the parent had started its threads          the child launches no parallel loop: operations run on the NumPy
                                                reference; kernels without parallel loops, the tokenizer's, still run
    it uses GNU OpenMP otherwise, as PyTorch    parallel loops run on Numba's own threads, whose start takes longer
    otherwise                                   the child is like any process

A child that does without kernels says once that it computes more slowly. Processes of
`multiprocessing.get_context("spawn")` are not affected.

Numba's own threads, the layer `workqueue`, end a process of which two threads launch parallel loops at once. There,
launches take turns.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from tinygpt.runtime import settings
from tinygpt.runtime.capture import current_recorder, recorders

_REMEDY = "processes of multiprocessing.get_context('spawn') use kernels"


def _reason() -> str:
    """What asks for Numba's layer, or demands it."""
    if settings.THREAD_POOL == "numba":
        return "TINYGPT_THREAD_POOL=numba"
    if os.environ.get("NUMBA_THREADING_LAYER"):
        return f"NUMBA_THREADING_LAYER={os.environ['NUMBA_THREADING_LAYER']}"
    return "" if sys.platform == "linux" else "our own pool needs Linux"


numbas_layer = _reason()  # why parallel loops run on Numba's layer; empty where they run on our own pool
_free = False  # no check is needed: loops have run, on what allows concurrent launches, and this is no forked child
_turns = threading.RLock()  # a signal handler may launch, too, while this thread compiles under it
_lost = ""  # in a forked child: "parallel" where it must launch no parallel loop, "all" where it must use no kernel
_told = False
_forking = threading.local()


def kernels_may_run(parallel: bool = True) -> bool:
    """
    Whether this process may use kernels; False in some forked children, where the reference runs.

    Parameters
    ----------
    parallel : bool
        Whether they hold parallel loops.

    Warns
    -----
    RuntimeWarning
        The first time that the answer is no.

    Examples
    --------
    >>> kernels_may_run()
    True
    """
    if not _lost or (_lost == "parallel" and not parallel):
        return True
    global _told
    if not _told:
        _told = True
        warnings.warn(
            f"tinygpt: this process was forked from one that {_did()}, so it uses the NumPy reference, which is "
            f"slower; {_REMEDY}",
            RuntimeWarning,
            stacklevel=_outside(),
        )
    return False


def _did() -> str:
    return "had used kernels" if _lost == "parallel" else "was compiling or importing in another thread"


def _outside() -> int:
    """How far up the caller of this package is, for a warning that points at the user's line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("tinygpt."):
        frame, level = frame.f_back, level + 1
    return level


def launcher(compiled: Any) -> Any:
    """
    A kernel with parallel loops, called as before, but launched only when that is safe.

    Parameters
    ----------
    compiled : Numba's dispatcher, or the function itself where nothing is compiled
    """
    if not hasattr(compiled, "py_func"):
        return compiled

    @functools.wraps(compiled.py_func)
    def launch(*arguments: Any) -> Any:
        if _free and not recorders:
            return compiled(*arguments)
        return _launch_with_care(compiled, arguments)

    launch.py_func = compiled.py_func  # type: ignore[attr-defined]  # as Numba's own have it
    launch.dispatcher = compiled  # type: ignore[attr-defined]
    return launch


def _launch_with_care(compiled: Callable, arguments: tuple) -> Any:
    global _free
    if _lost:
        raise RuntimeError(
            f"kernels: must not run in a process that was forked from one that {_did()}. Compute in this process from "
            f"the start, loss and backward, or elsewhere: {_REMEDY}"
        )
    if (recorder := current_recorder()) is not None:
        if _free:
            recorder.launch(compiled, arguments, sys.modules["numba"])
        else:
            recorder.fail("parallel loops were not launched freely")
    if _free:
        return compiled(*arguments)
    with _turns:  # the first launch, too: it may find that loops must run on Numba's layer
        result = compiled(*arguments)
        _free = not numbas_layer or _layer() != "workqueue"
    return result


def launches_are_free() -> bool:
    """Whether parallel loops have been launched, and may be without a check; False in a forked child, and in turns."""
    return _free


def _layer() -> str:
    """The layer that parallel loops run on; starts its threads where they are not started."""
    import numba

    numba.get_num_threads()
    return numba.threading_layer()


def _numba_locks() -> Iterable[Any]:
    """The locks of Numba and LLVM under which a function is compiled, and threads are started, once imported."""
    for module, path in (
        ("numba.core.compiler_lock", "global_compiler_lock._lock"),
        ("numba.np.ufunc.parallel", "_backend_init_thread_lock"),
        ("llvmlite.binding.ffi", "lib._lock._lock"),
    ):
        found: Any = sys.modules.get(module)
        for name in path.split("."):
            found = getattr(found, name, None)
        if hasattr(found, "acquire") and hasattr(found, "release"):
            yield found


def _others_import() -> bool:
    """Whether another thread imports something: in the child, a module that it began can never be imported."""
    own = set()
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            own.add(frame.f_globals.get("__name__"))
        frame = frame.f_back  # type: ignore[assignment]
    return any(
        name not in own and getattr(getattr(module, "__spec__", None), "_initializing", False)
        for name, module in list(sys.modules.items())
    )


def _uses_gnu_openmp() -> bool:
    """Whether GNU's OpenMP is loaded, whose parallel loops hang in the child of a process that has run one."""
    try:
        with open("/proc/self/maps", "rb") as file:
            return b"/libgomp" in file.read()
    except OSError:
        return False  # not Linux; LLVM's OpenMP survives a fork


def _avoid_openmp() -> None:
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
    config = sys.modules.get("numba.core.config")
    if config is not None:
        config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]


def _before_fork() -> None:
    locks = list(_numba_locks())
    _forking.held = [lock for lock in locks if lock.acquire(blocking=False)]
    _forking.quiet = len(_forking.held) == len(locks)


def _after_fork() -> None:
    for lock in getattr(_forking, "held", ()):
        lock.release()
    _forking.held = []


def _after_fork_in_child() -> None:
    global _free, _lost, _turns
    _after_fork()
    _turns = threading.RLock()
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    if not getattr(_forking, "quiet", False) or _others_import():
        _lost = "all"
    elif numbas_layer and not _lost and parallel is not None and getattr(parallel, "_is_initialized", True):
        _lost = "parallel"
    elif numbas_layer and not _lost and _uses_gnu_openmp():
        _avoid_openmp()
    _free = _free and not _lost


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
