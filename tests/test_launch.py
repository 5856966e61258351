"""Kernels after a fork, and in several threads at once: each computes the same, or says why not, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt.runtime import launch

ROOT = Path(__file__).resolve().parents[1]
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

# `inside(work)` runs `work` in a child, for half a minute at most, and returns how that ended: 0, or minus a signal.
START = """
import os, signal, sys, threading, warnings
import numpy as np, tinygpt.functional as F
from tinygpt import AdamW, GPT, GPTConfig, Tensor, Tokenizer, implementation

x = np.linspace(-3, 3, 200_000, dtype=np.float32)

def gelu():
    p = Tensor(x, requires_grad=True)
    y = F.gelu(p)
    y.sum().backward()
    return np.concatenate([y.data, p.grad])

def inside(work):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        status = 1
        try:
            work()
            status = 0
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(code: str, seconds: int = 60, **environment: str) -> tuple[list[str], str]:
    """The lines that a program prints, and what it says on stderr; it must end well."""
    program = START.replace("SECONDS", str(seconds)) + code
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                          capture_output=True, text=True, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


LAYERS = pytest.mark.parametrize("layer", ["default", "workqueue"])  # chosen, so not our own pool


COMPUTE = """
here = gelu()
def work():
    np.testing.assert_allclose(gelu(), here, rtol=1e-5, atol=1e-5)
    with implementation("check"):
        gelu()
print(inside(work), inside(lambda: print(inside(work))), (gelu() == here).all(), inside(work))
"""


@FORK
@pytest.mark.skipif(bool(launch.numbas_layer), reason="loops run on Numba's layer here")
def test_a_child_computes_by_kernels_as_its_parent_does_and_the_parent_goes_on():
    out, err = run(COMPUTE.replace("rtol=1e-5, atol=1e-5", "rtol=0, atol=0"))
    assert out == ["0", "0 0 True 0"] and "RuntimeWarning" not in err


@FORK
@LAYERS
def test_on_numbas_layer_a_child_computes_on_the_reference_and_the_parent_goes_on(layer):
    out, err = run(COMPUTE, NUMBA_THREADING_LAYER=layer)
    assert out == ["0", "0 0 True 0"]
    assert "uses the NumPy reference, which is slower; processes of multiprocessing.get_context('spawn')" in err
    assert err.count("RuntimeWarning") == 3  # once in each child, whatever it computes


@FORK
@LAYERS
def test_a_child_of_a_process_that_used_no_kernel_uses_them_as_any_process(layer):
    code = """
import tinygpt.kernels.jit
def work():
    gelu()
    print("tinygpt.kernels.gelu" in sys.modules)
    print(inside(lambda: (gelu(), print("grandchild"))))
print(inside(work))
"""
    out, err = run(code, NUMBA_THREADING_LAYER=layer)
    assert out == ["True", "grandchild", "0", "0"]
    assert err.count("RuntimeWarning") == 1  # the grandchild's


BACKWARD = """
p = Tensor(x, requires_grad=True)
loss = F.gelu(p).sum()
print(inside(loss.backward))
loss.backward()
print(p.grad.sum().round())
"""


@FORK
@pytest.mark.skipif(bool(launch.numbas_layer), reason="loops run on Numba's layer here")
def test_a_graph_of_the_parents_kernels_goes_on_in_the_child():
    out, err = run(BACKWARD)
    assert out == ["0", "100000.0"] and "RuntimeWarning" not in err


@FORK
def test_on_numbas_layer_a_graph_of_the_parents_kernels_is_refused_in_one_sentence():
    out, err = run(BACKWARD, TINYGPT_THREAD_POOL="numba")
    assert out[0].startswith("RuntimeError: kernels: must not run in a process that was forked from one that had used")
    assert out[1:] == ["1", "100000.0"] and "Traceback" not in err


@FORK
def test_forks_while_other_threads_run_kernels_all_end():
    code = """
here, stop = gelu(), threading.Event()
def run():
    while not stop.is_set():
        gelu()
threads = [threading.Thread(target=run) for _ in range(2)]
for thread in threads: thread.start()
warnings.simplefilter("ignore")
ends = [inside(lambda: np.testing.assert_allclose(gelu(), here, rtol=1e-5, atol=1e-5)) for _ in range(25)]
stop.set()
for thread in threads: thread.join()
print(set(ends), (gelu() == here).all())
"""
    assert run(code)[0] == ["{0} True"]


@FORK
@pytest.mark.slow
def test_forks_while_another_thread_imports_and_compiles_all_end(tmp_path):
    code = """
import time
thread = threading.Thread(target=gelu)
thread.start()
warnings.simplefilter("ignore")
ends = []
while thread.is_alive():
    ends.append(inside(gelu))
    time.sleep(0.05)
print(set(ends), len(ends) > 3)
"""
    assert run(code, XDG_CACHE_HOME=str(tmp_path), NUMBA_CACHE_DIR="")[0] == ["{0} True"]


@FORK
def test_locks_that_another_thread_held_are_free_in_the_child():
    """The pool's, Numba's compiler's and that of launches."""
    code = """
from numba.core.compiler_lock import global_compiler_lock
from tinygpt.runtime import launch
from tinygpt.runtime.memory import pool
held, done = threading.Event(), threading.Event()
def hold():
    with pool._lock, launch._turns, global_compiler_lock:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
text = "the hen and the fox " * 60_000  # enough for the tokenizer's kernels, which would have to be compiled
def work():
    tokenizer = Tokenizer.train("the hen and the fox and the other hen. " * 3, 270, progress=False)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    with implementation("check"):
        again = Tokenizer.train("the hen and the fox and the other hen. " * 3, 270, progress=False)
        assert again.encode("the hen") == tokenizer.encode("the hen")
    gelu()
print(inside(work))
done.set()
"""
    assert run(code)[0] == ["0"]


@FORK
def test_what_a_child_writes_stays_in_the_child():
    """Arrays of the pool, those that wait in it, and parameters: all of a size that the pool takes."""
    code = """
from tinygpt.runtime import memory
held = memory.empty((300, 1000), np.float32)
held[:] = 1
waiting = memory.empty((400, 1000), np.float32)
del waiting
def work():
    held[:] = 2
    again = memory.empty((400, 1000), np.float32)
    again[:] = 3
    print(inside(lambda: again.fill(4)), again[0, 0])
mine = memory.empty((400, 1000), np.float32)
mine[:] = 5
del mine
child = inside(work)
print(child, held.min(), held.max(), (memory.empty((400, 1000), np.float32) == 5).all())
"""
    assert run(code)[0] == ["0 3.0", "0 1.0 1.0 True"]


@FORK
def test_a_childs_tokenizer_uses_its_kernels_which_start_no_threads():
    code = """
from tinygpt.tokenizer import switch
switch._WORTH_COMPILING = 2**20  # this text is, whether or not its kernels were compiled before
gelu()
text = "the hen and the fox " * 60_000
tokenizer = Tokenizer.train("the hen and the fox and the other hen. " * 3, 270, progress=False)
def work():
    assert tokenizer.decode(tokenizer.encode(text)) == text
    print("tinygpt.tokenizer.kernels.encoder" in sys.modules)
print("tinygpt.tokenizer.kernels.encoder" in sys.modules, inside(work))
"""
    assert run(code)[0] == ["True", "False 0"]


@FORK
@pytest.mark.parametrize("pool", ["own", "numba"])
def test_after_threads_of_pytorch_a_child_uses_kernels_and_does_not_hang(pool):
    """They share one OpenMP runtime, which would wait in the child for threads that are not there."""
    pytest.importorskip("torch")
    code = """
import torch
torch.set_num_threads(2)
torch.nn.functional.gelu(torch.randn(2_000_000)).sum()
def work():
    import numba
    from tinygpt.runtime import launch
    gelu()
    own = not launch.numbas_layer
    print("tinygpt.kernels.gelu" in sys.modules, own or numba.threading_layer() != "omp" or sys.platform != "linux")
print(inside(work))
"""
    assert run(code, TINYGPT_THREAD_POOL=pool)[0] == ["True True", "0"]


POOL = """
import multiprocessing, sys
import numpy as np, tinygpt.functional as F
from tinygpt import Tensor

def work(seed):
    x = np.random.default_rng(seed).standard_normal(70_000).astype(np.float32)
    return float(F.gelu(Tensor(x)).data.sum())

def wrong(_):
    return Tensor(np.ones((3, 4))) @ Tensor(np.ones((5, 4)))

if __name__ == "__main__":
    here = [work(seed) for seed in range(6)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2, maxtasksperchild=2) as pool:
        there = pool.map_async(work, range(6)).get(timeout=200)
        try:
            pool.apply_async(wrong, (1,)).get(timeout=200)
        except ValueError as error:
            print(error)
    print(np.allclose(here, there, rtol=1e-5), here == there)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_computes_and_hands_on_errors_however_its_processes_start(method, tmp_path):
    if method != "spawn" and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    (tmp_path / "pool.py").write_text(POOL, encoding="utf-8")
    done = subprocess.run([sys.executable, str(tmp_path / "pool.py"), method], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, result = done.stdout.splitlines()
    assert message.startswith("matmul: ") and result.startswith("True")
    assert (method == "fork" and launch.numbas_layer) or result == "True True"


@pytest.mark.parametrize("layer", [{}, {"TINYGPT_THREAD_POOL": "numba"}, {"NUMBA_THREADING_LAYER": "workqueue"}])
def test_threads_that_compute_at_once_give_the_same_bits(layer):
    code = """
from tinygpt.runtime import settings
here, results = gelu(), []
def run():
    for _ in range(60):
        results.append((gelu() == here).all())
threads = [threading.Thread(target=run) for _ in range(5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(results), all(results))
"""
    assert run(code, **layer)[0] == ["300 True"]


@pytest.mark.slow
def test_training_and_generating_at_once_on_numbas_own_layer():
    """From the first launch on, which two threads make at the same time."""
    code = """
import numba
def train():
    model = GPT(GPTConfig(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=2), seed=1)
    optimizer, tokens = AdamW(model.parameters()), np.arange(64).reshape(2, 32)
    for _ in range(20):
        loss = model.loss(tokens, tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.data)
def generate():
    model = GPT(GPTConfig(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=2), seed=1)
    return [list(model.generate([1, 2], max_tokens=9, seed=seed)) for seed in range(20)]
results = {train: [], generate: []}
threads = [threading.Thread(target=lambda work=work: results[work].append(work())) for work in (train, generate) * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(numba.threading_layer(), results[train] == [train()] * 2, results[generate] == [generate()] * 2)
"""
    assert run(code, NUMBA_THREADING_LAYER="workqueue")[0] == ["workqueue True True"]
