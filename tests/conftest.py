"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# A shell starts what runs in the background with SIGINT ignored, and a child would inherit that: it waits for Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The matrices of the tests are small: a second thread costs more than it computes. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("tinygpt", deadline=None, print_blob=True)
settings.load_profile("tinygpt")

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TINYGPT_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="package")
def shared_data() -> Path:
    """The folder of real text and of GPT-2's vocabulary that is not part of the project."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA}: set TINYGPT_TEST_DATA to the folder that holds gutenberg/ and gpt2/")
    return DATA


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of its own for every test, always the same."""
    return np.random.default_rng(1337)


def fail_if_skipped(report) -> None:
    """
    With TINYGPT_NO_SKIPS set, as continuous integration sets it, a skip for want of data or torch is a failure.

    What a processor does not have cannot be installed: a reason that begins with "this processor" is accepted.
    """
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("TINYGPT_NO_SKIPS"):
        return
    if "Skipped: this processor" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped, but TINYGPT_NO_SKIPS is set: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    fail_if_skipped(report)
    return report


@pytest.fixture
def as_on_a_terminal(monkeypatch):
    """Progress is drawn as bars, though nothing in a test is a terminal."""
    monkeypatch.setattr("tinygpt.runtime.progress_bar.is_terminal", lambda stream: True)
