"""Checkpoint folders: transformers opens ours, we open theirs, and a kill at any moment leaves a whole one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tinygpt.gpt2.checkpoint import (
    load_model,
    load_tokenizer,
    load_training_state,
    recover,
    save_model,
    save_training_state,
    swap_in,
)

CONFIG = {"n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 6, "vocab_size": 5}


class Words:
    """What `save_model` needs of a tokenizer."""

    def __init__(self, n_vocab: int = 5, eot_token: int | None = 3):
        self.n_vocab, self.eot_token = n_vocab, eot_token

    def save_pretrained(self, directory: Path) -> None:
        (directory / "vocab.json").write_text(str(self.n_vocab))


def weights(rng) -> dict[str, np.ndarray]:
    shapes = {"wte.weight": (5, 4), "h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_attn.bias": (12,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder: Path, tensors: dict[str, np.ndarray], **config) -> None:
    """A checkpoint as another program would write it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"} | config))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def assert_equal(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(state) == sorted(expected)
    for name, array in expected.items():
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], array)


def test_a_model_comes_back_as_it_was_saved(tmp_path, rng):
    state = weights(rng)
    save_model(tmp_path / "new" / "folder", CONFIG, state, Words())
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "model.safetensors", "vocab.json"]
    config, got = load_model(tmp_path / "new" / "folder")
    assert_equal(got, state)
    assert config.items() >= CONFIG.items()
    assert (config["model_type"], config["bos_token_id"], config["eos_token_id"]) == ("gpt2", 3, 3)


def test_the_file_holds_what_transformers_writes(tmp_path, rng):
    state = weights(rng)
    save_model(tmp_path, CONFIG, state, None)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert sorted(file.keys()) == sorted("transformer." + name for name in state)
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118 (not a dict)
        assert file.metadata() == {"format": "pt"}
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["bos_token_id"] is written["eos_token_id"] is None  # what is missing, transformers takes for 50256


def test_equal_models_give_equal_bytes(tmp_path, rng):
    state = weights(rng)
    save_model(tmp_path / "a", CONFIG, state, Words())
    save_model(tmp_path / "b", dict(reversed(CONFIG.items())), dict(reversed(state.items())), Words())
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_transformers_opens_ours_and_we_open_theirs(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CONFIG, bos_token_id=0, eos_token_id=0)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    theirs.transformer.save_pretrained(tmp_path / "bare")  # its names lack the prefix
    expected = {name: tensor.numpy() for name, tensor in theirs.transformer.state_dict().items()}
    for folder in ("theirs", "bare"):
        config, state = load_model(tmp_path / folder)
        assert config.items() >= CONFIG.items()
        assert_equal(state, expected)
    save_model(tmp_path / "ours", CONFIG, state, Words())
    ours, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())  # no key missing, unexpected or of another shape
    assert ours.generation_config.eos_token_id == 3
    ids = torch.tensor([[1, 4, 2, 0]])
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(ids).logits, theirs(ids).logits, rtol=0, atol=0)


def test_buffers_and_a_tied_head_are_left_out(tmp_path, rng):
    state = weights(rng)
    extra = {
        "transformer.h.0.attn.bias": np.tril(np.ones((1, 1, 6, 6), np.uint8)),
        "transformer.h.0.attn.masked_bias": np.array(-1e4),
        "lm_head.weight": state["wte.weight"].copy(),
    }
    write_folder(tmp_path, {"transformer." + name: array for name, array in state.items()} | extra)
    assert_equal(load_model(tmp_path)[1], state)
    write_folder(tmp_path, state | extra | {"lm_head.weight": state["wte.weight"] + 1})
    with pytest.raises(ValueError, match=r"load_model: lm_head\.weight in .* must equal wte\.weight"):
        load_model(tmp_path)
    write_folder(tmp_path, state | {"transformer.wte.weight": state["wte.weight"]})
    with pytest.raises(
        ValueError, match=r"must hold wte\.weight once, got 'transformer\.wte\.weight' and 'wte\.weight'"
    ):
        load_model(tmp_path)


def test_half_and_double_precision_become_float32(tmp_path):
    half = np.array([1 / 3, 65504, -6e-8, np.inf, np.nan], np.float16)
    double = np.array([1 / 3, 1 + 2**-24, 1 + 3 * 2**-24, np.inf, np.nan])
    write_folder(tmp_path, {"half": half, "double": double})
    _, state = load_model(tmp_path)
    assert_equal(state, {"half": half.astype(np.float64), "double": [np.float32(1 / 3), 1, 1 + 2**-22, np.inf, np.nan]})
    write_folder(tmp_path, {"double": np.array([1e39])})
    with pytest.raises(ValueError, match=r"load_model: double in .* must fit float32"):
        load_model(tmp_path)
    write_folder(tmp_path, {"wte.weight": np.zeros(3, np.int32)})
    with pytest.raises(ValueError, match=r"wte\.weight in .* must be one of F16, BF16, F32, F64, got I32"):
        load_model(tmp_path)


def test_weights_are_kept_in_the_precision_they_have(tmp_path):
    save_model(tmp_path, CONFIG, {"wte.weight": np.ones((5, 4))}, None)
    assert safetensors.numpy.load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].dtype == np.float64
    with pytest.raises(TypeError, match=r"save_model: wte\.weight must be float32 or float64, got int64"):
        save_model(tmp_path, CONFIG, {"wte.weight": np.ones((5, 4), np.int64)}, None)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_type", "llama", r"model_type in .* must be one of: gpt2; got 'llama'"),
        ("model_type", None, r"model_type in .* must be one of: gpt2; got None"),
        ("activation_function", "relu", r"activation_function in .* must be 'gelu_new', got 'relu'"),
        ("scale_attn_by_inverse_layer_idx", True, "must be False, got True"),
        ("scale_attn_weights", False, "must be True, got False"),
        ("tie_word_embeddings", None, "must be True, got None"),
        ("activation_function", "gelu", "must be 'gelu_new', got 'gelu'"),
        ("activation_function", None, "must be 'gelu_new', got None"),
        ("quantization_config", {"load_in_8bit": True}, "must be null, got .*load_in_8bit"),
        ("pruned_heads", {"0": [1]}, "must be null"),
        ("add_cross_attention", True, "must be False, got True"),
    ],
)
def test_models_that_we_would_compute_wrongly_are_refused(tmp_path, rng, field, value, message):
    write_folder(tmp_path, weights(rng), **{field: value})
    with pytest.raises(ValueError, match=f"load_model: .*{message}"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=f"save_model: .*{message}"):
        save_model(tmp_path / "other", CONFIG | {field: value}, weights(rng), None)
    assert not (tmp_path / "other").exists()


def test_weights_in_another_form_are_named_with_a_remedy(tmp_path, rng):
    with pytest.raises(FileNotFoundError, match=r"missing must be a run, a checkpoint.* does not exist"):
        load_model(tmp_path / "missing")
    write_folder(tmp_path, weights(rng))
    os.rename(tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, which is pickled.*save the model again"):
        load_model(tmp_path)
    os.remove(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"load_model: .*model\.safetensors must be a file"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_truncated_file_is_named(tmp_path, rng, name):
    save_model(tmp_path, CONFIG, weights(rng), None)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"load_model: .*{name} must be .*truncated or corrupt"):
        load_model(tmp_path)


def test_the_tokenizer_travels_with_the_model_that_it_fits(tmp_path, rng):
    from tinygpt.tokenizer import Tokenizer

    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)} | {256: b"he"}, [(b"h", b"e")], {"<|endoftext|>": 257})
    with pytest.raises(ValueError, match=r"save_model: .* got 258 ids for vocab_size = 257; they do not belong"):
        save_model(tmp_path, CONFIG | {"vocab_size": 257}, weights(rng), tokenizer)
    assert list(tmp_path.iterdir()) == []
    write_folder(tmp_path, weights(rng), vocab_size=257)
    assert load_tokenizer(tmp_path) is None
    save_model(tmp_path, CONFIG | {"vocab_size": 258}, weights(rng), tokenizer)
    got = load_tokenizer(tmp_path)
    assert (got.vocab, got.merges, got.special_tokens) == (tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens)
    write_folder(tmp_path, weights(rng), vocab_size=257)
    with pytest.raises(ValueError, match=r"load_tokenizer: .* got 258 ids for vocab_size = 257"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing must be a run, .* does not exist"):
        load_tokenizer(tmp_path / "missing")


@pytest.mark.parametrize("load", [load_model, load_tokenizer, load_training_state])
def test_every_loader_completes_a_swap_that_was_cut_short(tmp_path, rng, load):
    save_model(tmp_path / "last.tinygpt-new", CONFIG, weights(rng), None)
    save_training_state(tmp_path / "last.tinygpt-new", {}, {"step": 1})
    load(tmp_path / "last")  # raises if there is none
    assert os.listdir(tmp_path) == ["last"]


SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
import numpy as np
from tinygpt.gpt2.checkpoint import save_model, save_training_state, swap_in

class Words:
    eot_token = None
    def __init__(self, counter): self.n_vocab = counter
    def save_pretrained(self, folder): (folder / "vocab.json").write_text(str(self.n_vocab))

last = Path(sys.argv[1])
for counter in itertools.count(int(sys.argv[2])):
    with swap_in(last) as fresh:
        state = {"wte.weight": np.full((60, 99), counter, np.float32)}
        save_model(fresh, {"vocab_size": counter}, state, Words(counter))
        save_training_state(fresh, {"moment": np.full(5000, counter)}, {"step": counter})
    print(counter, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_twenty_kills_leave_twenty_whole_checkpoints(tmp_path, rng):
    last, counter = tmp_path / "last", 1
    for _ in range(20):
        command = [sys.executable, "-c", SAVE_FOREVER, str(last), str(counter)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as saver:
            announced = [int(saver.stdout.readline())]  # it is under way
            time.sleep(rng.uniform(0, 0.05))
            saver.send_signal(signal.SIGKILL)
            announced += [int(line) for line in saver.stdout.read().split()]
        recover(last)
        assert os.listdir(tmp_path) == ["last"]
        config, state = load_model(last)
        tensors, info = load_training_state(last)
        found = {config["vocab_size"], info["step"], int((last / "vocab.json").read_text())}
        found |= {*state["wte.weight"].ravel().tolist(), *tensors["moment"].tolist()}
        assert found in ({announced[-1]}, {announced[-1] + 1})  # one save, and none that was announced is lost
        counter = announced[-1] + 2


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files as POSIX does")
def test_a_checkpoint_too_large_for_the_disk_leaves_the_old_one(tmp_path, rng):
    with swap_in(tmp_path / "last") as fresh:
        save_model(fresh, CONFIG, weights(rng), None)
        save_training_state(fresh, {}, {"step": 1})
    before = {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()}
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    command = [sys.executable, "-c", limit + SAVE_FOREVER, str(tmp_path / "last"), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith(f"OSError: swap_in: cannot save {tmp_path / 'last'}: File too large; what was there")
    assert os.listdir(tmp_path) == ["last"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()} == before
