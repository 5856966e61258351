"""Files that belong together are written by one writer at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tinygpt import Tokenizer
from tinygpt.files.directory_swap import swap_in
from tinygpt.files.locks import FolderLock, fcntl, one_writer
from tinygpt.files.ownership import own_run
from tinygpt.gpt2.checkpoint import load_model, load_tokenizer, save_model

pytestmark = pytest.mark.skipif(fcntl is None, reason="needs locks")


def together(*actions) -> None:
    """Run the actions at once, each many times, and raise what they raise."""
    barrier, errors = threading.Barrier(len(actions)), []

    def run(action) -> None:
        try:
            barrier.wait(30)
            for _ in range(8):
                action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []


def test_two_models_saved_into_one_folder_leave_one_of_the_two(tmp_path):
    configs = {size: {"vocab_size": size, "n_embd": size // 10} for size in (300, 400)}
    states = {size: {"wte.weight": np.full((size, size // 10), size, np.float32)} for size in configs}
    tokenizers = {size: Tokenizer.train(f"the {size} hens, the {size} hens", 258, progress=False) for size in configs}
    together(*(lambda size=size: save_model(tmp_path / "model", configs[size], states[size], tokenizers[size])
               for size in configs))  # fmt: skip
    config, state = load_model(tmp_path / "model")
    size = config["vocab_size"]
    np.testing.assert_array_equal(state["wte.weight"], states[size]["wte.weight"])
    assert load_tokenizer(tmp_path / "model").fingerprint == tokenizers[size].fingerprint
    assert not [name for name in os.listdir(tmp_path / "model") if "tinygpt" in name]


def test_two_tokenizers_of_two_forms_saved_into_one_folder_leave_one_of_the_two(tmp_path):
    """One is vocab.json and merges.txt, the other tokenizer.json; each removes the files of the other form."""
    pair = Tokenizer.train("the hen and the hen", 259, progress=False)
    single = Tokenizer.train("a cow, a cow, a cow", 259, pattern=r"\p{L}+|\P{L}", progress=False)
    together(lambda: pair.save_pretrained(tmp_path), lambda: single.save_pretrained(tmp_path))
    names = set(os.listdir(tmp_path)) - {"tokenizer_config.json"}
    assert names in ({"vocab.json", "merges.txt"}, {"tokenizer.json"})
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["tokenizer_class"] == "GPT2Tokenizer") is (names != {"tokenizer.json"})


SAVE = """
import sys
import numpy as np
from tinygpt.gpt2.checkpoint import save_model
size = int(sys.argv[2])
for _ in range(15):
    save_model(sys.argv[1], {"vocab_size": size}, {"wte.weight": np.full((size, 50), size, np.float32)}, None)
"""


def test_two_processes_save_models_into_one_folder(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", SAVE, tmp_path / "model", size]) for size in ("311", "499")]
    assert [process.wait(120) for process in processes] == [0, 0]
    config, state = load_model(tmp_path / "model")
    assert state["wte.weight"].shape == (config["vocab_size"], 50)
    assert (state["wte.weight"] == config["vocab_size"]).all()


def test_saving_into_a_run_that_is_trained_is_refused_and_does_not_wait(tmp_path):
    with own_run(tmp_path / "run"), pytest.raises(BlockingIOError, match="run is a run that is being trained; choose"):
        save_model(tmp_path / "run", {"vocab_size": 4}, {"wte.weight": np.ones((4, 2), np.float32)}, None)
    assert not (tmp_path / "run").exists()


def test_saving_inside_a_swap_from_several_threads_does_not_wait_for_itself(tmp_path):
    state = {"wte.weight": np.ones((4, 2), np.float32)}
    with swap_in(tmp_path / "last") as fresh:
        together(lambda: save_model(fresh, {"vocab_size": 4}, state, None), lambda: None)
        thread = threading.Thread(target=save_model, args=(fresh / "deeper", {"vocab_size": 4}, state, None))
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
    assert load_model(tmp_path / "last")[0]["vocab_size"] == 4


def test_a_folder_that_nothing_was_written_to_is_not_left(tmp_path):
    with pytest.raises(ValueError, match="planted"), one_writer(tmp_path / "new"):
        raise ValueError("planted")
    with pytest.raises(ValueError, match="planted"), one_writer(tmp_path / "kept"):
        (tmp_path / "kept" / "file").write_text("x")
        raise ValueError("planted")
    assert os.listdir(tmp_path) == ["kept"]


def test_a_lock_follows_its_folder_and_is_closed_once(tmp_path):
    (tmp_path / "a").mkdir()
    lock = FolderLock(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path / "b")
    lock.close()
    with open(tmp_path / "file", "w") as file:  # takes the number of the descriptor that was closed
        lock.close()
        file.write("still open")
    FolderLock(tmp_path / "b").close()
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "a")
