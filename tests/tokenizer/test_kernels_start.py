"""How kernels start: never for a sentence, without a compiler, from a cache that no stale kernel comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt.tokenizer import training

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


WORK = """
import sys
from tinygpt.tokenizer import Tokenizer
words = [chr(97 + n % 26) * (n % 7 + 1) + chr(97 + n // 26 % 26) for n in range(676)]
text = " ".join(words) * (1_500_000 // 4_000)
documents = [text[start : start + 100_000] for start in range(0, len(text), 100_000)]
def work():
    for corpus, pattern in ((text, None), (documents, None), (documents, r"\\S+|\\s+")):
        tokenizer = Tokenizer.train(corpus, 300, pattern=pattern, progress=False)
        ids = [id for document in documents for id in tokenizer.encode(document)]
        assert tokenizer.encode(text) and tokenizer.decode(ids) == text
"""


def compiled(cache: Path) -> set[str]:
    """The stages and the kernels of the tokenizer in a cache."""
    return {path.name for path in cache.rglob("*") if path.suffix in (".compiled", ".nbc")}


def test_what_the_reference_does_sooner_does_not_wait_for_the_compiler(tmp_path):
    code = WORK + "work(); print('numba' in sys.modules)"
    assert run(code, XDG_CACHE_HOME=str(tmp_path), NUMBA_CACHE_DIR="").split() == ["False"]


@pytest.mark.parametrize("before", ["import tinygpt.tokenizer.kernels", "MARKS OF ANOTHER VERSION"])
def test_that_numba_is_imported_is_no_reason_to_compile(tmp_path, before):
    if before.startswith("MARKS"):
        before, other = "", tmp_path / "tinygpt/tokenizer-0123456789abcdef"
        other.mkdir(parents=True)
        for stage in ("encoding", "decoding", "training"):
            (other / f"{stage}.compiled").touch()
    marks = compiled(tmp_path)
    code = f"{before}{WORK}work(); print('numba' in sys.modules)"
    assert run(code, XDG_CACHE_HOME=str(tmp_path), NUMBA_CACHE_DIR="").split() == ["True"]
    assert compiled(tmp_path) == marks


def test_what_is_compiled_on_disk_is_used_in_another_process(tmp_path):
    """One that has not imported Numba finds the mark, and then uses kernels for a million characters, not for fewer."""
    cache = {"XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    run("from tinygpt.tokenizer.kernels.trainer import compile_ahead\ncompile_ahead()", **cache)
    assert "training.compiled" in compiled(tmp_path)
    train = "Tokenizer.train(text[:{}], 300, progress=False); print('numba' in sys.modules)"
    assert run(WORK + train.format(900_000), **cache).split() == ["False"]
    assert run(WORK + train.format(1_200_000), **cache).split() == ["True"]


def test_learning_alone_is_worth_the_kernels_where_the_words_are_many(monkeypatch):
    text = " ".join(f"{number:b}" for number in range(3000))
    monkeypatch.setattr(training, "_LEARNING", 1 << 25)
    found = []
    for worth in (1 << 40, 1):
        monkeypatch.setattr(training, "_WORTH_LOADING", worth)
        words = training.CorpusWords(None)
        words.add(text)
        found.append([merge for merges in words.learn("gpt2", 40) for merge in merges])
        assert (words._compiled is not None) == (worth == 1)
    assert found[0] == found[1] and len(found[0]) == 40


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
