"""A class is graded: whatever students hand in is a row with its reason, and nothing of theirs reaches beyond it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time

import pytest
from class_of_students import HEADER, RIGHT, write_class

from tinygpt.cli.main import main
from tinygpt.ops import gelu
from tinygpt.study.exercises import exercise
from tinygpt.study.grade import Grader
from tinygpt.study.submission import Limits, Stopped, Submission
from tinygpt.study.submissions import as_csv, find, findings, grade_all, holds, passed, points_of, table

LETTERS = {True: "y", False: "n", None: "-"}


def hand_in(folder, *names, text=HEADER + RIGHT):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def grade_of(student="ada", **changes):
    result = {"student": student, "file": f"{student}/gelu_exercise.py", "exercise": "gelu", "right": {"dx": "ok"},
              "general": {"float32": "ok"}, "inputs": "ok", "own": "ok", "fast": 98.0, "problem": "", "refused": [],
              "seed": 1, "fast_from": 50.0, **changes}  # fmt: skip
    return {**result, "points": points_of(result), "of": 10}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="some students fork, and one takes memory, which Linux limits")
def test_a_class_of_all_kinds_is_graded_and_harms_nothing(tmp_path, capsys):
    """Each student's row, whatever they hand in; see `class_of_students.py`."""
    outside = tmp_path / "outside.txt"
    outside.write_text("not theirs")
    students = write_class(tmp_path / "homework", outside)
    folder, sheet = str(tmp_path / "homework"), tmp_path / "grades.csv"
    arguments = ["exercise", "check", folder, "--time-limit", "6", "--memory-limit", "512"]
    assert len(students) >= 30 and main([*arguments, "--csv", str(sheet), "--json"]) == 1
    results = {result["student"]: result for result in json.loads(capsys.readouterr().out)}
    assert results.keys() == students.keys()
    assert results["hypatia"]["exercise"] == "" and results["euclid"]["right"]["dweight"] == "ok"
    found = {name: "".join(LETTERS[held] for held in holds(result).values()) for name, result in results.items()}
    for name in students.keys() - {"blaise"}:  # the others' speed is that of NumPy, and this machine may be busy
        found[name] = found[name][:4] + found[name][4].replace("n", "y")
    assert found == {name: student.marks for name, student in students.items()}
    said = {name: "; ".join(findings(result)) for name, result in results.items()}
    assert {name: text for name, text in said.items() if students[name].said not in text} == {}
    assert outside.read_text() == "not theirs"
    assert sorted(os.listdir(tmp_path)) == ["grades.csv", "homework", "outside.txt"]
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    assert [row["student"].removeprefix("'") for row in rows] == list(results)
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    lines = table(list(results.values())).splitlines()
    assert max(map(len, lines)) <= 80


def test_the_same_seed_gives_the_same_grades_and_another_one_other_samples(tmp_path, capsys):
    shape = "    if x.size % 7 == 0:\n        return (dout,)\n"
    hand_in(tmp_path, "gelu_exercise.py", text=(HEADER + RIGHT).replace("x, t = saved\n", f"x, t = saved\n{shape}"))

    def marks(seed):
        main(["exercise", "check", str(tmp_path), "--seed", str(seed), "--points", "fast=0", "--json"])
        (result,) = json.loads(capsys.readouterr().out)
        assert result["seed"] == seed
        return result["right"]

    results = [marks(seed) for seed in (1, 2, 3)]
    assert results == [marks(seed) for seed in (1, 2, 3)]


def test_students_are_folders_and_what_is_missing_is_a_row(tmp_path):
    hand_in(tmp_path, "ada/gelu_exercise.py", "ada/linear_exercise.py", "bob/Bob_Smith_gelu_exercise.py")
    hand_in(tmp_path, "cleo/upload 1/mine.py", "cleo/upload 1/__pycache__/gelu_exercise.py", ".git/gelu_exercise.py")
    hand_in(tmp_path, "dan/notes.py", text="x = 1\n")
    (tmp_path / "eva").mkdir()
    found = [(task.student, task.exercise, task.problem[:7]) for task in find([tmp_path], ["gelu"])]
    assert found == [("ada", "gelu", ""), ("bob", "gelu", ""), ("cleo", "gelu", ""), ("dan", "gelu", "missing"),
                     ("eva", "gelu", "missing")]  # fmt: skip
    found = [(task.student, task.exercise, task.problem) for task in find([tmp_path])]
    assert found[:2] == [("ada", "gelu", ""), ("ada", "linear", "")] and len(found) == 6
    assert found[4][2].startswith("missing: no file defines") and found[5][2] == "missing: no .py file"
    assert [task.exercise for task in find([tmp_path], ["linear", "gelu"])][:3] == ["gelu", "linear", "gelu"]


def test_a_flat_folder_is_graded_file_by_file_and_names_decide(tmp_path):
    hand_in(tmp_path, "doe_gelu_linear_exercise.py", "mine.py")
    hand_in(tmp_path, "two.py", text="def gelu_backward(d, s): ...\n\nneg_backward = None\n")
    hand_in(tmp_path, "none.py", text="x = 1\n")
    hand_in(tmp_path, "sub/later.py")
    found = {task.student: (task.exercise, task.problem) for task in find([tmp_path])}
    assert found["doe_gelu_linear_exercise.py"] == ("gelu_linear", "") and found["mine.py"] == ("gelu", "")
    assert "defines functions of 2 exercises" in found["two.py"][1]
    assert "must define the function of one exercise, such as linear_backward; it defines none" in found["none.py"][1]
    assert len(found) == 4
    with pytest.raises(FileNotFoundError, match="must be a file for adamw"):
        find([tmp_path], ["adamw"])
    (tmp_path / "empty" / "ada").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"empty must be a \.py file or a folder with some"):
        find([tmp_path / "empty"])


def test_several_groups_and_files_keep_their_students_apart(tmp_path):
    hand_in(tmp_path, "2025/ada/gelu_exercise.py", "2026/ada/gelu_exercise.py", "2026/bob/gelu_exercise.py")
    groups = [task.student for task in find([tmp_path / "2025", tmp_path / "2026"])]
    assert groups == ["2025/ada", "2026/ada", "2026/bob"]
    files = [task.student for task in find(sorted((tmp_path / "2026").glob("*/*.py")))]
    assert files == ["ada/gelu_exercise.py", "bob/gelu_exercise.py"]


@pytest.mark.skipif(os.name != "posix", reason="links need no rights on POSIX only")
def test_a_link_to_the_work_of_another_is_not_graded(tmp_path):
    hand_in(tmp_path, "ada/gelu_exercise.py", "ada/extra/neg_exercise.py", "bob/notes.txt", "cleo/notes.txt")
    (tmp_path / "ada" / "again_gelu_exercise.py").symlink_to("gelu_exercise.py")
    (tmp_path / "bob" / "gelu_exercise.py").symlink_to("../ada/gelu_exercise.py")
    (tmp_path / "cleo" / "all").symlink_to("../ada", target_is_directory=True)
    tasks = find([tmp_path])
    own = [task.problem for task in tasks if task.student == "ada"]
    others = [task.problem for task in tasks if task.student != "ada"]
    assert own == ["", "", ""] and len(others) >= 2 and all("link to one of another folder" in text for text in others)
    (tmp_path / "mine.py").symlink_to("ada/gelu_exercise.py")  # named by the teacher
    assert [task.problem for task in find([tmp_path / "mine.py"])] == [""]


LAZY = "class Later(tuple):\n    def __iter__(self):\n        return iter(slowly(*self.of))\n"
SHORTCUTS = {
    "the result is computed when it is read": LAZY + '''
def gelu_backward(dout, saved):
    later = Later((dout,))
    later.of = dout, saved
    return later
''',
    "an answer is kept by what dout begins with": '''
kept = {}
def gelu_backward(dout, saved):
    key = dout.tobytes()[:80]
    if key not in kept:
        kept[key] = slowly(dout, saved)
    return kept[key]
''',
    "the slope is kept": '''
slopes = {}
def gelu_backward(dout, saved):
    key = saved[0].shape, saved[0].tobytes()[:80]
    if key not in slopes:
        slopes[key] = slowly(np.ones_like(dout), saved)[0]
    return (dout * slopes[key],)
''',
    "only each third call is computed": '''
calls = 0
def gelu_backward(dout, saved):
    global calls
    calls += dout.size > 10**5
    return slowly(dout, saved) if dout.size < 10**5 or calls % 3 == 0 else (dout,)
''',
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_no_shortcut_around_the_timing_makes_a_slow_answer_fast(shortcut, tmp_path):
    """The function itself has some per cent of the reference's speed: hundreds of times the work."""
    slow = RIGHT.replace("gelu_backward", "slowly").replace(
        "    return", "    for _ in range(400):\n        np.tanh(x)\n    return"
    )
    hand_in(tmp_path, "gelu_exercise.py", text=HEADER + slow + SHORTCUTS[shortcut])
    with Grader(seed=1) as grader:
        grade = grader.grade(tmp_path / "gelu_exercise.py", "gelu")
    assert grade["right"] == {"dx": "ok"} and grade["fast"] < 20


def test_a_number_stays_one_in_the_other_memory_order():
    """A loss is a number without axes; it must not come with one."""
    grader = Grader(seed=1)
    for name in ("cross_entropy", "linear_cross_entropy"):
        cases = [case for case in grader.key(name).cases if case.mark == "memory order"]
        assert [case.args[0].shape for case in cases] == [()]


def test_points_are_for_right_answers_only():
    assert (
        grade_of()["points"] == 10
        and grade_of(fast=49.9)["points"] == 9
        and grade_of(fast=49.9, fast_from=10.0)["points"] == 10
    )
    assert grade_of(fast=None)["points"] == 10
    assert grade_of(right={"dx": "ok", "dbias": "off by 1"})["points"] == 0
    assert grade_of(problem="IndexError: no")["points"] == 0
    assert grade_of(inputs="writes into dout", own="imports torch")["points"] == 8
    result = grade_of(general={"float32": "is float64"})
    assert points_of(result, {"right": 10, "general": 2.5, "inputs": 0, "own": 0, "fast": 0}) == 10
    assert passed(grade_of(fast=1.0)) and not passed(result)


def test_the_table_fits_80_columns_and_has_totals():
    results = [grade_of("ada"),
               grade_of("ada", exercise="linear_cross_entropy", right={"dx": "ok", "dw": "off by 1"}),
               grade_of("a name that is much longer than any column can be " * 2, problem="x " * 300),
               grade_of("数学" * 9),
               grade_of("b\x1b[2J\n", right={}, general={}, inputs="", own="", fast=None)]  # fmt: skip
    lines = table(results).splitlines()
    assert max(map(len, lines)) <= 80 and all(line.isprintable() for line in lines)
    assert [line.split()[-1] for line in lines if " total " in line] == ["10/20"]
    assert "1/2" in lines[2] and "dw: off by 1" in lines[3]
    assert lines[-1].startswith("2 of 5 passed; ")


def test_a_cell_that_a_student_wrote_is_no_formula():
    results = [
        grade_of("=1+1", problem="+cmd|' /C calc'!A0"),
        grade_of("@sum", own=" -2"),
        grade_of("a\tb\n", file="-x"),
    ]
    rows = list(csv.DictReader(io.StringIO(as_csv(results).decode("utf-8-sig"))))
    assert [row["student"] for row in rows] == ["'=1+1", "'@sum", "a\\tb\\n"]
    assert rows[0]["findings"].startswith("'+cmd") and rows[2]["file"] == "'-x"
    assert (rows[2]["points"], rows[2]["of"], rows[2]["right"], rows[2]["speed_percent"]) == ("10", "10", "yes", "98.0")


def test_the_command_takes_points_and_refuses_nonsense(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hand_in(tmp_path, "ada/gelu_exercise.py")
    (tmp_path / "bob").mkdir()
    assert main(["exercise", "check", ".", "--points", "right=3,fast=0,own=0.5", "--csv", "grades.csv"]) == 1
    out = capsys.readouterr().out
    assert "5.5/5.5" in out and "missing: no .py file" in out and "1 of 2 passed; 2.8 of 5.5 points" in out
    assert (tmp_path / "grades.csv").read_bytes().count(b"\r\n") == 3
    for wrong, said in [
        (["--points", "beauty=3"], "must be such as right=10,fast=0, got 'beauty=3'"),
        (["--points", "right=x"], "right: must be a number, got 'x'"),
        (["--points", "right=-1"], "must have at least 0 for right"),
        (["--memory-limit", "5"], "--memory-limit must be at least 256"),
        (["--exercise", "gellu"], "did you mean gelu?"),
    ]:
        try:
            status = main(["exercise", "check", ".", *wrong])
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        assert status == 2 and said in captured.err and captured.err.count("\n") == 1


ATTEMPTS = {
    "open('../x.txt', 'w')": "writes outside",
    "open('x.txt', 'rb', opener=lambda path, flags: os.open({outside!r}, os.O_RDWR))": "writes outside",
    "os.rename({outside!r}, 'x')": "os.rename outside",
    "os.link({outside!r}, 'x')": "os.link outside",
    "os.remove({outside!r})": "os.remove outside",
    "os.symlink({outside!r}, 'x'); open('x', 'w')": "os.symlink outside",
    "__import__('shutil').rmtree(os.path.dirname({outside!r}))": "outside",
    "os.open('..', 0)": "writes outside",
    "os.system('true')": "starts a process",
    "os.posix_spawn('/bin/true', ['true'], {{}})": "starts a process",
    "__import__('multiprocessing').get_context('spawn').Process(target=print).start()": "starts a process",
    "__import__('socket').socket().connect(('127.0.0.1', 1))": "uses the network",
    "__import__('urllib.request').request.urlopen('http://127.0.0.1:1')": "uses the network",
    "os.kill(os.getppid(), 0)": "sends a signal",
    "__import__('resource').setrlimit(__import__('resource').RLIMIT_DATA, (-1, -1))": "changes its limits",
    "__import__('ctypes').CDLL(None).getpid()": "uses ctypes",
    "os.mkfifo({outside!r} + '2')": "makes a pipe",
    "__import__('posix').mknod({outside!r} + '2')": "makes a pipe",
    "__import__('sqlite3').connect(':memory:').execute('ATTACH ? AS e', [{outside!r} + '2'])": "makes files unseen",
    "__import__('multiprocessing.shared_memory').shared_memory.SharedMemory('x', True, 9)": "makes shared memory",
    "[open('f' + str(number), 'w').close() for number in range(1000)]": "writes more than 200 files",
}


@pytest.mark.skipif(os.name != "posix", reason="the calls are POSIX's")
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_a_submission_may_not_do_is_refused_and_told(attempt, tmp_path):
    """Also where it catches the error, and goes on."""
    outside = tmp_path / "folder" / "outside.txt"
    hand_in(tmp_path, "folder/outside.txt", text="not theirs")
    body = attempt.format(outside=str(outside))
    source = f"import os\ndef f(x):\n    try:\n        {body}\n    except Exception:\n        pass\n    return x\n"
    with Submission(source.encode(), "f", {}, Limits(20, 256)) as submission:
        submission.load()
        assert submission.call([(1,)])[0] == [1]
        assert ATTEMPTS[attempt] in submission.refused[0] and submission.copied == []
    assert outside.read_text() == "not theirs" and os.listdir(outside.parent) == ["outside.txt"]


WAYS = [
    "from tinygpt.ops.gelu import gelu_backward",
    "from tinygpt.ops.gelu import GELU",
    "__import__('importlib').import_module('tiny' + 'gpt.functional')",
    "__import__('tinygpt').functional",
    "__import__('torch')",
    "__import__('jax.numpy')",
    "__import__('sys').meta_path.clear(); open({path!r}).read()",
    "__import__('runpy').run_path({path!r})",
    "__import__('importlib.machinery').machinery.SourceFileLoader('ours', {path!r}).load_module()",
]


@pytest.mark.parametrize("way", WAYS)
def test_the_solution_is_not_to_be_had(way):
    body = way.format(path=gelu.__file__)
    source = f"def f(x):\n    try:\n        {body}\n    except Exception:\n        pass\n    return x\n"
    with Submission(source.encode(), "f", exercise("gelu").modules, Limits(20, 256)) as submission:
        submission.load()
        assert submission.call([(1,)])[0] == [1]
        assert submission.copied[0].startswith(("imports ", "reads tinygpt"))


def test_a_private_copy_of_the_helpers_is_all_that_there_is_of_the_package():
    """No solution is in what a helper's own module holds, either."""
    source = b"""
import sys
from tinygpt.ops.attention import split_heads


def f():
    names = {name for name in sys.modules if name.startswith("tinygpt")}
    return sorted(names), sorted(name for name in split_heads.__globals__ if "backward" in name)
"""
    with Submission(source, "f", exercise("attention").modules, Limits(20, 256)) as submission:
        submission.load()
        assert submission.call([()])[0] == [(["tinygpt", "tinygpt.ops", "tinygpt.ops.attention"], [])]


def test_it_may_use_numpy_the_standard_library_and_its_own_folder():
    source = b"""
import dataclasses, json, math, random, statistics, tempfile
import numpy.linalg, numpy.random


@dataclasses.dataclass
class Kept:
    x: int


def f(x):
    with tempfile.TemporaryFile() as file, open("notes.txt", "w") as notes:
        file.write(b"1")
        notes.write("2")
    return Kept(x).x + len(open("notes.txt").read())
"""
    with Submission(source, "f", {}, Limits(20, 256)) as submission:
        submission.load()
        assert submission.call([(1,)])[0] == [2]
        assert submission.refused == submission.copied == []


def test_an_endless_function_ends_at_its_limit_and_leaves_nothing():
    with Submission(b"import time\ndef f(x):\n    time.sleep(60)\n", "f", {}, Limits(1, 256)) as submission:
        submission.load()
        process = submission._process
        with pytest.raises(Stopped, match="not done after 1 seconds"):
            submission.call([(1,)])
        assert process.returncode not in (0, None)
        assert not os.path.exists(submission._folder)


def test_an_answer_that_would_fill_the_graders_memory_is_refused():
    with Submission(b"def f():\n    return [[[]] * 1000] * 1000\n", "f", {}, Limits(20, 2048)) as submission:
        submission.load()
        with pytest.raises(Stopped, match="a message is too large"):
            submission.call([()])


def test_only_the_submissions_own_time_counts():
    with Submission(b"def f(x):\n    return x\n", "f", {}, Limits(1, 256)) as submission:
        submission.load()
        time.sleep(1.2)  # such as the grader's, when it draws samples
        assert submission.call([(1,)])[0] == [1]


def test_memory_is_limited_above_the_level_after_import():
    source = b"def f(n):\n    return len(bytearray(n * 2**20))\n"
    with Submission(source, "f", {}, Limits(60, 300)) as submission:
        submission.load()
        if not submission.limited:
            pytest.skip("this system cannot limit the memory of a process")
        first, _, _, errors = submission.call([(200,), (400,), (1,)])
        assert first == [200 * 2**20, None, None]
        assert errors[1] == "MemoryError (line 2); the limit is 300 MB"


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c_ends_the_grading_and_the_submission(tmp_path):
    hand_in(
        tmp_path,
        "gelu_exercise.py",
        text="open('started', 'w').close()\nwhile True:\n    pass\ndef gelu_backward(): ...\n",
    )
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom tinygpt.cli.main import main\n"
    )
    code += f"raise SystemExit(main(['exercise', 'check', {str(tmp_path)!r}]))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=environment, text=True) as command:
        while not list(tmp_path.glob("tinygpt-exercise-*/started")):
            assert command.poll() is None
            time.sleep(0.05)
        command.send_signal(2)
        _, said = command.communicate(timeout=60)
    assert command.returncode == 130 and "interrupted" in said
    assert not list(tmp_path.glob("tinygpt-exercise-*"))


def test_grades_come_one_by_one(tmp_path):
    """So that a bar can move, and what is done is not lost."""
    hand_in(tmp_path, "ada/gelu_exercise.py", "bob/gelu_exercise.py")
    with Grader(timed=False) as grader:
        grades = grade_all(find([tmp_path]), grader)
        assert next(grades)["student"] == "ada"
