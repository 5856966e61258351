"""
Protected pages find what reads or writes past the end of an array, in every family of kernels: each program here gives
a kernel one array that is one row or number too short, and must die of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinygpt.runtime.guard import call_guarded, guarded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="mprotect is POSIX")
ROOT = Path(__file__).resolve().parents[1]
START = """
import numpy as np
from tinygpt.runtime.memory import Slot
def a(*shape):
    return np.ones(shape, np.float32)
def ids(*values):
    return np.array(values, np.int64)
F = np.float32
"""
GEMM = """
from tinygpt.kernels.matmul import gemm
gemm._check = lambda *arguments: (65, 64, 33)
"""
DECODING = """
from tinygpt.kernels import decode_step
def layer(rows=16, columns=48, positions=4):
    norm = (a(16), a(16))
    product = lambda i, o: (a(i, o), a(0), a(o))
    weights = (norm, (a(rows, columns), a(0), a(columns)), product(16, 16), norm, product(16, 64), product(64, 16))
    scratch = decode_step.scratch(1, 1, 16, 64, 2, 4, 9)
    keys, values = a(1, 2, 8, positions), a(1, 2, positions, 8)
    decode_step.layer_step(a(1, 16), weights, keys, values, ids(0), ids(3), 1e-5, scratch)
"""
TOKENIZER = """
from tinygpt.tokenizer.kernels import compiled_encoder as ce, hashing, decoder
ids256 = {bytes([b]): b for b in range(256)}
encoder = ce.CompiledEncoder(ids256 | {b"he": 256}, {(104, 101): (0, 256)}, remembered=100)
def encode(text, room):
    out, place, scratch = np.empty(room, np.uint32), np.zeros(3, np.int64), np.empty(0, np.int64)
    ce.encode_texts(text, ids(6), ids(-1), False, place, out, encoder._vocabulary, encoder._first, scratch)
"""
# What is too short, and the correct length: the same call with the latter must end well.
CASES = {
    "elementwise, read": ("from tinygpt.kernels import gelu; gelu._backward(a(N), a(100), a(100), False)", 99, 100),
    "elementwise, write": ("from tinygpt.kernels import gelu; gelu._forward(a(100), a(N))", 99, 100),
    "dropout, write": (
        "from tinygpt.kernels import dropout as d; d._apply(a(100), a(N), *d.constants(0.5, 1), False)", 99, 100),
    "addition, write": ("from tinygpt.kernels import add; add._add(a(100), a(50), a(N))", 99, 100),
    "rows, read": ("from tinygpt.kernels import layernorm as l; "
                   "l._forward(a(5, 7), a(N), a(7), F(1), a(5, 7), a(5), a(5))", 6, 7),
    "rows, write": ("from tinygpt.kernels import layernorm as l; "
                    "l._forward(a(5, 7), a(7), a(7), F(1), a(N, 7), a(5), a(5))", 4, 5),
    "sums of rows, write": ("from tinygpt.kernels import linear as l; l._sum_rows(a(5, 7), a(N, 7), a(7), False, 1)",
                            0, 1),
    "embedding, read": ("from tinygpt.kernels import embedding as e; e._look_up(a(N, 3), ids(0, 4), a(2, 3))", 4, 5),
    "embedding, write": ("from tinygpt.kernels import embedding as e; e._scatter(a(2, 3), ids(0, 4), a(N, 3))", 4, 5),
    "loss, read": ("from tinygpt.kernels import cross_entropy as c; "
                   "c._forward(a(3, 9), ids(*[0] * N), a(3), a(3), a(3))", 2, 3),
    "loss, write": ("from tinygpt.kernels import cross_entropy as c; "
                    "c._forward(a(3, 9), ids(0, 0, 0), a(3), a(3), a(N))", 2, 3),
    "head, write": ("from tinygpt.kernels import linear_cross_entropy as c; "
                    "c._softmax(a(3, 9), 9, ids(0, 0, 0), a(1), a(N), a(3), True)", 2, 3),
    "product, read along k": (GEMM + "gemm.multiply(a(65, 33), a(64, N).T, a(65, 64))", 32, 33),
    "product, read across": (GEMM + "gemm.multiply(a(65, 33), a(N, 64), a(65, 64))", 32, 33),
    "product, write": (GEMM + "gemm.multiply(a(65, 33), a(33, 64), a(N, 64))", 64, 65),
    "product, bias": (GEMM + "gemm.multiply(a(65, 33), a(33, 64), a(65, 64), bias=a(N))", 63, 64),
    "attention, read": ("from tinygpt.kernels import attention as t; x = a(1, 70, 48); o, s = t.forward(x, 2);"
                        "t.backward(a(1, N, 16), s, [Slot(a(1, 70, 48), False)])", 69, 70),
    "attention, write": ("from tinygpt.kernels import attention as t; x = a(1, 70, 48); o, s = t.forward(x, 2);"
                         "t.backward(o, s, [Slot(a(1, N, 48), False)])", 69, 70),
    "optimizer, read": ("from tinygpt.kernels import adamw; "
                        "adamw.update(a(100), a(N), a(100), a(100), 1, 0.1, (0.9, 0.9), 1e-8, 0.1)", 99, 100),
    "sgd, read": ("from tinygpt.kernels import sgd; sgd.update(a(100), a(N), a(100), 0.1, 0, 0, 0, False)", 99, 100),
    "sgd, write": ("from tinygpt.kernels import sgd; sgd.update(a(100), a(100), a(N), 0.1, 0.9, 0, 0, False)", 99, 100),
    "optimizer, write": ("from tinygpt.kernels import adamw; "
                         "adamw.update(a(100), a(100), a(N), a(100), 1, 0.1, (0.9, 0.9), 1e-8, 0.1)", 99, 100),
    "decoding, read": (DECODING + "layer(rows=N)", 15, 16),
    "decoding, write": (DECODING + "layer(positions=N)", 3, 4),
    "decoding, head": (DECODING + "decode_step._head(a(1, 16), (a(16), a(16)), (a(N, 16), a(0)), F(1), 1, a(1, 1, 16),"
                                  "a(1, 1, 64), a(1, 9))", 8, 9),
    "prompt, write": ("from tinygpt.kernels import decode_step as d; "
                      "d._append(a(1, 16, 48), a(1, 2, 8, 16), a(1, 2, N, 8), ids(0), ids(0), False)", 15, 16),
    "encoder, read": (TOKENIZER + "encode(np.frombuffer(b'hens x' + bytes(N), np.uint8).copy(), 6)", 0, 16),
    "encoder, write": (TOKENIZER + "encode(hashing.padded(b'hens x'), N)", 2, 6),
    "decoder, read": (TOKENIZER + "decoder.copy_tokens(np.zeros(1, np.uint32), np.zeros(N, np.uint8), ids(0), ids(1),"
                                  "np.empty(17, np.uint8))", 15, 16),
    "decoder, write": (TOKENIZER + "decoder.copy_tokens(np.zeros(1, np.uint32), np.zeros(16, np.uint8), ids(0), ids(1),"
                                   "np.empty(N, np.uint8))", 15, 16),
    "counting, read": ("from tinygpt.tokenizer.kernels import counting as c; w = c.WordCounts(); c.padded = lambda b: "
                       "np.frombuffer(b + bytes(N), np.uint8).copy(); c.PADDING = N; w.add([b'hen, hen'], False)",
                       0, 16),
}  # fmt: skip


def run(code: str, n: int, guard: str = "end") -> subprocess.CompletedProcess:
    environment = {**os.environ, "TINYGPT_GUARD": guard, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", f"{START}N = {n}\n{code}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_access_past_the_end_is_caught_and_the_same_call_with_whole_arrays_is_not(case):
    code, short, whole = CASES[case]
    right = run(code, whole)
    assert right.returncode == 0, right.stderr[-2000:]
    wrong = run(code, short)
    assert wrong.returncode in (-signal.SIGSEGV, -signal.SIGBUS), (wrong.returncode, wrong.stderr[-2000:])
    assert "Fatal Python error: " in wrong.stderr and 'File "<string>", line ' in wrong.stderr  # which call it was


def test_an_access_before_the_start_is_caught_where_arrays_begin_at_the_page():
    """Packing goes by address: a row before the first lies before the matrix."""
    code = """
from tinygpt.kernels.matmul.matrix import Matrix
from tinygpt.kernels.matmul.packing import pack_a
from tinygpt.kernels.simd.cpu import FLOAT32 as form
size = form.rows * form.block
pack_a(Matrix(a(size), N * form.block, form.block, form.rows, form.block, False), a(size), 0, a(1024))
"""
    assert run(code, 0, "start").returncode == 0
    assert run(code, -1, "start").returncode in (-signal.SIGSEGV, -signal.SIGBUS)


def test_what_a_function_writes_is_copied_back_and_arrays_that_share_memory_share_it_there():
    memory = np.arange(24, dtype=np.float32)
    table, part, other = memory.reshape(4, 6), memory[3:9], np.zeros(3)
    seen = []

    def function(arguments, flags):
        seen.append([array.ctypes.data for array in (*arguments, flags)])
        a, b, c = arguments
        a[0, 5] = -1
        seen.append((b[2], a.flags.c_contiguous, c.strides, flags.flags.writeable))
        c[:] = 7
        return "done"

    flags = np.zeros(2, bool)
    flags.flags.writeable = False
    assert call_guarded(function, ((table, part, other[::-1]), flags)) == "done"
    assert memory[5] == -1 and other.tolist() == [7, 7, 7]
    assert seen[1] == (-1, True, (-8,), False)
    assert seen[0][1] - seen[0][0] == 12 and seen[0][0] != table.ctypes.data


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097])
def test_guarded_memory_ends_at_a_page_and_holds_no_number(size):
    memory = guarded(size)
    assert (memory.ctypes.data + size) % os.sysconf("SC_PAGESIZE") == 0
    assert (memory == 255).all() and len(memory) == size


def test_the_pools_arrays_end_at_a_page_too():
    code = "from tinygpt.runtime.memory import empty; x = empty((3, 5)); " \
           "print((x.ctypes.data + 60) % 4096, np.isnan(x).all())"  # fmt: skip
    assert run(code, 0).stdout.split() == ["0", "True"]
