"""The harness of the benchmarks: a wrong result is never timed, and ratios are what they say."""

from __future__ import annotations

import contextlib
import doctest
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from every_operation import WITH_KERNELS, assert_lists

pytest.importorskip("torch", reason="the benchmarks race against torch: install the extra 'reference'")

import benchmarks.__main__ as command
from benchmarks import (
    bench_generate,
    bench_ladder,
    bench_perplexity,
    bench_train_step,
    choice,
    kernel_race,
    machine,
    modules,
    picture,
    plan,
    results,
    table,
    worker,
)
from tinygpt.quantization import KINDS
from tinygpt.runtime.processor import Identity

ROOT = Path(__file__).resolve().parents[1]


def save(folder: Path, **sides: np.ndarray) -> None:
    for side, array in sides.items():
        np.savez(folder / f"{side}.npz", array)


@pytest.mark.parametrize("side", ["tinygpt", "torch"])
@pytest.mark.parametrize("wrong", [1.0 + 1e-4, np.nan])
def test_a_wrong_result_is_refused(tmp_path, side, wrong):
    right = np.array([0.5, -1.0], np.float32)
    save(tmp_path, numpy=right, tinygpt=right, torch=right)
    kernel_race.verify("gelu", "N=256", "highest", tmp_path)
    save(tmp_path, **{side: right * np.float32(wrong)})
    with pytest.raises(kernel_race.WrongResult, match=f"gelu, N=256, highest: {side}: the output is off by"):
        kernel_race.verify("gelu", "N=256", "highest", tmp_path)


def test_a_loss_that_is_off_is_refused():
    right = {"tinygpt float32": [4.0, 3.9], "torch float32": [4.0001, 3.9], "torch bfloat16": [4.02, 3.9]}
    bench_train_step.verify("tiny", right)
    with pytest.raises(kernel_race.WrongResult, match="torch float32 has losses"):
        bench_train_step.verify("tiny", right | {"torch float32": [4.0, 3.8]})


def test_a_step_of_the_ladder_that_is_off_is_refused():
    exact, c = np.array([[1.0, -2.0]]), np.empty((1, 2), np.float32)
    bench_ladder.verify("blocked", lambda: np.copyto(c, exact), c, exact)
    with pytest.raises(kernel_race.WrongResult, match=r"blocked: off by 0\.0001"):
        bench_ladder.verify("blocked", lambda: np.copyto(c, exact + 1e-4), c, exact)
    with pytest.raises(kernel_race.WrongResult, match="blocked: off by nan"):
        bench_ladder.verify("blocked", lambda: None, c, exact)


def test_ratios_are_of_medians_and_against_the_best():
    ratios = bench_train_step.ratios({
        "tinygpt float32": [1.0, 9.0, 1.0], "tinygpt bfloat16": [0.5], "torch float32": [3.0],
        "torch float32 compiled": [2.0], "torch bfloat16": [1.5],
    })  # fmt: skip
    assert ratios == {"float32_to_torch": 2.0, "best_to_torch": 3.0, "bfloat16_to_torch": 3.0}


def test_ratios_are_of_those_sides_that_were_raced():
    alone = {"tinygpt bfloat16": [0.5], "torch bfloat16": [1.5], "tinygpt bfloat16 again": [0.1]}
    assert bench_train_step.ratios(alone) == {"best_to_torch": 3.0, "bfloat16_to_torch": 3.0}
    assert (
        bench_train_step.ratios({"torch float32": [1.0]}) == {} == bench_train_step.ratios({"tinygpt float32": [1.0]})
    )


def row(**changes) -> dict:
    readings = {"numpy": [0.01], "tinygpt": [0.002, 0.0019, 0.0021], "torch": [0.006, 0.006], "tinygpt again": [0.002]}
    return {"benchmark": "gelu", "case": "N=256", "precision": "highest", "readings": readings, "kind": "bytes",
            "rate": 31.4, "share": 0.91, "to_torch": 3.0, "to_numpy": 5.0, "noise": 1.0} | changes  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_table_shows_what_was_read():
    header, _, line = table.kernels([row()]).splitlines()
    assert dict(zip(cells(header), cells(line), strict=True)) == {
        "kernel": "gelu", "case": "N=256", "numpy ms": "10", "torch ms": "6", "tinygpt ms (spread)": "2 (1.9-2.1)",
        "rate": "31.4 GB/s", "of peak": "91%", "numpy / tinygpt": "5.00", "torch / tinygpt": "**3.00**",
        "noise": "1.00",
    }  # fmt: skip
    assert len(header) == len(line)


@pytest.mark.parametrize(
    ("side", "readings"),
    [("torch", [0.004, 0.006, 0.009]), ("tinygpt", [0.002, 0.003, 0.001]), ("tinygpt again", [0.0026])],
)
def test_a_row_that_is_too_noisy_says_so_in_place_of_a_ratio(side, readings):
    noisy = row()
    noisy["readings"] |= {side: readings}
    ratio = cells(table.kernels([noisy]).splitlines()[-1])[-2]
    assert ratio.endswith(" ~") and "**" not in ratio
    low, high = map(float, ratio.removesuffix(" ~").split(" to "))
    middle = np.median(noisy["readings"]["torch"]) / np.median(noisy["readings"]["tinygpt"])
    assert low <= middle <= high and low < high


@pytest.mark.parametrize(("module", "least"), [(table, 5), (choice, 4)])
def test_the_examples_are_right(module, least):
    failed, attempted = doctest.testmod(module)
    assert attempted >= least and not failed


def test_a_ratio_of_single_readings_is_not_bold():
    assert table.ratio([3.0], [1.0]) == "3.00"
    assert table.ratio([3.0, 3.0], [1.0, 1.0]) == "**3.00**"


def test_small_and_large_numbers_have_units_that_one_can_read():
    small = row(rate=0.0000123, share=0.0001)
    small["readings"] = {side: [1.5] for side in small["readings"]}
    line = table.kernels([small]).splitlines()[-1]
    assert "12.3 kB/s" in line and "<1%" in line and "1500" in line and "e+" not in line


def test_rows_without_pytorch_have_no_column_for_it():
    alone = row(to_torch=None)
    del alone["readings"]["torch"]
    assert "torch" not in table.kernels([alone])


def test_the_other_checkout_has_its_ratios_beside_pytorch_s():
    before = row()
    before["readings"] |= {"against": [0.004, 0.004]}
    header, _, line = table.kernels([before]).splitlines()
    told = dict(zip(cells(header), cells(line), strict=True))
    assert told["torch / against"] == "**1.50**" and told["against / tinygpt"] == "**2.00**"
    assert "numpy" not in table.kernels([{**before, "readings": {**before["readings"], "numpy": []}}])


SHARED = {
    "case": "tiny", "seconds": 2.0, "threads": 2, "cores": 2, "fair": {"0": 1.0, "1": 2 / 3, "2": 0.5}, "left_out": {},
    "readings": {"tinygpt float32": {"0": [20.0, 30.0, 25.0], "1": [15.0], "2": [5.0]}},
}  # fmt: skip


def test_the_table_beside_busy_processes_has_shares_of_the_speed_alone():
    lines = table.shared([SHARED]).splitlines()
    told = dict(zip(cells(lines[2]), cells(lines[4]), strict=True))
    assert lines[0] == "steps per second beside busy processes, tiny"
    assert told["alone (spread)"] == "25 (20-30)" and told["beside 1 (spread)"] == "15 (15-15)"
    assert told["share beside 1"] == "0.60" and told["share beside 2"] == "0.20"
    assert "2 threads on 2 cores; medians of 3 turns of 2 s." in lines
    assert lines[-1].endswith("a fair share of the cores is 0.67 beside 1, 0.50 beside 2.")


def test_what_a_watched_step_takes_beyond_its_kernels_is_outside():
    readings = {
        "step": [0.010, 0.012, 0.011],
        "watched": [0.02, 0.01],
        "kernels": [0.015, 0.007],
        "calls": [70.0],
        "launches": [20.0],
    }
    header, _, line = table.python_share([{"case": "tiny", "readings": {"tinygpt float32": readings}}]).splitlines()
    told = dict(zip(cells(header), cells(line), strict=True))
    assert told["ms per step (spread)"] == "11 (10-12)" and told["in kernels"] == "11" and told["outside"] == "4"
    assert told["share outside"] == "28%" and told["calls"] == "70" and told["launches"] == "20"


def test_several_streams_share_the_weights_that_are_read():
    seconds = {"one stream": 0.01, "4 streams": 0.005, "reading 512 tokens": 0.5}
    side = "tinygpt int8"
    rows = [{"case": case, "readings": {side: [time]}, "bytes": {side: 10**8}} for case, time in seconds.items()]
    header, _, *lines = table.generation(rows, "GPT-2 124M", 4e8, bandwidth=20.0).splitlines()
    one, four, prompt = (dict(zip(cells(header), cells(line), strict=True)) for line in lines)
    assert one["tokens/s"] == "100" and one["of bandwidth"] == "50%" and one["weights read, MB"] == "100"
    assert four["tokens/s"] == "200" and four["of bandwidth"] == "25%"  # a pass of four tokens takes 20 ms
    assert prompt["tokens/s"] == prompt["of bandwidth"] == prompt["weights read, MB"] == ""


def test_shares_are_of_the_bandwidth_that_was_measured_in_the_same_turns():
    row = {"case": "one stream", "readings": {"tinygpt int8": [0.01]}, "bytes": {"tinygpt int8": 10**8}}
    told = table.generation([{**row, "bandwidth": [40.0, 12.5, 10.0]}], "GPT-2 124M", 4e8, bandwidth=20.0)
    header, _, line, _, note = told.splitlines()
    assert dict(zip(cells(header), cells(line), strict=True))["of bandwidth"] == "80%"
    assert note == "Bandwidth, of reading memory in turns with the sides: 12.5 (10-40) GB/s."


def test_rows_that_were_saved_before_weights_were_counted_are_shown():
    row = {"case": "one stream", "readings": {"tinygpt int8": [0.01]}}
    assert "| 100" in table.generation([row], "GPT-2 124M", 4e8, bandwidth=20.0).splitlines()[-1]


def test_perplexities_are_beside_that_of_float32():
    row = {"case": "code", "model": "tiny", "tokens": 2047, "left_out": {"against int4": "it has no weights in int4"},
           "losses": {"tinygpt float32": np.log(20.0), "tinygpt int8": np.log(20.1)},
           "bytes": {"tinygpt float32": 4 * 10**6, "tinygpt int8": 10**6}}  # fmt: skip
    header, _, line, *rest = table.perplexity([row]).splitlines()
    assert cells(header)[2:] == ["tinygpt float32, 4.0 MB per token", "tinygpt int8, 1.0 MB per token"]
    assert cells(line) == ["code", "2,047", "20", "20.1 (+0.50%)"]
    assert rest[-1] == "Left out, against int4: it has no weights in int4."


def test_look_up_is_beside_the_same_side_without_it():
    readings = {"tinygpt float32": [0.03, 0.03], "tinygpt float32 lookup": [0.01, 0.01], "torch float32": [0.06, 0.06]}
    row = {"case": "code", "model": "tiny", "left_out": {}, "readings": readings}
    lines = [cells(line) for line in table.lookup([row]).splitlines()[2:]]
    assert [line[-1] for line in lines] == ["", "**3.00**", ""] and lines[1][3] == "100"


STEP = {
    "case": "tiny", "memory": {"tinygpt float32": 10**8}, "float32_to_torch": 2.0, "best_to_torch": 2.0,
    "readings": {"tinygpt float32": [1.0, 1.01], "torch float32": [2.0, 2.01], "tinygpt float32 again": [1.0, 1.0]},
}  # fmt: skip


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, kept open."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    yield kept
    monkeypatch.undo()
    for figure in kept:
        pyplot.close(figure)


@pytest.mark.parametrize(
    ("groups", "panels"), [(("kernels",), 1), (("train_step",), 1), (("kernels", "train_step"), 2)]
)
def test_the_picture_has_a_panel_for_each_kind_of_row_and_the_processor_in_its_title(tmp_path, figures, groups, panels):
    report = {"date": "2026-11-30", "machine": "", "processor name": "Fast One 3000", "threads": 2}
    report |= {name: rows for name, rows in {"kernels": [row()], "train_step": [STEP]}.items() if name in groups}
    picture.draw(report, tmp_path / "picture.png")
    (figure,) = figures
    assert "Fast One 3000" in figure.get_suptitle()
    assert len(figure.axes) == panels
    for axis in figure.axes:
        drawn = [bar for bar in axis.patches if bar.get_width()]
        assert len(drawn) == 2  # ours and PyTorch's
        light = [bar.get_facecolor()[:3] @ np.array([0.299, 0.587, 0.114]) for bar in drawn]
        assert abs(light[0] - light[1]) > 0.4  # in greyscale, too
    from matplotlib import image

    assert image.imread(tmp_path / "picture.png").shape[1] == 800


@pytest.mark.parametrize("path", sorted(results.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_file_of_results_can_be_printed_and_drawn(path, tmp_path, figures):
    report = results.read(path)
    text = results.as_markdown(report)
    measured = {group: rows for group, rows in report.items() if group in results.SHOWN}
    assert report["processor name"] in text and len(measured) >= 2
    for rows in measured.values():
        assert rows and all(row["case"] in text for row in rows)
    picture.draw(report, tmp_path / "picture.png")
    assert len(figures[0].axes) >= 2


def test_rows_that_are_measured_again_replace_those_before_and_others_stay():
    before = {"date": "1", "peak": {"highest": 1}, "kernels": [row(), row(case="N=1024")], "train_step": [STEP]}
    now = {"date": "2", "peak": {"highest": 2}, "kernels": [row(noise=2.0), row(precision="medium")]}
    after = results.merged(before, now)
    assert after["kernels"] == [row(noise=2.0), row(case="N=1024"), row(precision="medium")]
    assert after["train_step"] == [STEP] and after["date"] == "2" and after["peak"] == {"highest": 2}
    assert results.merged({}, now) == now


def test_a_file_is_named_after_the_processor(monkeypatch):
    known = {
        "amd-zen-5": Identity("AMD EPYC", "AuthenticAMD", 26, 2, 1, features=frozenset({"avx512f"})),
        "intel-6-143-amx": Identity("Intel(R) Xeon(R)", "GenuineIntel", 6, 143, 8),
        "apple-m2-pro": Identity("Apple M2 Pro"),
    }
    monkeypatch.setattr(machine, "_features", lambda: ["AMX"])
    for name, identity in known.items():
        monkeypatch.setattr(machine, "identity", lambda identity=identity: identity)
        assert machine.short_name() == name and machine.short_name("avx2") == f"{name}-as-avx2"
        assert machine.processor() == f"{identity.text}; AMX"


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        picture.draw({"date": "", "machine": "", "kernels": []}, tmp_path / "picture.png")


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    """`python -m benchmarks`, with the clone on the path as an editable install has it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], env=environment, capture_output=True, text=True, timeout=600,
        **{"cwd": ROOT, **options},
    )  # fmt: skip


def test_an_unknown_name_is_a_user_s_mistake():
    result = run("gulu")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("benchmarks: there is no benchmark 'gulu'")
    assert "did you mean gelu? benchmarks: linear, " in result.stderr


def test_the_help_page_fits_and_its_examples_parse(capsys):
    told = run("--help")
    assert told.returncode == 0 and max(map(len, told.stdout.splitlines())) <= 80
    examples = [shlex.split(line) for line in told.stdout.splitlines() if line.startswith("  python -m benchmarks ")]
    assert len(examples) >= 11
    for words in examples:
        end = next((i for i, word in enumerate(words) if word in ("this", "all:", "an")), len(words))
        given = [str(ROOT) if word == "../before" else word for word in words[3:end]]
        if "--data" in given:
            given[given.index("--data") + 1] = str(ROOT / "README.md")
        command._parser().parse_args(given)


def test_the_list_has_every_benchmark(capsys):
    assert command._list() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*modules.OPS, *modules.STEPS]
    assert all(len(line.split()) > 1 and len(line) <= 80 for line in lines)


def test_every_kernel_of_an_operation_and_every_file_is_in_the_list():
    assert_lists(set(modules.OPS) - {"adamw", "norm", "sgd"}, "OPS in benchmarks/modules.py", WITH_KERNELS)
    files = {path.stem.removeprefix("bench_") for path in Path(modules.__file__).parent.glob("bench_*.py")}
    with_tables_of_their_own = {"ladder", "tokenizer"}
    where = "OPS in benchmarks/modules.py"
    assert_lists([*modules.OPS, *modules.STEPS], where, files - with_tables_of_their_own)


def test_quick_names_rows_that_there_are():
    ops = {name: cases for name, cases in plan.QUICK.items() if name not in modules.STEPS}
    assert all(set(cases) <= modules.load(name).cases.keys() for name, cases in ops.items())
    assert len(list(kernel_race.cases(ops, False, plan.QUICK))) == sum(map(len, ops.values()))
    assert set(plan.QUICK["train_step"]) <= bench_train_step.CASES.keys()
    raced = plan.plan([*plan.QUICK], quick=True, quick_rows=True, bfloat16=False)
    assert raced.races["train_step"] == plan.Race(plan.QUICK["train_step"], ["tinygpt float32", "torch float32"])
    assert {*raced.races} == {*plan.QUICK} & {*modules.STEPS}  # the others take longer
    assert raced.size == "small" and len(raced.rows) == sum(map(len, ops.values()))


def test_cases_and_sides_are_chosen_by_name_or_words():
    names = ["linear", "train_step"]
    raced = plan.plan(names, cases=["nano", "c_fc, N=256"], sides=["tinygpt", "torch float32"])
    assert {case for _, case, _ in raced.rows} == {"c_fc, N=256"} and raced.kernel_sides == ["tinygpt", "torch"]
    assert raced.races["train_step"] == plan.Race(
        ["nanoGPT's recipe, B=12 T=64"], [*bench_train_step.OURS, "torch float32"]
    )
    assert plan.plan(["train_step"], sides=["max-autotune"]).races["train_step"].sides == [
        "torch float32 max-autotune", "torch bfloat16 max-autotune",
    ]  # fmt: skip
    everything = plan.plan(names)
    assert everything.races["train_step"] == plan.Race([*bench_train_step.CASES], [*bench_train_step.SIDES])
    assert not any("bfloat16" in side for side in plan.plan(names, bfloat16=False).races["train_step"].sides)
    assert plan.plan(["generate"], bfloat16=False).races["generate"].sides == [*bench_generate.SIDES]


def test_the_other_checkout_races_beside_the_chosen_sides_of_ours():
    raced = plan.plan(["train_step", "generate"], against=True, sides=["tinygpt float32", "compiled"])
    compiled = ["torch float32 compiled", "torch bfloat16 compiled"]
    assert raced.races["train_step"].sides == ["tinygpt float32", *compiled, "against float32"]
    assert raced.races["generate"].sides == ["tinygpt float32", "against float32"]


@pytest.mark.parametrize("option", ["--cases", "--sides"])
def test_a_case_or_side_that_there_is_not_is_told_with_those_there_are(option):
    result = run("gelu", option, "tourch")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"benchmarks: {option}: nothing is called 'tourch'; there are: ")


def test_no_default_of_small_steps_shared_or_python_share_waits_for_a_compiler():
    names = ["train_step", "shared", "python_share", "recipe"]
    races = plan.plan(names).races
    assert [*races] == [*names, "small_steps"]
    for name in {*races} - {"train_step"}:
        assert races[name].sides and not any(side.endswith(bench_train_step.COMPILED) for side in races[name].sides)
    named = plan.plan(names[:2], sides=["tinygpt float32", "torch float32 compiled"]).races
    for name in ("small_steps", "shared"):
        assert named[name].sides == ["tinygpt float32", "torch float32 compiled"]
    assert plan.plan(names, cases=["C=64"]).races["small_steps"].cases == ["2 layers, C=64, B=8 T=16"]


def test_every_type_of_weights_generates_and_has_its_perplexity():
    for module in (bench_generate, bench_perplexity):
        assert {side.split()[1] for side in module.SIDES if side.startswith("tinygpt")} == {*KINDS}
        assert {*KINDS} <= module.TOLERANCE.keys()


def test_a_folder_that_is_no_checkout_is_told(tmp_path):
    result = run("gelu", "--against", str(tmp_path))
    assert result.returncode == 2 and "--against must be a checkout of tinygpt" in result.stderr


class Side:
    """Stands for a worker: answers what a side of training steps is asked for."""

    fails: dict[str, Exception] = {}  # noqa: RUF012 (set by monkeypatch)
    limits: list = []  # noqa: RUF012

    def __init__(self, side, root=None, harness=None):
        self.side = side

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    kill = close = lambda self: None

    def ask_within(self, seconds, *arguments, **given):
        self.limits.append(seconds)
        return self.ask(*arguments, **given)

    def ask(self, module, function, **given):
        if function == "prepare" and self.side in self.fails:
            raise self.fails[self.side]
        return {"prepare": [4.0, 3.9], "measure": 0.5, "peak_memory": 10**9}[function]


@pytest.fixture
def no_processes(monkeypatch):
    """Sides without processes; returns the class, whose `fails` says which do."""
    monkeypatch.setattr(bench_train_step, "Worker", Side)
    monkeypatch.setattr(bench_train_step, "PAUSE", 0)
    monkeypatch.setattr(Side, "fails", {})
    monkeypatch.setattr(Side, "limits", [])
    return Side


def test_a_side_that_cannot_be_compiled_is_left_out_and_named(no_processes):
    compiled = "torch float32 max-autotune"
    no_processes.fails[compiled] = worker.WorkerError(f"{compiled}: took longer than 7 s")
    (found,) = bench_train_step.race(2, ["tiny"], ["tinygpt float32", compiled, "torch float32 compiled"], limit=7)
    assert [*found["readings"]] == ["tinygpt float32", "torch float32 compiled", "tinygpt float32 again"]
    assert found["left_out"] == {compiled: "took longer than 7 s"} and no_processes.limits == [7, 7]
    assert f"Left out, {compiled}: took longer than 7 s." in table.steps([found])
    assert found["float32_to_torch"] == 1.0


def test_a_side_that_need_not_be_compiled_must_not_fail(no_processes):
    no_processes.fails["torch float32"] = worker.WorkerError("torch float32: no")
    with pytest.raises(worker.WorkerError, match="torch float32: no"):
        list(bench_train_step.race(1, ["tiny"], ["tinygpt float32", "torch float32"]))


def test_a_side_that_finds_no_memory_is_left_out_and_named(no_processes, monkeypatch):
    left = iter([9 * 10**9, 9 * 10**9, 10**9])
    monkeypatch.setattr(bench_train_step, "available_memory", lambda: next(left))
    (found,) = bench_train_step.race(1, ["tiny"], ["tinygpt float32", "torch float32", "torch bfloat16"])
    assert [*found["left_out"]] == ["torch bfloat16"] and "1.0 GB of memory are left" in found["left_out"][
        "torch bfloat16"
    ]


def test_losses_are_verified_by_float32_though_it_is_not_raced(no_processes):
    (found,) = bench_train_step.race(1, ["tiny"], ["torch bfloat16", "tinygpt bfloat16"])
    assert [*found["readings"]] == ["torch bfloat16", "tinygpt bfloat16", "torch bfloat16 again"]


def test_the_table_of_steps_says_memory_and_the_other_checkout():
    found = {**STEP, "memory": {"tinygpt float32": 3e9, "torch float32": 4e9, "torch float32 compiled": 5e9}}
    found["readings"] = {**STEP["readings"], "against float32": [1.5, 1.5]}
    text = table.steps([found])
    assert "Peak memory, as a share of the least that PyTorch needs: 0.75 in float32." in text
    assert "PyTorch's best takes **2.00** times as long in float32" in text
    assert "the other checkout takes **1.49** times as long as ours in float32." in text


def test_a_side_that_takes_too_long_is_ended():
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    start = time.monotonic()
    with worker.Worker("numpy") as it, pytest.raises(worker.WorkerError, match=r"^numpy: took longer than 3 s$"):
        it.ask_within(3, "subprocess", "call", args=sleep)
    assert time.monotonic() - start < 40


def test_within_the_time_the_answer_is_that_of_the_function():
    with worker.Worker("numpy") as it:
        assert it.ask_within(100, "os.path", "basename", p="a/b") == "b"
        with pytest.raises(worker.WorkerError, match="numpy: "):
            it.ask_within(100, "os.path", "basename", q=1)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the project whose tinygpt says so, and whose operations without kernels give twice as much."""
    for name in ("tinygpt", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / "other" / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    with open(tmp_path / "other" / "tinygpt" / "__init__.py", "a", encoding="utf-8") as file:
        file.write("\n\ndef marker():\n    return 'other'\n")
    sides = tmp_path / "other" / "benchmarks" / "sides.py"
    text = sides.read_text(encoding="utf-8")
    ours = "        return numpy(op, given)\n"
    assert text.count(ours) == 1
    sides.write_text(text.replace(ours, "        return lambda: [2 * each for each in numpy(op, given)()]\n"))
    return tmp_path / "other"


def test_another_checkout_runs_its_own_code_and_must_be_right_too(own, checkout):
    with worker.Worker("against", checkout) as it:
        assert it.ask("tinygpt", "marker") == "other"
    own(OWN + "CASES = {'tiny': {'shape': (2, 3)}}")
    rows = [("own:", "tiny", "highest")]
    with pytest.raises(kernel_race.WrongResult, match="own, tiny, highest: against: the output is off by"):
        list(kernel_race.race(rows, 1, None, against=checkout))
    shutil.copy(ROOT / "benchmarks" / "sides.py", checkout / "benchmarks" / "sides.py")
    (found,) = kernel_race.race(rows, 1, None, sides=["tinygpt"], against=checkout)
    assert [*found["readings"]] == ["tinygpt", "against", "tinygpt again"] and found["to_against"] > 0


def test_another_checkout_runs_cases_that_its_own_harness_does_not_have(checkout):
    (checkout / "benchmarks" / "bench_shared.py").unlink()
    question = {"module": "benchmarks.modules", "function": "summary", "name": "shared"}
    with worker.Worker("against", checkout) as it, pytest.raises(worker.WorkerError, match="bench_shared"):
        it.ask(**question)
    with worker.Worker("against", checkout, harness=ROOT) as it:
        assert it.ask(**question).startswith("Training steps beside busy processes")
        assert it.ask("tinygpt", "marker") == "other"


def test_what_torch_compiles_is_kept_where_the_user_says_else_beside_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = machine.compiled_by_torch()["TORCHINDUCTOR_CACHE_DIR"]
    assert Path(kept) == tmp_path / "tinygpt-benchmarks" / "torchinductor"  # nothing that `tinygpt cache` looks into
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert machine.compiled_by_torch() == {"TORCHINDUCTOR_CACHE_DIR": "/elsewhere"}


def test_no_row_is_begun_when_the_time_is_over(monkeypatch):
    monkeypatch.setattr(kernel_race, "Worker", lambda side, root: contextlib.nullcontext(None))
    assert list(kernel_race.race([("gelu", "N=256", "highest")], 1, None, until=time.monotonic() - 1)) == []


OWN = """
import torch
import numpy as np
from tinygpt import Op

def forward(a, b):
    return a * b, (a, b)

def backward(dout, saved):
    a, b = saved
    return dout * b, dout * a

PRODUCT = Op("product", forward, backward)
TORCH = "def torch_forward(a, b):\\n    return a * b"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module of a user's own into the current folder; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules_before = {*sys.modules}

    def write(text: str, name: str = "own") -> str:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    yield write
    for name in {*sys.modules} - modules_before:
        if getattr(sys.modules[name], "__file__", "") and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_users_module_needs_only_an_op(own):
    assert modules.resolve(own(OWN)) == "own:"
    benchmark = modules.load("own:")
    assert benchmark.name == "own" and not benchmark.has_kernel and len(benchmark.cases) == 2
    assert benchmark.torch is None  # `import torch` is no rival
    case = next(iter(benchmark.cases.values()))
    given = benchmark.given(case, np.random.default_rng(0))
    assert [array.shape for array in given.arrays] == [case["shape"]] * 2 and given.dout.shape == case["shape"]
    out, da, _ = benchmark.numpy(given)()
    np.testing.assert_array_equal(out, given.arrays[0] * given.arrays[1])
    np.testing.assert_array_equal(da, given.dout * given.arrays[1])
    assert benchmark.cost(case, given) == {"bytes": 8 * out.nbytes}  # 3 for each input, 2 for the output


def test_a_case_may_be_called_by_a_number(own):
    own(OWN + "CASES = {256: {'shape': (2, 3)}}")
    assert modules.load("own:").cases == {"256": {"shape": (2, 3)}}


def test_a_rival_that_is_a_forward_has_its_gradients_from_autograd(own):
    own(OWN + "\ndef torch_forward(a, b):\n    return a * b\n")
    benchmark = modules.load("own:")
    given = benchmark.given({"shape": (2, 3)}, np.random.default_rng(0))
    for ours, theirs in zip(benchmark.numpy(given)(), benchmark.torch(given)(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("x = 1", "own", "module own has no tinygpt.Op"),
        (
            OWN + "OTHER = PRODUCT._replace(name='other')",
            "own",
            "several operations, OTHER, PRODUCT: say which, own:NAME",
        ),
        (OWN, "own:NOTHING", "module own has no NOTHING; its operations: PRODUCT"),
        (OWN, "own:forward", "own:forward must be a tinygpt.Op, got function; its operations: PRODUCT"),
        (OWN + "CASES = 3", "own", "CASES must be a dict, what a row is called -> its sizes, got 3"),
        (OWN + "TOLERANCE = 'x'", "own", "own: TOLERANCE must be a number from 0 to below 1, got 'x'"),
        (OWN + "PRECISIONS = 'highest'", "own", "own: PRECISIONS must be a tuple of 'highest' and 'medium'"),
        (OWN, "gelu:GELU", "gelu is a benchmark with one operation: write gelu, without a colon"),
        ("1 / 0", "own", "own cannot be imported: ZeroDivisionError: division by zero"),
        ("import no_such_module_here", "own", "own cannot be imported: ModuleNotFoundError"),
        (OWN, "no such", "'no such' must be module:name, the module's name as in import"),
        (OWN, "nosuch.py", "there is no file nosuch.py"),
    ],
)
def test_what_cannot_be_raced_is_told(own, text, name, says):
    own(text)
    with pytest.raises(ValueError) as error:
        modules.resolve(name)
    assert says in str(error.value)


def test_shapes_that_the_op_refuses_are_told_with_the_remedy(own):
    own(OWN.replace("a * b, (a, b)", "a @ b, (a, b)"))
    benchmark = modules.load("own:")
    with pytest.raises(ValueError, match=r"own: its forward fails on arrays of shapes .*; define CASES with 'shapes'"):
        benchmark.given({"shape": (2, 3)}, np.random.default_rng(0))
    given = benchmark.given({"shapes": [(2, 3), (3, 4)]}, np.random.default_rng(0))
    assert given.dout.shape == (2, 4)


def test_shapes_that_are_one_shape_are_told(own):
    own(OWN)
    with pytest.raises(ValueError, match=r"one shape for each input: \[\(256, 3072\)\], got \(256, 3072\)"):
        modules.load("own:").given({"shapes": (256, 3072)}, np.random.default_rng(0))


def test_a_result_is_called_what_it_is(own):
    own(OWN)
    assert [modules.load("own:").result(i) for i in range(3)] == [
        "the output",
        "the gradient of a",
        "the gradient of b",
    ]
    assert modules.load("adamw").result(0) == "result 0"  # its results are no gradients


def test_a_users_module_is_raced_by_its_path(own, tmp_path):
    own(OWN + "def torch_forward(a, b):\n    return a * b\nCASES = {'tiny': {'shape': (2, 3)}}\n", "mine")
    told = run(str(tmp_path / "mine.py"), "--verify-only")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [
        "mine: it has no kernel; its reference is raced as tinygpt's side", "1 benchmark: all results are right",
    ]  # fmt: skip


def test_a_wrong_rival_and_a_kernel_that_fails_are_one_line(own, tmp_path):
    own(OWN + "def torch_forward(a, b):\n    return a + b\nCASES = {'tiny': {'shape': (2, 3)}}\n")
    own(OWN.replace("    return a * b, (a, b)", "    return a * c, (a, b)") + "given = lambda case, rng: "
        "([np.ones(2), np.ones(2)], np.ones(2))\nCASES = {'tiny': {}}\n", "fails")  # fmt: skip
    expected = {
        "own": "own, tiny, highest: torch: the output is off by",
        "fails": "fails, tiny: numpy: NameError: name 'c' is not defined (fails.py, line 7)",
    }
    for name, says in expected.items():
        told = run(name, "--verify-only", cwd=tmp_path)
        lines = [line for line in told.stderr.splitlines() if line.startswith("benchmarks: ")]
        assert told.returncode == 1 and "Traceback" not in told.stderr
        assert len(lines) == 1 and says in lines[0], told.stderr


def children_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"\nPPid:\t{parent}\n" in (folder / "status").read_text():
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_a_race_is_stopped(ending, monkeypatch):
    race = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "add", "--rounds", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (workers := children_of(race.pid)) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    workers = {*workers, *children_of(race.pid)}
    assert workers
    race.send_signal(ending)
    _, errors = race.communicate(timeout=60)
    if ending == signal.SIGINT:
        assert race.returncode == 130 and errors.splitlines()[-1] == "benchmarks: stopped"
        assert "Traceback" not in errors
    end = time.monotonic() + 60
    while (left := [pid for pid in workers if is_worker(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


def is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"benchmarks.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def test_a_worker_that_dies_is_told():
    with (
        pytest.raises(worker.WorkerError, match=r"numpy: its process was ended by SIGABRT"),
        worker.Worker("numpy") as it,
    ):
        it.ask("os", "abort")


@pytest.mark.slow
def test_the_ladder_is_checked_timed_and_shown():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_ladder", "--rounds", "1"], cwd=ROOT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["product", "triple loop", "blocked", "packed", "register tile", "gemm.multiply"]


@pytest.mark.slow
def test_a_race_is_checked_timed_and_shown(tmp_path):
    told = run("gelu", "--rounds", "1", "--json", str(tmp_path / "all.json"), "--plot", str(tmp_path / "all.png"))
    assert told.returncode == 0, told.stderr
    assert "| gelu   | N=1024 |" in told.stdout and "measured peak: " in told.stdout
    assert "one round: nothing is known of the noise" in told.stdout
    report = json.loads((tmp_path / "all.json").read_text())
    assert [row["case"] for row in report["kernels"]] == ["N=256", "N=1024"] and report["processor name"]
    assert (tmp_path / "all.png").stat().st_size > 10_000
