"""What `tinygpt doctor`, `tinygpt warmup` and `tinygpt train --dry-run` say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tinygpt.kernels import rates
from tinygpt.study.machine import advice

GOOD = {"cores": 2, "threads": 2, "bfloat16": "by AVX-512"}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tinygpt", *arguments], env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip


def test_the_doctor_tells_what_it_found():
    shown = command("doctor")
    assert shown.returncode == 0, shown.stderr
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines() if not line.startswith("advice"))
    assert {"processor", "bfloat16", "threads", "numba", "kernels", "products", "reading"} <= lines.keys()
    assert int(lines["cores"]) == len(os.sched_getaffinity(0))


def test_programs_read_the_same_as_json():
    found = json.loads(command("doctor", "--json", "--threads", "1").stdout)
    assert found["threads"] == 1
    assert found["float32_gflops"] > 0.1 and found["read_gbytes"] > 0.1
    assert isinstance(found["advice"], list) and found["advice"]


def test_what_is_read_is_larger_than_all_caches_of_the_last_level(tmp_path, monkeypatch):
    """Two cores share the first cache of 200 MB, two have the other; first-level caches do not count."""
    for core, shared in [(0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")]:
        for level, size, owners in [(1, "48K", str(core)), (3, "204800K", shared)]:
            cache = tmp_path / f"cpu{core}" / "cache" / f"index{level}"
            cache.mkdir(parents=True)
            for name, text in [("level", level), ("size", size), ("shared_cpu_list", owners)]:
                (cache / name).write_text(f"{text}\n")
    monkeypatch.setattr(rates, "_CACHES", tmp_path)
    monkeypatch.setattr(rates, "memory_limit", lambda: None)
    assert rates._last_level_caches() == 2 * 204800 * 1024
    assert rates._beyond_caches() == 4 * 204800 * 1024
    monkeypatch.setattr(rates, "memory_limit", lambda: 1 << 30)
    assert rates._beyond_caches() == 1 << 27
    monkeypatch.setattr(rates, "_CACHES", tmp_path / "none")
    assert rates._last_level_caches() == 0


def test_the_best_of_at_least_five_turns_counts(monkeypatch):
    monkeypatch.setattr(rates, "_beyond_caches", lambda: 1 << 20)
    monkeypatch.setattr(rates, "_SIZE", 64)
    seconds = iter([3.0, 3.0, 3.0, 1.0, 2.0, 3.0] + [3.0] * 9)
    monkeypatch.setattr(rates, "_seconds", lambda run: next(seconds))
    found = rates.rates(seconds=0)
    assert found["turns"] == 5
    assert found["float32_gflops"] == 2 * 64**3 / 1e9 and found["bfloat16_gflops"] == 64**3 / 1e9
    assert found["read_gbytes"] == 2**20 / 3e9


@pytest.mark.parametrize(
    ("found", "layer", "kept", "expected"),
    [
        (GOOD, "omp", True, "tinygpt train --precision bfloat16"),
        (GOOD | {"bfloat16": "none: products stay float32"}, "omp", True, "has no bfloat16 instructions"),
        (GOOD | {"threads": 1}, "omp", True, "1 of 2 cores are used"),
        (GOOD | {"threads": 8}, "omp", True, "8 threads share 2 cores"),
        (GOOD, "workqueue", True, "install OpenMP"),
        (GOOD, "omp", False, "make it writable, or set NUMBA_CACHE_DIR"),
    ],
)
def test_the_first_advice_is_the_one_that_helps_most(found, layer, kept, expected):
    assert expected in advice(found, layer, kept)[0]


@pytest.mark.slow
def test_after_a_warmup_nothing_is_left_to_compile(tmp_path):
    """Whatever a training run then needs lies in the folder: its files stay as they are."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first = command("warmup", "--quiet", **cache)
    assert first.returncode == 0 and first.stdout.startswith("every kernel is compiled ("), first.stderr
    assert "warning" not in first.stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.nbc")}
    assert len(before) > 20
    run = ["train", "--steps", "2", "--batch-size", "2", "--eval-every", "1", "--dropout", "0.1", "--quiet"]
    for precision in ("float32", "bfloat16"):
        trained = command(*run, "--precision", precision, "--out", str(tmp_path / precision), **cache)
        assert trained.returncode == 0, trained.stderr
        assert "compiling" not in trained.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.nbc")} == before


def test_a_dry_run_shows_the_ledger_and_makes_nothing(tmp_path):
    shown = command("train", "--preset", "gpt2", "--batch-size", "4", "--context", "64", "--dry-run",
                    "--out", str(tmp_path / "run"))  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("123,702,528 parameters, batches of 4 x 64 tokens; at the peak\n")
    *ledger, disk = shown.stdout.splitlines()[1:]
    assert disk == "on disk: best 495 MB, last 1,979 MB"
    kinds = [line.split()[0] for line in ledger]
    assert kinds == ["parameters", "gradients", "moments", "activations", "workspace", "program", "total"]
    assert not (tmp_path / "run").exists()
