"""What the system says of the processor: several of Linux's kinds as files, and systems that say nothing."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import pytest

from tinygpt.runtime import processor
from tinygpt.runtime.processor import Cache, Identity, Topology

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 167
model name\t: Intel(R) Xeon(R) Processor
stepping\t: 1
flags\t\t: fpu avx512f hypervisor amx_bf16 amx_tile

processor\t: 1
model name\t: another
"""
EPYC = """vendor_id : AuthenticAMD
cpu family : {family}
model : 17
model name : AMD EPYC
stepping : 1
flags : {flags}
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"


@pytest.fixture
def info(tmp_path, monkeypatch):
    """Writes what stands for /proc/cpuinfo."""
    monkeypatch.setattr(processor, "_INFO", tmp_path / "cpuinfo")
    return (tmp_path / "cpuinfo").write_text


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Makes the files of /sys/devices/system/cpu: of each processor its siblings, socket and caches."""
    monkeypatch.setattr(processor, "_PROCESSORS", tmp_path)

    def make(processors: dict[int, tuple[str, str, dict[int, tuple[str, str]]]]) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*processors}, raising=False)
        for number, (siblings, socket, caches) in processors.items():
            write(tmp_path / f"cpu{number}" / "topology", thread_siblings_list=siblings, physical_package_id=socket)
            for level, (size, shared) in caches.items():
                where = tmp_path / f"cpu{number}" / "cache" / f"index{level}"
                write(where, level=str(level), size=size, shared_cpu_list=shared, type="Unified")
            first = tmp_path / f"cpu{number}" / "cache" / "index0"  # of code: no data is in it
            write(first, level="1", size="4096K", shared_cpu_list=str(number), type="Instruction")

    return make


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def test_a_processor_is_told_by_its_numbers_where_its_name_says_little(info):
    info(XEON)
    found = processor.identity()
    assert found[:6] == ("Intel(R) Xeon(R) Processor", "GenuineIntel", 6, 167, 1, True)
    assert "amx_tile" in found.features and found.core == ""
    assert found.text == "Intel(R) Xeon(R) Processor, family 6, model 167, stepping 1"


@pytest.mark.parametrize(
    ("family", "flags", "core"),
    [
        (25, "avx2 avx512f", "Zen 4"),
        (25, "avx2", "Zen 3 or 4"),
        (26, "avx512f", "Zen 5"),
        (23, "avx2", "Zen 1 or 2"),
        (99, "", ""),
    ],
)
def test_amds_cores_are_told_apart(info, family, flags, core):
    info(EPYC.format(family=family, flags=flags))
    found = processor.identity()
    assert found.core == core and not found.virtual
    assert found.text == ", ".join(filter(None, ["AMD EPYC", core, f"family {family}, model 17, stepping 1"]))


def test_a_processor_without_name_or_numbers_is_called_something(info):
    info(ARM)
    assert processor.identity().text and processor.identity().family is None
    assert "asimd" in processor.identity().features


def test_a_system_that_says_nothing_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_INFO", tmp_path / "none")
    monkeypatch.setattr(processor, "_PROCESSORS", tmp_path / "none")
    assert processor.identity().text and processor.caches() == []
    assert processor.topology().processors >= 1 and processor.topology().cores is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS
    assert processor.topology() == Topology(os.cpu_count()) and processor.caches() == []


def test_hyperthreads_of_one_core_and_sockets_are_counted(system):
    """Four processors on two cores of one socket, and two of the four may be used."""
    private = {1: ("48K", "{}"), 3: ("32768K", "0-3")}
    each = {n: (siblings, "0", private) for n, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"])}
    system(each)
    assert processor.topology() == Topology(4, cores=2, sockets=1)
    system({n: each[n] for n in (0, 2)})
    assert processor.topology() == Topology(2, cores=1, sockets=1)


def test_caches_are_counted_once_each_without_those_of_code(system):
    """Two cores share the first cache of 200 MB, two have the other."""
    system({n: (str(n), "0", {1: ("48K", str(n)), 3: ("204800K", "0-1" if n < 2 else "2-3")}) for n in range(4)})
    assert processor.caches() == [Cache(1, 48 * 2**10, 1, 4), Cache(3, 200 * 2**20, 2, 2)]


def test_the_examples_are_right():
    failed, attempted = doctest.testmod(processor)
    assert attempted >= 4 and not failed


def test_this_machine_agrees_with_the_rest_of_its_system():
    found = processor.topology()
    assert found.processors == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert found.cores is None or 1 <= found.cores <= found.processors
    sizes = [cache.bytes for cache in processor.caches()]
    assert sizes == sorted(sizes)  # each level is larger than the one before


def test_a_name_alone_is_enough():
    assert Identity("Apple M2").text == "Apple M2"
