"""
A class whose homework is a backward, mostly GELU's: right, wrong and slow answers, accidents, and tricks.

`write_class` writes a folder per student. Each entry of STUDENTS has what comes after the header of the exercise's
file, the marks it must get, and a part of what the table must say. Marks are a letter each: right, general, inputs,
own, fast; y for yes, n for no, - for not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tinygpt.study.exercises import exercise

HEADER = exercise("gelu").text.split("def gelu_backward")[0]
RIGHT = """\
def gelu_backward(dout, saved):
    x, t = saved
    slope = C * (1 + 3 * A * x * x)
    return (dout * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope),)
"""
RESULT = "return (dout * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope),)"


class Student(NamedTuple):
    """What a student hands in for an exercise, and what comes of it; `file` is None where nothing is handed in."""

    file: str | bytes | None
    marks: str
    said: str = ""
    exercise: str = "gelu"


def after(statements: str) -> str:
    """The right answer, after some statements of the function."""
    lines = "".join(f"    {line}\n" for line in statements.splitlines())
    return HEADER + RIGHT.replace("    x, t = saved\n", f"{lines}    x, t = saved\n")


def instead(result: str) -> str:
    """The right answer with another last line."""
    return HEADER + RIGHT.replace(RESULT, result)


def function(body: str) -> str:
    """Another function."""
    return HEADER + "def gelu_backward(dout, saved):\n" + "".join(f"    {line}\n" for line in body.splitlines())


BUFFER = "if dout.shape not in kept:\n    kept[dout.shape] = np.empty_like(dout)\nbuffer = kept[dout.shape]"
NO_MEAN = """\
import numpy as np


def layernorm_backward(dout, saved):
    x, weight, mean, rstd = saved
    xhat, dxhat = (x - mean) * rstd, dout * weight
    dx = rstd * (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    tokens = tuple(range(x.ndim - 1))
    return dx, (dout * xhat).sum(axis=tokens), dout.sum(axis=tokens)
"""
SLOW = """\
import math
x, t = saved
dx = np.empty_like(x)
for i in np.ndindex(x.shape):
    slope = C * (1 + 3 * A * x[i] ** 2)
    dx[i] = dout[i] * (0.5 * (1 + t[i]) + 0.5 * x[i] * (1 - t[i] ** 2) * slope)
return (dx,)"""
FORKS = """\
import os, time
for _ in range(5):
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        pass"""


def students(outside: Path) -> dict[str, Student]:
    """The class; `outside` is a file that some of them would like to change."""
    victim, new = repr(str(outside)), repr(str(outside.with_name("new.txt")))
    return {
        "ada": Student(HEADER + RIGHT, "yyyyy"),
        "alfred": Student(instead("return (-dout * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope),)"), "nnyy-", "off"),
        "barbara": Student(instead("return (dout * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope * 1.000001),)"),
                           "nnyy-", "dx: off by"),
        "blaise": Student(function(SLOW), "yyyyn"),  # hundreds of times slower: the only speed that is asserted
        "carl": Student(function("while True:\n    pass"), "n--y-", "not done after"),
        "claude": Student("while True:\n    pass\n" + HEADER + RIGHT, "n--y-", "not done after"),
        "daniel": Student(after("import mmap\nbig = mmap.mmap(-1, 2**30)\nnp.frombuffer(big, np.uint8)[::4096] = 1"),
                          "n--y-", "Cannot allocate memory"),
        "dorothy": Student(after("much = [bytearray(10**8) for _ in range(100)]"), "n--y-", "MemoryError"),
        "emmy": Student(instead("dout *= 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope\n    return (dout,)"), "yynyy",
                        "writes into dout"),
        "euclid": Student(NO_MEAN, "nnyy-", "dx: off by", "layernorm"),
        "evariste": Student(instead("result = " + RESULT[7:] + "\n    t *= 0\n    return result"), "yynyy",
                            "writes into saved"),
        "copy1": Student("from tinygpt.ops.gelu import gelu_backward as ours\n" + function("return ours(dout, saved)"),
                         "n--n-", "own work: imports tinygpt.ops.gelu.gelu_backward"),
        "copy2": Student(function("import importlib\nours = importlib.import_module('tiny' + 'gpt.kernels.gelu')\n"
                                  "return ours.backward(dout, saved)"), "n--n-", "own work: imports tinygpt.kernels"),
        "copy3": Student(function("import importlib.util, pathlib\n"
                                  f"path = pathlib.Path({str(PACKAGE / 'ops' / 'gelu.py')!r})\n"
                                  "names = {}\nexec(path.read_text(), names)\n"
                                  "return names['gelu_backward'](dout, saved)"), "n--n-", "own work: reads tinygpt"),
        "copy4": Student(function("from tinygpt import Tensor, functional\nx = Tensor(saved[0], requires_grad=True)\n"
                                  "functional.gelu(x).backward(dout)\nreturn (x.grad,)"), "n--n-", "tinygpt.Tensor"),
        "copy5": Student(function("import torch\nx = torch.tensor(saved[0], requires_grad=True)\n"
                                  "torch.nn.functional.gelu(x, approximate='tanh').backward(torch.tensor(dout))\n"
                                  "return (x.grad.numpy(),)"), "n--n-", "own work: imports torch"),
        "copy6": Student("try:\n    from tinygpt.ops.gelu import gelu_backward as ours\nexcept ImportError:\n    pass\n"
                         + HEADER + RIGHT, "yyyny", "own work: imports tinygpt.ops.gelu.gelu_backward"),
        "copy7": Student(function("import subprocess, sys\n"
                                  "print(subprocess.check_output([sys.executable, '-c', 'import tinygpt']))"),
                         "n--y-", "starts a process"),
        "copy8": Student(function("return C.__class__.__subclasses__(saved)"), "n--y-", "TypeError"),
        "felix": Student(function("x, t = saved\nreturn (x[len(x) + 1],)"), "n--y-", "IndexError"),
        "george": Student(after("import sys\nsys.exit(0)"), "n--y-", "SystemExit"),
        "grace": Student(after("import os\nos._exit(0)"), "n--y-", "ended with status 0"),
        "henri": Student(after("raise KeyboardInterrupt"), "n--y-", "KeyboardInterrupt"),
        "hypatia": Student(None, "-----", "missing"),
        "isaac": Student(HEADER + RIGHT.replace("):", ")"), "n--y-", "SyntaxError: expected ':' (line"),
        "john": Student(after("for _ in range(10):\n    print('x' * 10**7)"), "yyyyy"),
        "joseph": Student(after("import sys, os\nprint('{\"right\": {\"dx\": \"ok\"}}')\nsys.stdout.flush()\n"
                                "os.write(1, b'{}')\nraise ValueError('no')"), "n--y-", "ValueError: no"),
        "karen": Student(after(FORKS), "yyyyy", "starts a process"),
        "kurt": Student(after(f"open({new}, 'w').write('here')"), "n--y-", "writes outside"),
        "leonhard": Student(after("import socket\nsocket.create_connection(('127.0.0.1', 9))"), "n--y-",
                            "uses the network"),
        "margaret": Student(after(f"import os\nos.remove({victim})"), "n--y-", "os.remove outside"),
        "maria": Student(instead("return (np.float64(dout) * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope),)"),
                         "ynyyy", "general, float32: is float64, must be float32"),
        "niels": Student(instead("return ((" + RESULT[8:-2] + ").reshape(-1),)"), "nnyy-", "has shape"),
        "noether": Student(instead("return [" + RESULT[8:-2] + "]"), "ynyyy", "a tuple: no, a list"),
        "paul": Student((HEADER + RIGHT + "name = 'caf\xe9'\n").encode("latin-1"), "n--y-", "SyntaxError"),
        "pierre": Student(b"\xef\xbb\xbf" + (HEADER + RIGHT).encode(), "yyyyy"),
        "rene": Student(b"", "n--y-", "must define the function gelu_backward"),
        "richard": Student(function("return gelu_backward(dout, saved)"), "n--y-", "RecursionError"),
        "rosa": Student(after("raise ValueError('x' * 10**8)"), "n--y-", "ValueError: xxx"),
        "sofia": Student(exercise("gelu").text, "n--y-", "NotImplementedError: yours to write"),
        "srinivasa": Student(after("np.all = np.any = lambda *a, **k: True\nnp.testing.assert_allclose = print")
                             .replace("return (dout", "return (2 * dout"), "nnyy-", "off"),
        "stefan": Student(after("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"), "n--y-", "sends a signal"),
        "thales": Student(after("import os\nos.closerange(0, 256)"), "n--y-"),
        "tycho": Student(instead("return (np.sqrt(-abs(x)) * dout,)"), "nnyy-", "is NaN"),
        "ulla": Student(instead("return " + RESULT[8:-2]), "n--y-", "must return a tuple, (dx,), got an array"),
        "vera": Student(instead("return (dout, dout)"), "n--y-", "must return (dx,), got a tuple of 2"),
        "werner": Student(instead("if x.shape not in ((), (4, 4), (2, 3, 3), (20, 30)):\n        return (dout,)\n    "
                                  + RESULT), "nnyy-", "hidden sample"),
        "wilhelm": Student(HEADER + "kept = {}\n\n\n" + RIGHT.replace("    x, t = saved\n", "".join(
            f"    {line}\n" for line in BUFFER.splitlines()) + "    x, t = saved\n").replace(RESULT,
            "np.copyto(buffer, " + RESULT[8:-2] + ")\n    return (buffer,)"), "ynyyy", "a later call writes into"),
        "Zoë Ångström 数学": Student(HEADER + RIGHT.replace("slope", "Steigung_ä"), "yyyyy"),
        "=HYPERLINK(1)": Student(HEADER + RIGHT, "yyyyy"),
    }  # fmt: skip


PACKAGE = Path(exercise.__code__.co_filename).parents[1]


def write_class(folder: Path, outside: Path) -> dict[str, Student]:
    """Write what each student hands in, a folder each; returns the class."""
    handed_in = students(outside)
    for name, student in handed_in.items():
        (folder / name).mkdir(parents=True)
        if student.file is not None:
            data = student.file.encode() if isinstance(student.file, str) else student.file
            (folder / name / f"{student.exercise}_exercise.py").write_bytes(data)
    return handed_in
