"""Ctrl-C, once and twice, wherever it comes: one line or none, never a traceback, and always an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows sends Ctrl-C in another way")

# The command `tinygpt doctor` with another body.
PROGRAM = """
import atexit, os, signal, sys, time
from tinygpt.cli import doctor, main

def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # the handler runs between two instructions of Python

def command(options):
BODY
    return 0

doctor.run = command
sys.argv = ["tinygpt", "doctor"]
sys.exit(main())
"""


def run(body: str, **options) -> subprocess.CompletedProcess:
    program = PROGRAM.replace("BODY", "\n".join("    " + line for line in body.strip().splitlines()))
    return subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=120, **options)  # fmt: skip


def test_the_first_unwinds_and_gives_one_line():
    done = run("try:\n    ctrl_c()\nfinally:\n    print('tidied up')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "tidied up\n", "tinygpt: interrupted\n")


def test_the_second_ends_the_process_while_the_first_tidies_up():
    done = run("try:\n    ctrl_c()\nfinally:\n    ctrl_c()\n    time.sleep(60)")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_one_that_rises_where_python_ignores_exceptions_is_not_lost():
    done = run("class Left:\n    def __del__(self):\n        ctrl_c()\nprint('out')\nLeft()\ntime.sleep(60)")
    assert (done.returncode, done.stdout, done.stderr) == (130, "out\n", "tinygpt: interrupted\n")


@pytest.mark.parametrize("taken_for", ["ImportError('numpy.core.multiarray failed to import')", "SystemError()"])
def test_one_during_an_import_is_not_taken_for_another_error(taken_for, tmp_path):
    (tmp_path / "slow.py").write_text(
        f"import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
        f"except BaseException:\n    raise {taken_for} from None\n",
        encoding="utf-8",
    )
    done = run(f"sys.path.insert(0, {str(tmp_path)!r})\nimport slow")
    assert (done.returncode, done.stderr) == (130, "tinygpt: interrupted\n")


def test_one_while_the_interpreter_shuts_down_is_silent():
    done = run("atexit.register(lambda: (print('last', flush=True), ctrl_c(), time.sleep(60)))")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "last\n", "")


def test_a_command_started_with_ctrl_c_ignored_ignores_it():
    """As the shell starts what runs in the background."""
    done = run("ctrl_c()\nprint('done')", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_nobody_reads_the_line():
    done = run("sys.stderr.close()\nctrl_c()")
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("after", "between"),
    [(0.0, 0.0), (0.2, 0.05), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.7, 0), (1.3, 0.4)))],
)
def test_two_while_kernels_are_compiled(after, between, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    process = subprocess.Popen([sys.executable, "-m", "tinygpt", "warmup", "--quiet"], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    first = process.stderr.readline()
    assert first.startswith("tinygpt: compiling")
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    time.sleep(between)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) in ((130, "tinygpt: interrupted\n"), (-signal.SIGINT, "tinygpt: interrupted\n"),
                                         (-signal.SIGINT, ""))  # fmt: skip
    assert out == ""


def test_starting_as_a_module_is_silent_from_the_first_import_on():
    program = "import os, runpy, signal, sys\nclass Finder:\n    def find_spec(self, name, *rest):\n        " \
              "if name == 'tinygpt.cli.main':\n            os.kill(os.getpid(), signal.SIGINT)\n" \
              "sys.meta_path.insert(0, Finder())\nrunpy.run_module('tinygpt', run_name='__main__')"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
