"""The settings: which implementation runs, in which thread, and that both ways of looking for mistakes find them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinygpt import Op, Tensor, apply, implementation
from tinygpt.runtime import settings
from tinygpt.runtime.settings import current_implementation


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the environment is read at import."""
    home = Path(settings.__file__).parents[2]
    command, environment = [sys.executable, "-c", program], {**os.environ, **environment}
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120)


def forward(x, offset=0.0):
    return 2 * x + offset, (x, "reference")


def backward(dout, saved):
    assert saved[1] == "reference"  # each implementation gets what it saved itself
    return (2 * dout,)


def doubling(calls=None, out=lambda x: 2 * x, dx=lambda dout: 2 * dout) -> Op:
    """x -> 2 x with a kernel that notes its calls in `calls`, and may be wrong."""
    calls = [] if calls is None else calls

    def kernel_forward(x, offset=0.0):
        calls.append("forward")
        return out(x) + np.asarray(offset, x.dtype), "kernel's own"

    def kernel_backward(dout, saved, into):
        assert saved == "kernel's own"
        calls.append("backward")
        into[0].write(dx(dout))

    return Op("doubling", forward, backward, SimpleNamespace(forward=kernel_forward, backward=kernel_backward))


# choosing


@pytest.fixture(autouse=True)
def default_implementation():
    """Whatever the tests as a whole run with."""
    with implementation("kernels"):
        yield


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("kernels", ["forward", "backward"]),
        ("numpy", []),
        ("check", ["forward", "forward", "backward", "backward"]),  # twice: is the second result the first?
    ],
)
def test_the_chosen_implementation_runs_and_gives_the_gradient(name, calls):
    seen, x = [], Tensor([1.0, 3.0], requires_grad=True)
    with implementation(name):
        out = apply(doubling(seen), x, offset=1.0)
        out.sum().backward()
    np.testing.assert_array_equal(out.data, [3, 7])
    np.testing.assert_array_equal(x.grad, [2, 2])
    assert seen == calls


@pytest.mark.parametrize("name", settings.IMPLEMENTATIONS)
def test_an_op_without_a_kernel_runs_everywhere(name):
    x = Tensor([1.0, 3.0], requires_grad=True)
    with implementation(name):
        apply(Op("doubling", forward, backward), x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2, 2])


@pytest.mark.parametrize(("before", "after"), [("kernels", "numpy"), ("numpy", "kernels"), ("check", "numpy")])
def test_backward_belongs_to_the_forward_that_saved_for_it(before, after):
    seen, x = [], Tensor([1.0, 3.0], requires_grad=True)
    with implementation(before):
        out = apply(doubling(seen), x)
    with implementation(after):
        out.sum().backward()  # the other implementation could not read these saved arrays
    np.testing.assert_array_equal(x.grad, [2, 2])
    assert list(dict.fromkeys(seen)) == ([] if before == "numpy" else ["forward", "backward"])


def test_implementation_nests_and_returns_to_what_was_also_after_an_error():
    with implementation("numpy"):
        with implementation("check"):
            assert current_implementation() == "check"
        assert current_implementation() == "numpy"
        with pytest.raises(KeyError), implementation("kernels"):
            raise KeyError
        assert current_implementation() == "numpy"
    assert current_implementation() == "kernels"


def test_implementation_holds_for_its_own_thread_only():
    inside, seen = threading.Barrier(2), []

    def other():
        with implementation("check"):
            inside.wait(10)
            inside.wait(10)
            seen.append(current_implementation())

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with implementation("numpy"):
        inside.wait(10)
        thread.join()
        assert current_implementation() == "numpy"
    assert seen == ["check"]


def test_a_wrong_name_lists_the_right_ones():
    message = r"implementation: must be one of kernels, numpy, check, got 'fast'"
    with pytest.raises(ValueError, match=message), implementation("fast"):
        pass
    assert current_implementation() == "kernels"


@pytest.mark.parametrize("name", settings.IMPLEMENTATIONS)
def test_the_environment_chooses_for_every_thread(name):
    program = """
import threading
from tinygpt.runtime.settings import current_implementation
show = lambda: print(current_implementation())
show()
thread = threading.Thread(target=show); thread.start(); thread.join()
"""
    assert run_python(program, TINYGPT_IMPLEMENTATION=name).stdout.split() == [name, name]


@pytest.mark.parametrize(
    ("variable", "known", "given"),
    [
        ("TINYGPT_IMPLEMENTATION", "kernels, numpy, check", "fast"),
        ("TINYGPT_GUARD", "end, start", "1"),
        ("TINYGPT_GUARD", "end, start", "End"),
        ("TINYGPT_DEBUG", "0, 1", "yes"),
    ],
)
def test_a_wrong_value_in_the_environment_is_an_error_of_one_line(variable, known, given):
    result = run_python("from tinygpt.cli.main import main; raise SystemExit(main(['doctor']))", **{variable: given})
    assert result.returncode == 2
    assert result.stderr == f"tinygpt: doctor: {variable}: must be one of {known}, got {given!r}\n"


# checking


def off_by(relative):
    """Doubles, with one element wrong by this share of the largest."""

    def wrong(x):
        out = 2 * x
        out.flat[1] += out.dtype.type(relative) * np.abs(out[np.isfinite(out)]).max()
        return out

    return wrong


def nan_for_first(x):
    return np.where(np.arange(x.size) == 0, x.dtype.type(np.nan), 2 * x)


WRONG = {
    "1 % off": off_by(0.01),
    "NaN": nan_for_first,
    "zero": np.zeros_like,
    "another shape": lambda x: (2 * x)[:, None],
    "another shape that would broadcast": lambda x: (2 * x)[None],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_check_names_the_op_and_the_direction_that_disagree(wrong, dtype):
    x = Tensor(np.array([1, 2, 3], dtype), requires_grad=True)
    with implementation("check"):
        with pytest.raises(ValueError, match=r"^doubling\.forward: .*kernel"):
            apply(doubling(out=wrong), x)
        if wrong(x.data).shape != x.shape:
            return  # a kernel's backward writes into memory of the right shape, always
        out = apply(doubling(dx=wrong), x)
        with pytest.raises(ValueError, match=r"^doubling\.backward: .*kernel"):
            out.sum().backward()
    assert x.grad is None


@pytest.mark.parametrize(("dtype", "relative"), [(np.float32, 1e-4), (np.float64, 1e-10)])
@pytest.mark.parametrize("special", [1.0, np.inf, -np.inf, np.nan])
def test_check_allows_rounding_and_no_more_whatever_else_is_in_the_array(dtype, relative, special):
    """A kernel may sum in another order: some units in the last place of the largest element (1e-7, 1e-16) are fine."""
    x = Tensor(np.array([special, 2, 3], dtype))
    with implementation("check"), np.errstate(invalid="ignore"):
        apply(doubling(out=off_by(relative / 2)), x)
        with pytest.raises(ValueError, match=r"doubling\.forward: kernel and reference disagree on result 0 by"):
            apply(doubling(out=off_by(relative * 2)), x)


def test_check_accepts_zeros_and_empty_arrays():
    for size in (0, 1, 3):
        with implementation("check"):
            assert apply(doubling(), Tensor(np.zeros(size))).shape == (size,)


# debugging


@pytest.mark.parametrize(("value", "finds"), [("1", True), ("0", False), ("", False)])
def test_the_environment_switches_debugging_on(value, finds):
    """An edit of one element of many: the sample of the elements that is compared otherwise does not have it."""
    program = (
        "import numpy as np; from tinygpt import Tensor; x = Tensor(np.ones(1000), requires_grad=True);"
        "y = (x * x).sum(); x.data[1] = 2; y.backward()"
    )
    result = run_python(program, TINYGPT_DEBUG=value)
    assert ("RuntimeError: mul.backward: has saved an array" in result.stderr) == finds == bool(result.returncode)


# threads


@pytest.mark.parametrize("count", [0, -1, 10**9, 10**40, settings.max_threads() + 1, True, 2.0, "2", None])
def test_numbers_of_threads_beyond_reason_are_refused_and_change_nothing(count):
    before = settings.num_threads()
    with pytest.raises(ValueError, match=r"set_num_threads: must be an integer of at least 1 and at most \d+, got "):
        settings.set_num_threads(count)
    assert settings.num_threads() == before


def test_the_bound_leaves_room_for_any_machine():
    assert settings.max_threads() >= max(64, 4 * os.cpu_count())
    before = settings.num_threads()
    for count in (1, 4, settings.max_threads()):
        settings.set_num_threads(count)
        assert settings.num_threads() == count
    settings.set_num_threads(before)


COMPUTE = """
import numpy as np, tinygpt.functional as F
from tinygpt import Tensor
print(F.gelu(Tensor(np.ones(9, np.float32))).shape)
"""


@pytest.mark.parametrize("value", ["100000", "abc", "-3", "0", "1e3", "9" * 5000])
def test_a_variable_beyond_reason_is_one_error_before_any_thread_starts(value):
    result = run_python(COMPUTE, NUMBA_NUM_THREADS=value)
    assert result.returncode == 1 and result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: NUMBA_NUM_THREADS: must be an integer of at least 1 and at most ")
    assert len(last) < 300


@pytest.mark.parametrize("value", ["", " ", "1", " 3 ", "+2"])
def test_a_variable_that_makes_sense_or_is_empty_is_taken(value):
    result = run_python(COMPUTE, NUMBA_NUM_THREADS=value)
    assert result.returncode == 0 and result.stdout == "(9,)\n"
    assert all(line.startswith("tinygpt: compiling") for line in result.stderr.splitlines()), result.stderr


@pytest.mark.parametrize(
    ("arguments", "variable", "says"),
    [
        (["--threads", "100000"], None, "--threads: must be an integer of at least 1 and at most "),
        (["--threads", "1" * 40], None, "--threads must be below 2**32, got 1111"),
        *(
            ([], value, "NUMBA_NUM_THREADS: must be an integer of at least 1 and at most ")
            for value in ("abc", "-3", "0")
        ),
    ],
)
def test_a_command_refuses_them_in_one_line(arguments, variable, says, tmp_path):
    environment = {**os.environ, **({"NUMBA_NUM_THREADS": variable} if variable else {})}
    command = [sys.executable, "-m", "tinygpt", "train", "--out", str(tmp_path / "run"), *arguments]
    home = Path(settings.__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"tinygpt: train: {says}")
    assert not (tmp_path / "run").exists()
