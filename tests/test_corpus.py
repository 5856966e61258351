"""Text on its way to token ids and batches: nothing lost, nothing invented, every mistake named."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.text.corpus import bundled_stories, encode_documents, read_documents, sample_batch, split_documents

ROOT = Path(__file__).resolve().parents[1]


class ByteTokenizer:
    """One token a byte, and the id 256 for the end of a document if wanted: all that `encode_documents` needs."""

    def __init__(self, eot_token: int | None = 256, n_vocab: int = 257) -> None:
        self.eot_token, self.n_vocab = eot_token, n_vocab

    def encode_to_numpy(self, text: str, *, allowed_special=frozenset(), disallowed_special="all") -> np.ndarray:
        if disallowed_special == "all" and "<|endoftext|>" in text:
            raise ValueError("a special token in the text")
        return np.array(list(text.encode("utf-8")), np.uint32)


# Bundled stories


def test_one_hundred_stories_come_with_the_package_each_with_its_own_title():
    stories = bundled_stories()
    assert len(stories) == 100
    assert len({story.split("\n")[0] for story in stories}) == 100


def test_bundled_stories_are_the_files_of_the_data_folder_in_the_order_of_their_names():
    files = sorted((ROOT / "data").glob("*.txt"), key=lambda file: file.name)
    assert bundled_stories() == [file.read_text(encoding="utf-8") for file in files]


def run_alone(where: Path, folder: Path) -> str:
    """What a new interpreter prints as the first story of the tinygpt found at `where`; nothing installed counts."""
    program = "import sys; sys.path[:0] = sys.argv[1:]; from tinygpt.text.corpus import *; print(bundled_stories()[0])"
    paths = [str(where), str(Path(np.__file__).parents[1])]
    # -S leaves out the site module, and with it every editable install, which would answer for our copy.
    command = [sys.executable, "-S", "-c", program, *paths]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return finished.stdout + finished.stderr.strip().rpartition("\n")[2]


def copy_of_the_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "tinygpt", folder / "tinygpt", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def make_stories(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "001-owl.txt").write_text("The Owl\n\nShe woke up.\n", encoding="utf-8")


@pytest.mark.parametrize("layout", ["wheel", "clone", "zip"])
def test_stories_are_found_in_a_wheel_in_a_bare_clone_and_in_a_zip(tmp_path, layout):
    where = copy_of_the_package(tmp_path / "site")
    make_stories(where / "data" if layout == "clone" else where / "tinygpt" / "stories")
    if layout == "zip":
        where = Path(shutil.make_archive(str(tmp_path / "site"), "zip", where))
        assert zipfile.is_zipfile(where)
    (tmp_path / "elsewhere").mkdir()
    assert run_alone(where, tmp_path / "elsewhere").startswith("The Owl\n\nShe woke up.\n")


def test_a_package_without_stories_says_so(tmp_path):
    answer = run_alone(copy_of_the_package(tmp_path / "site"), tmp_path)
    assert answer.startswith("FileNotFoundError: bundled_stories: no folder") and "install tinygpt again" in answer


# Reading


def test_a_file_is_one_document_unless_it_says_otherwise(tmp_path):
    (tmp_path / "one.txt").write_text("  A fox.\n\nslept <|endoftext|> here\n <|endoftext|>\n", encoding="utf-8")
    assert read_documents(tmp_path / "one.txt") == ["  A fox.\n\nslept <|endoftext|> here\n <|endoftext|>\n"]


def test_separator_lines_part_documents_and_blank_documents_vanish(tmp_path):
    text = "<|endoftext|>\nA fox.\n<|endoftext|>\n\n  \n<|endoftext|>\nA crow.\n\nflew<|endoftext|>\n<|endoftext|>"
    (tmp_path / "many.txt").write_text(text, encoding="utf-8")
    assert read_documents(tmp_path / "many.txt") == ["A fox.\n", "A crow.\n\nflew<|endoftext|>\n"]


def test_byte_order_mark_and_all_line_ends_become_plain(tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbfA fox.\r\n<|endoftext|>\r\nA\rcrow \xc3\xa9.\x1c\xc2\x85")
    # U+001C and U+0085 end lines for str.splitlines, but for no text editor
    assert read_documents(str(tmp_path / "dos.txt")) == ["A fox.\n", "A\ncrow é.\x1c\x85"]


def test_a_folder_is_read_in_the_order_of_names_and_only_its_txt_files(tmp_path):
    for name, text in [("b.txt", "second\n<|endoftext|>\nthird\n"), ("a.txt", "first\n"), ("c.md", "no\n")]:
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "sub.txt").mkdir()
    assert read_documents(tmp_path) == ["first\n", "second\n", "third\n"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "bad.txt: must hold text, is empty"),
        (b" \r\n\t\n", "bad.txt: must hold text, is empty"),
        (b"\xef\xbb\xbf", "bad.txt: must hold text, is empty"),
        (b"<|endoftext|>\n<|endoftext|>\n", "bad.txt: must hold text, holds only"),
        (b"abc\0def", "bad.txt: must be UTF-8 text, got a NUL byte at offset 3"),
        ("A fox".encode("utf-16"), "bad.txt: must be UTF-8 text, got a NUL byte at offset 3"),
        (b"caf\xe9 au lait", "bad.txt: must be UTF-8 text, got byte 0xe9 at offset 3"),
        (b"\xef\xbb\xbfcaf\xe9", "bad.txt: must be UTF-8 text, got byte 0xe9 at offset 6"),
    ],
)
@pytest.mark.parametrize("whole_folder", [False, True])
def test_text_that_is_none_is_refused_by_file_and_byte(tmp_path, raw, message, whole_folder):
    (tmp_path / "bad.txt").write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        read_documents(tmp_path if whole_folder else tmp_path / "bad.txt")
    assert "\n" not in str(caught.value)


def test_missing_files_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*gone\.txt; give"):
        read_documents(tmp_path / "gone.txt")
    with pytest.raises(FileNotFoundError, match=r"no \.txt file in folder"):
        read_documents(tmp_path)


# Splitting


@pytest.mark.parametrize(("count", "validating"), [(10, 1), (19, 1), (20, 2), (100, 10)])
def test_of_ten_or_more_documents_the_last_tenth_validates(count, validating):
    documents = [f"story {number}" for number in range(count)]
    assert split_documents(documents) == (documents[:-validating], documents[-validating:])


def test_one_text_is_cut_as_nanogpt_cuts_it(shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    train, validation = split_documents(read_documents(shared_data / "tinyshakespeare.txt"))
    # nanoGPT's data/shakespeare_char/readme.md: train has 1,003,854 tokens, val has 111,540 tokens
    assert (len(train[0]), len(validation[0])) == (1_003_854, 111_540)
    assert train + validation == [text[:1_003_854], text[1_003_854:]]


@given(st.lists(st.text("ab\n", min_size=1, max_size=30), min_size=1, max_size=9))
def test_few_documents_are_cut_after_nine_tenths_of_their_characters(documents):
    whole = "".join(documents)
    if len(whole) < 2:
        return
    train, validation = split_documents(documents)
    assert "".join(train) == whole[: int(len(whole) * 0.9)]
    assert "".join(train + validation) == whole
    assert all(train) and all(validation)
    assert len(train) + len(validation) <= len(documents) + 1  # at most one document is in two parts


@pytest.mark.parametrize("documents", [[], ["a"], ["", ""]])
def test_too_little_text_to_split_is_refused(documents):
    with pytest.raises(ValueError, match=r"split_documents: needs text for both sides, got \d characters?; use"):
        split_documents(documents)


# Encoding


def test_the_id_of_endoftext_follows_each_document():
    tokens = encode_documents(["ab", "c"], ByteTokenizer())
    assert tokens.tolist() == [97, 98, 256, 99, 256] and tokens.dtype == np.uint16


def test_endoftext_as_characters_of_a_text_stays_text():
    assert encode_documents(["<|endoftext|>"], ByteTokenizer()).tolist() == [*b"<|endoftext|>", 256]


def test_without_endoftext_documents_are_joined_by_a_blank_line():
    tokenizer = ByteTokenizer(eot_token=None, n_vocab=256)
    assert encode_documents(["ab", "c"], tokenizer).tolist() == [*b"ab\n\nc"]
    assert encode_documents(["ab\n"], tokenizer).tolist() == [*b"ab\n"]


@pytest.mark.parametrize(("n_vocab", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
@pytest.mark.parametrize("documents", [[], ["ab", "c"]])
def test_ids_take_the_smaller_type_that_holds_the_vocabulary(n_vocab, dtype, documents):
    tokens = encode_documents(documents, ByteTokenizer(n_vocab - 1, n_vocab))
    assert tokens.dtype == dtype
    assert tokens.tolist().count(n_vocab - 1) == len(documents)


# Batches


def test_a_batch_is_a_pure_function_of_seed_and_step():
    tokens = np.arange(10_000, dtype=np.uint16)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = sample_batch(tokens, 8, 16, seed=3, step=5)
    sample_batch(tokens, 8, 16, seed=3, step=6)
    again = sample_batch(tokens, 8, 16, seed=3, step=5)
    assert np.array_equal(first, again)
    assert np.array_equal(tokens, np.arange(10_000))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    others = [sample_batch(tokens, 8, 16, seed, step) for seed, step in [(3, 6), (4, 5), (5, 3)]]
    assert not any(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_targets_are_the_text_one_token_ahead(dtype, rng):
    tokens = rng.integers(0, 60_000, 500).astype(dtype)
    inputs, targets = sample_batch(tokens, 32, 7, seed=0, step=0)
    text = tokens.tolist()
    pieces = {tuple(text[start : start + 8]) for start in range(len(text) - 7)}
    assert inputs.shape == targets.shape == (32, 7) and inputs.dtype == targets.dtype == np.int64
    assert inputs.flags.c_contiguous and targets.flags.c_contiguous
    assert all((*row, target[-1]) in pieces for row, target in zip(inputs.tolist(), targets.tolist(), strict=True))
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])


def test_every_start_is_drawn_the_last_one_too_and_about_equally_often():
    inputs, targets = sample_batch(np.arange(12), 8000, 4, seed=1, step=0)
    starts, counts = np.unique(inputs[:, 0], return_counts=True)
    assert starts.tolist() == list(range(8)) and targets.max() == 11
    assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000 * 7 / 8)  # six standard deviations of a fair draw


def test_the_shortest_text_that_fits_gives_its_only_window():
    inputs, targets = sample_batch(np.array([7, 8, 9]), 2, 2, seed=0, step=0)
    assert inputs.tolist() == [[7, 8]] * 2 and targets.tolist() == [[8, 9]] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.arange(4)}, "needs more tokens than the context, got 4 tokens, context = 4; use a longer text"),
        ({"batch_size": 0}, "batch_size must be at least 1, got batch_size = 0"),
        ({"context": 0}, "context must be at least 1, got context = 0"),
        ({"seed": -1}, "seed must be at least 0, got -1; any whole number from 0 on is a seed, such as 1"),
        ({"step": -1}, "step must be at least 0, got -1"),
    ],
)
def test_impossible_batches_are_refused(change, message):
    settings = {"tokens": np.arange(100), "batch_size": 2, "context": 4, "seed": 0, "step": 0}
    with pytest.raises(ValueError, match=f"sample_batch: {message}"):
        sample_batch(**settings | change)
