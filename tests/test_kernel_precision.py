"""A kernel that computes in float64 is told with its lines, also when it comes out of the kernel cache."""

from __future__ import annotations

import subprocess
import sys

import pytest
from every_operation import WITH_KERNELS

from tinygpt.study.checks import check_op
from tinygpt.study.kernel_precision import float64_notes
from tinygpt.study.samples import SAMPLES, every_op

numba = pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")

OP = """
from tinygpt import Op

OP = Op("double", lambda x: (2 * x, None), lambda dout, _: (2 * dout,), kernel="doublekernel")
"""
KERNEL = """
import numpy as np
from numba import prange
from tinygpt.kernels.jit import parallel

TWO = np.float32(2)

def forward(x):
    out = np.empty_like(x)
    _forward(x.reshape(-1), out.reshape(-1))
    return out, None

def backward(dout, saved, into):
    into[0].write(TWO * dout)

@parallel
def _forward(x, out):
    for i in prange(len(x)):
        out[i] = TWO * x[i]
"""


def gradcheck(folder, kernel: str) -> str:
    (folder / "double.py").write_text(OP)
    (folder / "doublekernel.py").write_text(kernel)
    command = [sys.executable, "-m", "tinygpt", "gradcheck", "double"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout.splitlines()[-1]


def test_a_constant_without_a_type_is_noted_with_its_line_and_does_not_fail(tmp_path):
    for _ in range(2):  # the second from the cache
        note = gradcheck(tmp_path, KERNEL.replace("TWO * x[i]", "2.0 * x[i]"))
        assert note.startswith("note: doublekernel._forward computes in float64 (line 19): write constants as np.float")
    assert gradcheck(tmp_path, KERNEL) == "2 checks, all passed"


@pytest.mark.parametrize("name", sorted(WITH_KERNELS))
def test_no_kernel_of_the_package_computes_in_float64(name):
    op = every_op()[name]
    assert all(finding.passed for finding in check_op(op, SAMPLES[name][:2]))
    assert float64_notes(op) == []
