"""
Grade a submission: call its function on many samples, and compare with the reference.

    right      each gradient is the reference's in float64, which agrees with finite differences of the forward, on the
               samples of the gradient check and on hidden ones; for optimizers and merges, the reference's results
    general    float32 gives float32; arrays in another memory order, and a second call, give the same; a tuple of
               gradients is returned
    inputs     no argument is changed
    own        the file has not reached for the package's solution, or for a library that computes gradients
    fast       the reference's time on a large sample as a percentage of the function's: 100 is as fast. Both are NumPy
               on one thread, in processes of one kind; it is their processor time that counts. After a call to warm up,
               five calls each, one side after the other; medians. Each call has numbers of its own, and its result is
               compared, so that nothing is gained by keeping what an earlier call has found. A function that is
               stopped after two seconds has at most this speed

The function runs in a process of its own (`submission.py`) and gets arguments; all comparisons and clocks are here.
"""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.gradient_check import numeric_gradient
from tinygpt.autograd.rounding import largest, relative_gap
from tinygpt.study.checks import farthest, input_names
from tinygpt.study.exercises import OPERATIONS, UPDATES, exercise, solution
from tinygpt.study.graded_samples import HIDDEN_SAMPLES, hidden_samples, large_sample
from tinygpt.study.samples import SAMPLES, Sample, every_op
from tinygpt.study.submission import Limits, Stopped, Submission, TooLong, source_of
from tinygpt.study.submission_process import Other
from tinygpt.tokenizer.reference import merge

# Shares of the largest derivative. The exact ones are two float64 computations of one formula; differences have a step
# of 1e-6, whose truncation and rounding are far below 1e-6; float32 rounds each operation by 6e-8.
EXACT, DIFFERENCES, FLOAT32, LARGE = 1e-9, 1e-6, 1e-3, 1e-2
FAST = 20.0  # per cent of the reference's speed. A loop over elements has less than 1; plain array code 20 to 100
TURNS = 5  # timed calls
SPEED_SECONDS = 2.0  # for all calls on the large sample: what is clearly slow need not be measured to the end
_UNLIMITED = Limits(seconds=1e6, megabytes=2**14)  # the reference
_STEP = 1e-6
_FLOOR = 1e-3  # derivatives below it count as zero


class Case(NamedTuple):
    """
    One call of the function, and what must come of it.

    Attributes
    ----------
    mark : str
        "right", or the mark of "general" that it is for.
    label : str
        What a finding calls it.
    args : tuple
    expected : list of (str, array, float)
        For each result its name, its value and the bound of its error.
    in_place : bool
        The results are the arguments of these names, after the call.
    """

    mark: str
    label: str
    args: tuple[Any, ...]
    expected: list[tuple[str, Any, float]]
    in_place: bool = False


class Key(NamedTuple):
    """
    All that an exercise is graded by: the answer key.

    Attributes
    ----------
    arguments : tuple of str
        Their names.
    cases : list of Case
    large : list of tuple
        The arguments of one timed call each; none if the exercise is not timed.
    """

    arguments: tuple[str, ...]
    cases: list[Case]
    large: list[tuple[Any, ...]]


class Grader:
    """
    Grades files, one after the other, with the same samples.

    Parameters
    ----------
    seed : int
        Of the hidden samples.
    limits : Limits, optional
        For each file.
    timed : bool
        Whether to measure the speed.
    fast_from : float
        The speed from which a function counts as fast, in per cent of the reference's.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Grader(seed=1) as grader:
    ...     file = Path(folder, "neg_exercise").with_suffix(".py")
    ...     _ = file.write_text("def neg_backward(dout, saved):\\n    return (-dout,)\\n")
    ...     grader.grade(file, "neg")["right"]
    {'da': 'ok'}
    """

    def __init__(
        self, seed: int = 1, limits: Limits | None = None, timed: bool = True, fast_from: float = FAST
    ) -> None:
        self.seed, self.limits, self.timed, self.fast_from = seed, limits or Limits(), timed, fast_from
        self._keys: dict[str, Key] = {}
        self._references: dict[str, Submission] = {}
        self.memory_is_limited = True

    def grade(self, path: Path, name: str) -> dict[str, Any]:
        """
        The grade of a file for an exercise.

        Returns
        -------
        dict
            `right` and `general` are dicts from what was looked at to "ok" or a finding, `inputs` and `own` are "ok" or
            a finding, `fast` is a percentage, or None if it was not measured; `problem` is the reason if it could not
            be graded, `refused` is what it tried and may not do; `seed` and `fast_from` are the grader's.
        """
        result = self.empty(name)
        given = exercise(name)
        submission = None
        try:
            source = source_of(path)
            submission = Submission(source, given.asked, given.modules, self.limits, path.name)
            self.memory_is_limited &= submission.limited
            submission.load()
            self._compare(submission, name, result)
            if self.timed and all(mark == "ok" for mark in result["right"].values()):
                self._time(submission, name, result)
        except Stopped as stopped:
            result["problem"] = str(stopped)
        finally:
            if submission is not None:
                submission.close()
                result["refused"] = list(submission.refused)
                result["own"] = submission.copied[0] if submission.copied else "ok"
        return result

    def empty(self, name: str) -> dict[str, Any]:
        """A grade without marks."""
        return {"exercise": name, "right": {}, "general": {}, "inputs": "", "own": "", "fast": None, "problem": "",
                "refused": [], "seed": self.seed, "fast_from": self.fast_from}  # fmt: skip

    def key(self, name: str) -> Key:
        """The answer key of an exercise."""
        if name not in self._keys:
            make = _update_key if name in UPDATES else _merge_key if name == "bpe_merge" else _operation_key
            self._keys[name] = make(name, self.seed)
        return self._keys[name]

    def _compare(self, submission: Submission, name: str, result: dict[str, Any]) -> None:
        key = self.key(name)
        first, later, args, errors = submission.call([case.args for case in key.cases])
        right: dict[str, str] = {}
        general: dict[str, str] = {}
        for number, (case, returned) in enumerate(zip(key.cases, first, strict=True)):
            failed = errors.get(number, "")
            error, results = (failed, []) if failed else _results(case, key, returned, args[number])
            if error and case.mark == "right":
                raise Stopped(f"{error}, at {case.label}")
            if error:
                general[case.mark] = f"{error}, at {case.label}"
                continue
            for (result_name, expected, bound), value in zip(case.expected, results, strict=True):
                marks, mark = (right, result_name) if case.mark == "right" else (general, case.mark)
                if marks.setdefault(mark, "ok") == "ok":
                    marks[mark] = _finding(value, expected, bound, case.label)
            if isinstance(returned, list) and name in OPERATIONS:
                general["a tuple"] = "no, a list"
            if not case.in_place and not _same(returned, later[number]):
                general["called again"] = "returns memory that a later call writes into"
        written = [name for case, after in zip(key.cases, args, strict=True) for name in _written(case, key, after)]
        result.update(right=right, general=general, inputs=f"writes into {written[0]}" if written else "ok")

    def _time(self, submission: Submission, name: str, result: dict[str, Any]) -> None:
        key = self.key(name)
        if not key.large:
            return
        if name not in self._references:
            text = solution(name).encode()
            self._references[name] = Submission(text, exercise(name).asked, {}, _UNLIMITED)
            self._references[name].load()
        reference = self._references[name]
        times: list[tuple[float, float]] = []
        left = SPEED_SECONDS
        for args in key.large:
            reference.hold(args)
            ours = reference.run()
            expected = reference.fetch()
            try:
                submission.hold(args)
                theirs = submission.run(left)
                if result["inputs"] == "ok" and not _agrees(submission.fetch(), expected):
                    raise Stopped("another result than the reference's")
            except TooLong:
                times.append((ours, left))
                break
            except Stopped as stopped:
                result["general"]["a large sample"] = str(stopped)
                result["fast"] = 0.0
                return
            times.append((ours, theirs))
            left -= theirs
            if left <= 0:
                break
        counted = times[1:] or times  # the first call warms up
        ours, theirs = (statistics.median(side) for side in zip(*counted, strict=True))
        result["fast"] = round(100 * ours / theirs, 1)

    def close(self) -> None:
        """End the processes of the reference."""
        while self._references:
            self._references.popitem()[1].close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _results(case: Case, key: Key, returned: Any, args_after: Any) -> tuple[str, list[Any]]:
    """What is to be compared with `case.expected`, after the reason why it cannot be, if there is one."""
    names = [name for name, *_ in case.expected]
    if case.in_place:
        after = dict(zip(key.arguments, args_after, strict=True))
        return "", [after[name] for name in names]
    if names == ["merges"]:
        return "", [returned]
    wanted = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    if not isinstance(returned, (tuple, list)):
        return f"must return a tuple, {wanted}, got {_described(returned)}", []
    if len(returned) != len(names):
        return f"must return {wanted}, got a {type(returned).__name__} of {len(returned)}", []
    return "", list(returned)


def _written(case: Case, key: Key, args_after: Any) -> list[str]:
    """The arguments that the call has changed and may not."""
    allowed = {name for name, *_ in case.expected} if case.in_place else set()
    found = zip(key.arguments, case.args, args_after, strict=True)
    return [name for name, before, now in found if name not in allowed and not _same(before, now)]


def _described(value: Any) -> str:
    if isinstance(value, Other):
        return f"{'an' if value.name[:1] in 'aeiou' else 'a'} {value.name}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"


def _finding(value: Any, expected: Any, bound: float, label: str) -> str:
    """ "ok", or in which way a result is not the one expected."""
    if not isinstance(expected, np.ndarray):
        if type(value) is not type(expected):
            return f"must be a {type(expected).__name__}, got {_described(value)}"
        if value == expected:
            return "ok"
        hidden = label.startswith("hidden")  # then the answer is not told
        return f"is wrong at {label}" if hidden else f"must become {expected}, got {str(value)[:80]}, at {label}"
    if isinstance(value, (bool, int, float, np.generic)):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":  # also one too large to be sent
        return f"must be an array of {expected.dtype}, got {_described(value)}, at {label}"
    if value.shape != expected.shape:
        return f"has shape {value.shape}, must have {expected.shape}, at {label}"
    if np.isnan(value).any():
        return f"is NaN at {label}, index {tuple(map(int, np.argwhere(np.isnan(value))[0]))}"
    error, place = farthest(value, expected, _FLOOR)
    if not error <= bound:
        return f"off by {error:.1e} at {label}, {place}"
    if bound == FLOAT32 and value.dtype != expected.dtype:
        return f"is {value.dtype}, must be {expected.dtype}, at {label}"
    return "ok"


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal, bit by bit."""
    if isinstance(a, (np.ndarray, np.generic)):
        same_kind = isinstance(b, (np.ndarray, np.generic)) and (a.shape, a.dtype) == (b.shape, b.dtype)
        return same_kind and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, slice):
        return isinstance(b, slice) and _same([a.start, a.stop, a.step], [b.start, b.stop, b.step])
    return a is b or bool(np.all(a == b)) or a != a


def _agrees(found: Any, expected: Any) -> bool:
    """Whether the results and the arguments after a call are the reference's, but for rounding in float32."""
    if isinstance(expected, (np.ndarray, np.generic)):
        array = np.asarray(found) if isinstance(found, (np.ndarray, np.generic, float)) else None
        if array is None or array.shape != expected.shape or array.dtype.kind != expected.dtype.kind:
            return False
        if array.dtype.kind != "f":
            return bool(np.array_equal(array, expected))
        return bool(np.all(relative_gap(array, expected, 1e-30) <= LARGE))
    if isinstance(expected, (tuple, list)):
        return isinstance(found, (tuple, list)) and len(found) == len(expected) and all(map(_agrees, found, expected))
    return _same(expected, found)


def _operation_key(name: str, seed: int) -> Key:
    op = every_op()[name]
    rng = np.random.default_rng([seed, 4])
    known = [("a sample", sample) for sample in SAMPLES[name]]
    hidden = [("a hidden sample", sample) for sample in hidden_samples(name, seed)]
    cases = []
    for label, sample in [*known, *hidden]:
        mark = "right" if any(array.ndim for array in sample.arrays) else "a single number"
        cases.append(_operation_case(op, sample, label, rng, mark, differences=True))
    for label, sample in (known[-1], hidden[0]):
        cases.append(_operation_case(op, sample, label, rng, "float32", np.float32))
    label, sample = max(hidden, key=lambda each: each[1].arrays[0].ndim)
    case = _operation_case(op, sample, label, rng, "memory order")
    cases.append(case._replace(args=_in_fortran_order(case.args)))
    cases += [_operation_case(op, sample, label, rng, "called again") for _ in range(2)]
    large = [large_sample(name, seed, turn) for turn in range(TURNS + 1)]
    return Key(("dout", "saved"), cases, [_large_arguments(op, sample, rng) for sample in large if sample is not None])


def _operation_case(op: Any, sample: Sample, label: str, rng: np.random.Generator, mark: str,
                    dtype: Any = np.float64, differences: bool = False) -> Case:  # fmt: skip
    arrays = [np.array(array, dtype) for array in sample.arrays]
    attrs = op.checked(arrays, sample.attrs)
    out, saved = op.forward(*arrays, **attrs)
    dout = np.array(rng.standard_normal(np.shape(out)), np.asarray(out).dtype)
    gradients = [np.array(gradient) for gradient in op.backward(dout, saved)]
    label = f"{label} with dout of shape {dout.shape}"
    names = [f"d{name}" for name in input_names(op, len(arrays))]
    bound = EXACT if dtype == np.float64 else FLOAT32
    expected = list(zip(names, gradients, [bound] * len(names), strict=True))
    if differences:

        def loss() -> float:
            return float(np.sum(op.forward(*arrays, **attrs)[0] * dout))

        numeric = [numeric_gradient(loss, array, _STEP) for array in arrays]
        for gradient, number, differs_at in zip(gradients, numeric, names, strict=True):
            if not np.all(relative_gap(gradient, number, max(_FLOOR, 1e-3 * largest(dout))) <= DIFFERENCES):
                raise AssertionError(
                    f"{op.name}: the reference's {differs_at} differs from finite differences, {label}"
                )
    return Case(mark, label, (dout, saved), expected)


def _in_fortran_order(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.asarray(value, order="F")  # asfortranarray would add an axis to a number
    return tuple(map(_in_fortran_order, value)) if type(value) is tuple else value


def _large_arguments(op: Any, sample: Sample, rng: np.random.Generator) -> tuple[Any, ...]:
    out, saved = op.forward(*sample.arrays, **op.checked(sample.arrays, sample.attrs))
    return rng.standard_normal(np.shape(out)).astype(np.asarray(out).dtype), saved


def _update_key(name: str, seed: int) -> Key:
    """The steps of an optimizer: what its state is called, and options that a range of numbers is drawn for."""
    update, rng = UPDATES[name], np.random.default_rng([seed, 5])
    names = tuple(inspect.signature(update).parameters)[:-1]  # but scale
    changed = ("parameter", "buffer") if name == "sgd" else ("parameter", "m", "v")
    sampled: list[tuple[Any, ...]] = [(0.1, (0.9, 0.95), 1e-8, 0.1), (0.01, (0.8, 0.99), 1e-6, 0.3)]
    if name == "sgd":
        sampled = [(0.1, 0.9, 0.2, 0.1, False), (0.01, 0.8, 0.0, 0.3, True)]
    cases = []
    plans: list[tuple[str, tuple[int, ...], tuple[Any, ...], str, Any]] = [
        ("a sample", (4, 3), sampled[0], "right", np.float64),
        ("a sample", (5,), sampled[1], "float32", np.float32),
    ]
    for number in range(HIDDEN_SAMPLES):
        lr, beta1, beta2, eps, decay = rng.uniform([0.01, 0.5, 0.8, 1e-8, 0.0], [0.3, 0.95, 0.999, 1e-3, 0.5]).tolist()
        shape = tuple(rng.integers(1, 5, rng.integers(1, 4)).tolist())
        options: tuple[Any, ...] = (lr, (beta1, beta2), eps, decay)
        if name == "sgd":  # with Nesterov's momentum, with dampening, without momentum
            options = (lr, beta1 * (number % 3 < 2), beta2 * (number % 3 == 1), decay, number % 3 == 0)
        plans.append((f"hidden sample {number}", shape, options, "right", np.float64))
    for label, shape, options, mark, dtype in plans:
        state = [rng.standard_normal(shape).astype(dtype), *(np.zeros(shape, dtype) for _ in changed[1:])]
        for step in range(1, 6):
            gradient = rng.standard_normal(shape).astype(dtype)
            before = [array.copy() for array in state]
            args = (before[0], gradient, *before[1:], *_options_of_step(name, step, options))
            update(state[0], gradient, *state[1:], *_options_of_step(name, step, options))
            bound = EXACT if dtype == np.float64 else FLOAT32
            results = [(each, array.copy(), bound) for each, array in zip(changed, state, strict=True)]
            cases.append(Case(mark, f"{label}, step {step}", args, results, in_place=True))
    large = []
    for _ in range(TURNS + 1):
        arrays = [rng.standard_normal(2**20).astype(np.float32) for _ in range(len(changed) + 1)]
        large.append((*arrays[:-1], np.abs(arrays[-1]), *_options_of_step(name, 3, sampled[0])))
    return Key(names, cases, large)


def _options_of_step(name: str, step: int, options: tuple[Any, ...]) -> tuple[Any, ...]:
    """Adam counts its steps; the dampening of SGD begins with the second."""
    if name != "sgd":
        return (step, *options)
    return options if step > 1 else (*options[:2], 0.0, *options[3:])


def _merge_key(name: str, seed: int) -> Key:
    fixed = {(0, 1): (1, 5), (1, 1): (0, 6), (5, 2): (2, 7), (6, 6): (3, 8), (7, 0): (4, 9)}
    cases = [_merge_case("short words", f"the word {ids}", ids, fixed) for ids in ([], [1], [1, 1])]
    rng = np.random.default_rng(2)
    for number in range(200):
        cases.append(_merge_case("right", f"word {number}", _word(rng, 12), fixed))
    rng = np.random.default_rng([seed, 6])
    for number in range(100):
        cases.append(_merge_case("right", f"hidden word {number}", _word(rng, 16), _random_merges(rng)))
    merges = _random_merges(rng, 60)
    return Key(("ids", "merges"), cases, [(_word(rng, 800, 700), merges) for _ in range(TURNS + 1)])


def _merge_case(mark: str, label: str, ids: list[int], merges: dict[Any, Any]) -> Case:
    return Case(mark, label, (ids, merges), [("merges", merge(ids, merges), 0.0)])


def _word(rng: np.random.Generator, below: int, least: int = 0) -> list[int]:
    return rng.integers(0, 3, rng.integers(least, below)).tolist()


def _random_merges(rng: np.random.Generator, count: int = 8) -> dict[Any, Any]:
    """Pairs of known ids in a random order of learning: a later token may be part of an earlier pair."""
    merges: dict[Any, Any] = {}
    ranks: Sequence[int] = rng.permutation(count).tolist()
    while len(merges) < count:
        pair = tuple(rng.integers(0, 3 + len(merges), 2).tolist())
        if pair not in merges:
            merges[pair] = (ranks[len(merges)], 3 + len(merges))
    return merges
