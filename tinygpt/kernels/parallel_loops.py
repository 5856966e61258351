"""
Send the parallel loops of our kernels to our thread pool; those of other Numba code in the process stay as they are.

Numba calls its threading layer by name: `numba_parallel_for` runs a loop, `get_sched_size` and `do_scheduling` cut it
into entries. In what is compiled here each of them calls another, whose name begins with "tinygpt_". Whether that is a
function of `thread_pool.py` or Numba's own is decided where compiled code is used: the code is the same for both.

Numba also takes the interpreter's lock around each loop, and gives it back inside, for callers that hold it. Kernels
never do (`nogil`), so that is left out: it takes time, and makes a loop wait for a thread that runs Python.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core.pythonapi import PythonAPI

from tinygpt.kernels.simd.vector_width import Context, WideVectors
from tinygpt.kernels.thread_pool import install

_PREFIX = "tinygpt_"
_FORWARDED = ("get_sched_size", "do_scheduling_signed", "do_scheduling_unsigned", "get_thread_id")
_LAUNCH = "parallel.gufunc.wrapper"  # Numba's name of the module that calls `numba_parallel_for`


class OwnThreads(WideVectors):
    """Numba's compiler, for functions whose parallel loops run on our thread pool."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.state.flags.auto_parallel.enabled:
            install()
            self.state.reload_init.append(install)  # what is called before the function is loaded from the cache
            self.state.targetctx.__class__ = _PoolContext


class _PoolContext(Context):
    """Numba's view of the processor and of what may be called."""

    def post_lowering(self, mod: Any, library: Any) -> None:
        _forward(mod, _FORWARDED)
        super().post_lowering(mod, library)

    def get_python_api(self, builder: Any) -> Any:
        if builder.module.name == _LAUNCH:
            return _Launch(self, builder)
        return super().get_python_api(builder)


class _Launch(PythonAPI):
    """What emits the calls around `numba_parallel_for`: the lock is taken first and given back last."""

    def gil_ensure(self) -> None:
        """Nothing."""

    save_thread = gil_ensure

    def restore_thread(self, state: Any) -> None:
        """Nothing."""

    def gil_release(self, state: Any) -> None:
        """The call is emitted: forward it."""
        _forward(self.module, ("numba_parallel_for",))


def _forward(module: Any, names: tuple[str, ...]) -> None:
    """Define the functions of these names that a module declares: as calls of ours, for this module alone."""
    for name in names:
        declared = module.globals.get(name)
        if declared is not None and declared.is_declaration:
            ours = ir.Function(module, declared.function_type, _PREFIX + name)
            declared.linkage = "internal"
            builder = ir.IRBuilder(declared.append_basic_block())
            result = builder.call(ours, declared.args)
            if isinstance(result.type, ir.VoidType):
                builder.ret_void()
            else:
                builder.ret(result)
