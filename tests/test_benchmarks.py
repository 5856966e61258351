"""The harness of the benchmarks: a wrong result is never timed, and ratios are what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the benchmarks race against torch: install the extra 'reference'")

from benchmarks import bench_ladder, bench_train_step, kernel_race, table

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
    with pytest.raises(kernel_race.WrongResult, match=f"gelu, N=256, highest: {side}'s result 0 is off by"):
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


def test_the_table_shows_what_was_read():
    readings = {"numpy": [0.01], "tinygpt": [0.002, 0.001, 0.004], "torch": [0.006], "tinygpt again": [0.002]}
    row = {"benchmark": "gelu", "case": "N=256", "precision": "highest", "readings": readings, "kind": "bytes",
           "rate": 31.4, "share": 0.91, "to_torch": 3.0, "to_numpy": 5.0, "noise": 1.0}  # fmt: skip
    line = table.kernels([row]).splitlines()[-1]
    assert line == "| gelu | N=256 |  | 10 | 6 | 2 (1-4) | 31.4 GB/s | 91% | 5.0 | **3.00** | 1.00 |"


def test_an_unknown_name_is_a_user_s_mistake():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gulu"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2
    assert result.stderr.startswith("benchmarks: there is no 'gulu'; choose from linear, ")


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
def test_a_race_is_checked_timed_and_shown():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gelu", "--rounds", "1"], cwd=ROOT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "| gelu | N=1024 |" in result.stdout and "measured peak: bandwidth" in result.stdout
