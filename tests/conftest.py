"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("tinygpt", deadline=None, print_blob=True)
settings.load_profile("tinygpt")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and of GPT-2's vocabulary that is not part of the project."""
    folder = Path(os.environ.get("TINYGPT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set TINYGPT_TEST_DATA to the folder that holds gutenberg/ and gpt2/")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of its own for every test, always the same."""
    return np.random.default_rng(1337)
