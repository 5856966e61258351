"""
Grade a class: find the submissions, one folder per student or all in one folder, and put their grades into a table.

Each row is a student and an exercise. Points are for a right answer only: for `right` itself, and then for each of
`general`, `inputs`, `own` and `fast` that holds. `grade.py` says what these mean.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.files.one_line import columns, one_line
from tinygpt.study.exercises import ORDER, exercise
from tinygpt.study.grade import Grader
from tinygpt.study.submission import Stopped, source_of

POINTS = {"right": 6, "general": 1, "inputs": 1, "own": 1, "fast": 1}
_FUNCTION = re.compile(r"^(?:async +)?(?:def +)?(\w+)(?= *[(=])", re.MULTILINE)
_WIDTH = 80


class Task(NamedTuple):
    """
    What is to be graded.

    Attributes
    ----------
    student : str
        The name of the folder; of the file, if all are in one folder. Where several paths were given, the name of the
        folder above precedes it, ``2026/ada``, so that no two are taken for one.
    path : Path or None
        None if there is no file.
    exercise : str
        "" if it is unknown.
    problem : str
        Why it cannot be graded; "" if it can.
    """

    student: str
    path: Path | None
    exercise: str
    problem: str = ""


def find(paths: Sequence[Path], wanted: Sequence[str] = ()) -> list[Task]:
    """
    The submissions in files and folders.

    Parameters
    ----------
    paths : sequence of Path
        Files; folders of files; folders with a folder per student.
    wanted : sequence of str
        Exercises: others are left out, and a student without one is a task with a problem. All if empty.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or nothing to grade in a folder.
    ValueError
        If there is no such exercise.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "ada").mkdir()
    ...     (Path(folder) / "emmy").mkdir()
    ...     file = Path(folder, "ada", "gelu_exercise").with_suffix(".py")
    ...     _ = file.write_text(exercise("gelu").text)
    ...     [(task.student, task.exercise, task.problem) for task in find([Path(folder)], ["gelu"])]
    [('ada', 'gelu', ''), ('emmy', 'gelu', 'missing: no file for gelu in the folder')]
    """
    for name in wanted:
        exercise(name)
    tasks: list[Task] = []
    for path in paths:
        files = sorted(filter(Path.is_file, path.glob("*.py"))) if path.is_dir() else [path] if path.is_file() else []
        folders = sorted(each for each in path.iterdir() if _visible(each, path)) if path.is_dir() else []
        if folders and not any(exercises_in(file) for file in files):
            found = [task for folder in folders for task in _of_student(folder, wanted)]
        else:
            root = path if path.is_dir() else path.resolve().parent
            found = [task for file in files for task in _of_file(file.name, file, wanted, root)]
        if not any(task.path for task in found):
            what = f"a file for {' or '.join(wanted)}" if wanted and files else "a .py file or a folder with some"
            raise FileNotFoundError(f"exercise: {path} must be {what}; check the name")
        above = (path if path.is_dir() else path.parent).resolve().name if len(paths) > 1 else ""
        tasks += [task._replace(student=f"{above}/{task.student}") if above else task for task in found]
    return tasks


def _visible(path: Path, root: Path) -> bool:
    """Whether a folder may be a student's: not `.git`, `__pycache__`, `__MACOSX`."""
    return path.is_dir() and not any(part.startswith((".", "__")) for part in path.relative_to(root).parts)


def _of_student(folder: Path, wanted: Sequence[str]) -> Iterator[Task]:
    below = (file for depth in range(3) for file in folder.glob("*/" * depth + "*.py"))
    files = sorted(file for file in below if file.is_file() and _visible(file.parent, folder))
    found = [task for file in files if exercises_in(file) for task in _of_file(folder.name, file, wanted, folder)]
    yield from found
    for name in wanted:
        if name not in (task.exercise for task in found):
            yield Task(folder.name, None, name, f"missing: no file for {name} in the folder")
    if not found and not wanted:
        none = "no file defines the function of an exercise, such as gelu_backward" if files else "no .py file"
        yield Task(folder.name, None, "", f"missing: {none}")


def _of_file(student: str, file: Path, wanted: Sequence[str], folder: Path) -> Iterator[Task]:
    names = exercises_in(file)
    meant = [name for name in names if name in wanted] if wanted else names
    if len(meant) == 1:
        inside = file.resolve().is_relative_to(folder.resolve())
        problem = "" if inside else "the file is a link to one of another folder; hand in the file itself"
        yield Task(student, file, meant[0], problem)
    elif len(meant) > 1:
        problem = f"defines functions of {len(meant)} exercises; name the file {meant[0]}_exercise.py, or another"
        yield Task(student, file, "", problem)
    elif not wanted:
        problem = "the file must define the function of one exercise, such as linear_backward; it defines none"
        yield Task(student, file, "", problem)


def exercises_in(file: Path) -> list[str]:
    """
    The exercises that a file is for: by its name, which ends in gelu_exercise, else by the functions it defines.

    The file is neither run nor parsed.
    """
    named = [name for name in ORDER if re.search(rf"(^|[^a-z]){name}_exercise$", file.stem, re.IGNORECASE)]
    if named:
        return [max(named, key=len)]
    try:
        text = source_of(file).decode("utf-8", "replace").removeprefix("\ufeff")
    except Stopped:
        return []
    defined = set(_FUNCTION.findall(text))
    return [name for name in ORDER if exercise(name).asked in defined]


def grade_all(tasks: Iterable[Task], grader: Grader, points: Mapping[str, float] = POINTS) -> Iterator[dict[str, Any]]:
    """
    The grades of submissions, one by one: at the same time, they would take each other's speed.

    Parameters
    ----------
    tasks : iterable of Task
    grader : Grader
    points : mapping of str to float
        How many points each mark is worth.

    Yields
    ------
    dict
        As `Grader.grade` returns it, with `student`, `file`, `points` and `of`, the most there are.
    """
    for task in tasks:
        if task.path is None or task.problem:
            grade = grader.empty(task.exercise)
            grade["problem"] = task.problem
        else:
            grade = grader.grade(task.path, task.exercise)
        file = "" if task.path is None else str(task.path)
        result = {"student": task.student, "file": file, **grade}
        yield {**result, "points": points_of(result, points), "of": sum(points.values())}


def holds(result: Mapping[str, Any]) -> dict[str, bool | None]:
    """For each mark whether it holds; None if it was not looked at."""
    right = bool(result["right"]) and all(mark == "ok" for mark in result["right"].values())
    timed = right and result["fast"] is not None
    return {
        "right": None if not result["own"] else right and not result["problem"],
        "general": all(mark == "ok" for mark in result["general"].values()) if result["general"] else None,
        "inputs": result["inputs"] == "ok" if result["inputs"] else None,
        "own": result["own"] == "ok" if result["own"] else None,
        "fast": result["fast"] >= result["fast_from"] if timed else None,
    }


def points_of(result: Mapping[str, Any], points: Mapping[str, float] = POINTS) -> float:
    """
    The points of a result: none unless it is right. An exercise that is not timed has those for speed.

    Examples
    --------
    >>> marks = {"right": {"dx": "ok"}, "general": {}, "inputs": "ok", "own": "ok", "problem": ""}
    >>> result = {**marks, "fast": 12.0, "fast_from": 50.0}
    >>> points_of(result), points_of({**result, "right": {"dx": "off by 1.0"}})
    (8, 0)
    """
    marks = holds(result)
    if not marks["right"]:
        return 0
    marks["fast"] = marks["fast"] in (True, None)
    return sum(points[name] for name, holding in marks.items() if holding)


def passed(result: Mapping[str, Any]) -> bool:
    """Whether all marks but that for speed hold."""
    return all(holding for name, holding in holds(result).items() if name != "fast")


def table(results: Sequence[dict[str, Any]]) -> str:
    """
    A row per student and exercise, with its failures below; 80 columns.

    Parameters
    ----------
    results : sequence of dict
        As `grade_all` yields them.
    """
    names = [one_line(result["student"]) for result in results]
    first = "file" if results and all(Path(r["file"]).name == r["student"] for r in results) else "student"
    wide = max(7, max(map(columns, [*names, first])))
    narrow = max(8, max((len(result["exercise"]) for result in results), default=0))
    wide = min(wide, _WIDTH - 42 - narrow - max(6, *(len(_of(r["points"], r["of"])) for r in results), 0))
    lines = [f"{first:{wide}}  {'exercise':{narrow}}  right  general  inputs  own  fast     points"]
    totals = _totals(results)
    for number, (result, name) in enumerate(zip(results, names, strict=True)):
        marks = {each: {True: "yes", False: "no", None: "-"}[held] for each, held in holds(result).items()}
        ok = sum(mark == "ok" for mark in result["right"].values())
        if 0 < ok < len(result["right"]):
            marks["right"] = f"{ok}/{len(result['right'])}"
        fast = "-" if result["fast"] is None else f"{result['fast']:.3g} %"
        shown = _fitted(name, wide)
        lines.append(
            f"{shown}  {result['exercise'] or '-':{narrow}}  {marks['right']:5}  {marks['general']:7}  "
            f"{marks['inputs']:6}  {marks['own']:3}  {fast:7}  {_of(result['points'], result['of'])}".rstrip()
        )
        for finding in findings(result):
            lines += textwrap.wrap(finding, _WIDTH, initial_indent="    ", subsequent_indent="      ", max_lines=3,
                                   placeholder=" ...")  # fmt: skip
        count, points, of = totals[result["student"]]
        if count > 1 and (number + 1 == len(results) or results[number + 1]["student"] != result["student"]):
            lines.append(f"{shown}  {'total':{narrow}}  {'':36}  {_of(points, of)}")
    if len(results) > 1:
        mean = sum(result["points"] for result in results) / len(results)
        count = sum(map(passed, results))
        lines.append(f"\n{count} of {len(results)} passed; {mean:.1f} of {results[0]['of']:g} points on average; "
                     f"hidden samples of seed {results[0]['seed']}")  # fmt: skip
    return "\n".join(lines)


def _fitted(name: str, wide: int) -> str:
    """A name in so many columns."""
    if columns(name) > wide:
        while columns(name) > wide - 3:
            name = name[:-1]
        name += "..."
    return name + " " * (wide - columns(name))


def _of(points: float, most: float) -> str:
    return f"{points:g}/{most:g}"


def _totals(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float, float]]:
    """For each student the number of rows, and the points of their exercises; of several files for one, the best."""
    best: dict[str, dict[str, tuple[float, float]]] = {}
    rows: dict[str, int] = {}
    for result in results:
        mine = best.setdefault(result["student"], {})
        mine[result["exercise"]] = max(mine.get(result["exercise"], (0, 0)), (result["points"], result["of"]))
        rows[result["student"]] = rows.get(result["student"], 0) + 1
    return {
        student: (rows[student], sum(points for points, _ in mine.values()), sum(of for _, of in mine.values()))
        for student, mine in best.items()
    }


def findings(result: Mapping[str, Any]) -> list[str]:
    """What a learner must change, and what a teacher must know, in words."""
    problem = result["problem"]
    found = [problem] if problem else []
    found += [f"{name}: {mark}" for name, mark in result["right"].items() if mark != "ok"]
    if not found:  # what is wrong in float64 is also wrong in float32
        found += [f"general, {name}: {mark}" for name, mark in result["general"].items() if mark != "ok"]
    found += [f"inputs: {result['inputs']}"] if result["inputs"] not in ("", "ok") else []
    found += [f"own work: {result['own']}"] if result["own"] not in ("", "ok") else []
    refused = [what for what in result["refused"] if what not in problem]
    found += [f"tried, and was refused: {', '.join(refused)}"] if refused else []
    return list(map(one_line, found))


COLUMNS = ("student", "exercise", "right", "general", "inputs", "own_work", "fast", "speed_percent", "points", "of",
           "student_points", "student_of", "seed", "findings", "file")  # fmt: skip


def as_csv(results: Sequence[dict[str, Any]]) -> bytes:
    """
    The table for a spreadsheet: UTF-8 with a byte order mark, which Excel needs.

    A cell that a student wrote cannot become a formula: where it begins with one of = + - @, an apostrophe precedes.

    Parameters
    ----------
    results : sequence of dict
        As `grade_all` yields them.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    totals = _totals(results)
    for result in results:
        marks = {each: {True: "yes", False: "no", None: ""}[held] for each, held in holds(result).items()}
        points = [f"{number:g}" for number in (result["points"], result["of"], *totals[result["student"]][1:])]
        speed = "" if result["fast"] is None else result["fast"]
        writer.writerow(
            [_plain(result["student"]), result["exercise"], *marks.values(), speed, *points, result["seed"],
             _plain("; ".join(findings(result))), _plain(result["file"])]
        )  # fmt: skip
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def _plain(text: str) -> str:
    r"""
    A text that a spreadsheet shows as it is.

    Examples
    --------
    >>> _plain("=1+1"), _plain("a=1\n")
    ("'=1+1", 'a=1\\n')
    """
    text = one_line(text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
