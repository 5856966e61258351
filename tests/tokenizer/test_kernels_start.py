"""How kernels start: never for a sentence, without a compiler, from a cache that no stale kernel comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
from tinygpt.tokenizer import Tokenizer
tokenizer = Tokenizer.train("the hen and the fox and the other hen. " * 3, 270, progress=False)
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sentence_does_not_wait_for_numba():
    code = TRAIN + (
        "import sys\n"
        "assert tokenizer.decode(tokenizer.encode('the hen ' * 100)) == 'the hen ' * 100\n"
        "print('numba' in sys.modules, 'tinygpt.tokenizer.kernels' in sys.modules)"
    )
    assert run(code).split() == ["False", "False"]


def test_numpy_never_imports_numba():
    code = TRAIN + "import sys\nassert len(tokenizer.encode('the hen ' * 200_000))\nprint('numba' in sys.modules)"
    assert run(code, TINYGPT_IMPLEMENTATION="numpy").split() == ["False"]


def test_kernels_run_without_a_compiler():
    """Plain Python: every step is seen, and integers that overflow do so as they do when compiled."""
    code = """
import tinygpt, warnings
warnings.simplefilter("error")
from tinygpt.tokenizer import Tokenizer
text = "the hen's egg, 汉字 12²!  été\\n\\n" + "x" * 80 + " wonderfully " * 3
with tinygpt.implementation("check"):
    tokenizer = Tokenizer.train(text, 290, progress=False)
    ids = tokenizer.encode(text + "<|endoftext|>", allowed_special="all")
    assert tokenizer.decode(ids) == text + "<|endoftext|>"
import numba
from tinygpt.tokenizer.kernels.encoder import encode_texts
print(numba.config.DISABLE_JIT, type(encode_texts).__name__, tokenizer._encoder._compiled is not None)
"""
    assert run(code, NUMBA_DISABLE_JIT="1").split() == ["1", "function", "True"]


def test_compiled_kernels_are_kept_where_caches_belong(tmp_path):
    code = """
import numba
from tinygpt.tokenizer.kernels.hashing import load, padded
print(load(padded(b"\\x07"), 0), repr(numba.config.CACHE_DIR))
"""
    assert run(code, XDG_CACHE_HOME=str(tmp_path), NUMBA_CACHE_DIR="").split() == ["7", "''"]
    (folder,) = (tmp_path / "tinygpt").iterdir()
    assert folder.name.startswith("tokenizer-")
    assert list(folder.rglob("*.nbc"))


def test_kernels_work_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    code = "from tinygpt.tokenizer.kernels.hashing import load, padded\nprint(load(padded(b'\\x07'), 0))"
    assert run(code, XDG_CACHE_HOME=str(tmp_path / "file"), NUMBA_CACHE_DIR="").split() == ["7"]
