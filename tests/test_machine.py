"""What `tinygpt doctor`, `tinygpt warmup` and `tinygpt train --dry-run` say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tinygpt.cli import doctor
from tinygpt.kernels import rates
from tinygpt.runtime.processor import Cache, Topology
from tinygpt.study import machine
from tinygpt.study.machine import advice

GOOD = {"processors": 2, "cores": 2, "threads": 2, "bfloat16": "by AVX-512"}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tinygpt", *arguments], env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip


def test_the_doctor_tells_what_it_found():
    shown = command("doctor")
    assert shown.returncode == 0, shown.stderr
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines() if not line.startswith("advice"))
    assert {
        "processor",
        "float32",
        "bfloat16",
        "threads",
        "caches",
        "numba",
        "kernels",
        "products",
        "reading",
    } <= lines.keys()
    assert max(map(len, shown.stdout.splitlines())) <= 100


def test_programs_read_the_same_as_json():
    found = json.loads(command("doctor", "--json", "--threads", "1").stdout)
    assert found["threads"] == 1
    assert found["float32_gflops"] > 0.1 and found["read_gbytes"] > 0.1
    assert found["processors"] == len(os.sched_getaffinity(0))
    assert {"cores", "sockets", "cache_gbytes", "cache_megabytes"} <= found.keys()
    assert isinstance(found["advice"], list) and found["advice"]


def test_what_is_read_is_larger_than_all_caches_of_the_last_level(monkeypatch):
    """Two caches of 200 MB; first-level caches do not count."""
    levels = [Cache(1, 48 << 10, 1, 4), Cache(3, 200 << 20, 2, 2)]
    monkeypatch.setattr(rates, "caches", lambda: levels)
    monkeypatch.setattr(rates, "memory_limit", lambda: None)
    assert rates.beyond_caches() == 4 * (200 << 20)
    monkeypatch.setattr(rates, "memory_limit", lambda: 1 << 30)
    assert rates.beyond_caches() == 1 << 27
    monkeypatch.setattr(rates, "memory_limit", lambda: None)
    levels.clear()
    assert rates.beyond_caches() == 1 << 28


@pytest.mark.parametrize(
    ("second", "third", "expected"),
    [
        ((2 << 20, 2), (480 << 20, 1), 16 << 20),
        ((1 << 20, 2), (32 << 20, 1), 8 << 20),
        ((1 << 20, 16), (32 << 20, 2), 32 << 20),  # half of what there is
        ((512 << 10, 4), (4 << 20, 1), None),  # no array exceeds the one and lies well within the other
        ((1 << 20, 4), None, None),
    ],
)
def test_the_array_for_the_third_level_exceeds_the_second_and_lies_well_within_the_third(
    monkeypatch, second, third, expected
):
    found = [Cache(level, size, 1, count) for level, (size, count) in ((2, second), (3, third or (0, 0))) if size]
    monkeypatch.setattr(rates, "caches", lambda: found)
    assert rates.within_third_level() == expected


def test_reading_reads_every_number():
    for size in (8, 8 * 2**15, 8 * (3 * 2**15 + 5)):
        amount, read = rates.reading(size)
        assert amount == size and read() == size // 8  # an array of ones


def test_the_best_of_at_least_five_turns_counts(monkeypatch):
    monkeypatch.setattr(rates, "beyond_caches", lambda: 1 << 20)
    monkeypatch.setattr(rates, "within_third_level", lambda: None)
    monkeypatch.setattr(rates, "_SIZE", 64)
    seconds = iter([3.0, 3.0, 3.0, 1.0, 2.0, 3.0] + [3.0] * 9)
    monkeypatch.setattr(rates, "_seconds", lambda run: next(seconds))
    found = rates.rates(seconds=0)
    assert found["turns"] == 5 and "cache_gbytes" not in found
    assert found["float32_gflops"] == 2 * 64**3 / 1e9 and found["bfloat16_gflops"] == 64**3 / 1e9
    assert found["read_gbytes"] == 2**20 / 3e9 and found["read_megabytes"] == 2**20 / 1e6
    assert found["spread"] == pytest.approx(2 / 3)  # most turns of the first product took three times the best


def test_a_best_that_stands_alone_is_measured_for_longer():
    assert not rates._agree({"float32_gflops": [1.0, 2.0, 1.0, 1.0]})
    assert not rates._agree({"float32_gflops": [2.0, 2.0, 2.0], "read_gbytes": [5.0, 1.0, 1.0]})
    assert rates._agree({"float32_gflops": [2.0, 1.0, 1.95, 2.0], "read_gbytes": [5.0, 5.0, 5.0]})


def test_a_cache_is_measured_where_there_is_one(monkeypatch):
    monkeypatch.setattr(rates, "beyond_caches", lambda: 1 << 20)
    monkeypatch.setattr(rates, "within_third_level", lambda: 1 << 16)
    monkeypatch.setattr(rates, "_SIZE", 64)
    found = rates.rates(seconds=0)
    assert found["cache_gbytes"] > 0.01 and found["cache_megabytes"] == 2**16 / 1e6


@pytest.mark.parametrize("third", [None, 55.25])
def test_the_page_names_the_array_of_each_rate_and_says_what_is_not_known(third):
    found = {"spread": 0.25, "float32_gflops": 400.0, "bfloat16_gflops": 900.0, "read_gbytes": 30.0,
             "read_megabytes": 1007.0, "turns": 9, "threads": 2, "product_size": 1536,
             "cache_gbytes": third, "cache_megabytes": third and 16.8}  # fmt: skip
    page = [text for _, text in doctor._rates(found)]
    assert page[0] == "400 GFLOP/s float32, 900 GFLOP/s bfloat16, 1536 x 1536 x 1536"
    assert page[1] == "30 GB/s from memory, an array of 1007 MB"
    assert page[3] == "each the best of 9 turns, half of which were within 25%: a busy machine"
    assert "does not say" in page[2] if third is None else page[2].endswith("third-level cache, an array of 16.8 MB")


@pytest.mark.parametrize(
    ("found", "layer", "kept", "expected"),
    [
        (GOOD, "omp", True, "tinygpt train --precision bfloat16"),
        (GOOD | {"bfloat16": "none: products stay float32"}, "omp", True, "has no bfloat16 instructions"),
        (GOOD | {"threads": 1}, "omp", True, "1 of 2 cores are used"),
        (GOOD | {"threads": 8}, "omp", True, "8 threads share 2 cores"),
        (GOOD | {"processors": 4, "threads": 4}, "omp", True, "hyperthreads of 2 cores: compare with --threads 2"),
        (GOOD | {"cores": None, "threads": 1}, "omp", True, "1 of 2 cores are used"),
        (GOOD, "workqueue", True, "install OpenMP"),
        (GOOD, "omp", False, "make it writable, or set NUMBA_CACHE_DIR"),
    ],
)
def test_the_first_advice_is_the_one_that_helps_most(found, layer, kept, expected):
    assert expected in advice(found, layer, kept)[0]


def test_rates_of_a_busy_machine_are_to_be_measured_again():
    assert "measure again" in advice(GOOD | {"spread": 0.25}, "omp", True)[-1]
    assert not any("measure again" in line for line in advice(GOOD | {"spread": 0.15}, "omp", True))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Topology(2, 2, 1), "2 cores without hyperthreads, 1 socket"),
        (Topology(128, 64, 2), "64 cores with 2 hyperthreads each, 2 sockets"),
        (Topology(3, 2, 1), "2 cores with 3 hyperthreads, 1 socket"),
        (Topology(1), "1 processor; the system does not say which are hyperthreads of one core"),
    ],
)
def test_cores_and_hyperthreads_in_words(found, expected):
    assert machine.topology_text(found) == expected


def test_caches_in_words():
    assert machine.caches_text([], Topology(2)) == "the system does not say"
    small = [Cache(1, 32 << 10, 1, 2), Cache(2, 1 << 20, 1, 2), Cache(3, 32 << 20, 2, 1)]
    told = "L1 32 KiB per core, L2 1 MiB per core, L3 32 MiB shared by 2 processors"
    assert machine.caches_text(small, Topology(2, 2, 1)) == told


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
