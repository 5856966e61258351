"""What a run goes on from: each field that is missing, of another kind or impossible is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinygpt.files.safetensors_file import load_training_state, save_training_state
from tinygpt.training.log import MetricsLog, read_metrics
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.state import flat_state, nested_state, require_training_state
from tinygpt.training.train import load_settings

GENERATOR = np.random.default_rng(3).bit_generator.state
INFO = {"step": 2, "best_loss": 3.5, "validation_loss": float("nan"), "data": "ab", "generator": GENERATOR}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("step", value) for value in (None, 1.0, "2", -1, True, [], 2**60, float("inf"))],
        *[("best_loss", value) for value in (True, "3", float("nan"), -1.0, [])],
        *[("validation_loss", value) for value in (True, "3", {})],
        *[("data", value) for value in (None, 7, [])],
        *[
            ("generator", value)
            for value in (None, {}, 5, GENERATOR | {"bit_generator": "MT19937"}, GENERATOR | {"state": {}})
        ],
        *[("generator", GENERATOR | {"uinteger": value}) for value in (-1, 2**40, "x", 1.5)],
        ("generator", GENERATOR | {"state": {"state": -1, "inc": 1}}),
        ("generator", GENERATOR | {"state": {"state": 2**200, "inc": 1}}),
    ],
)
def test_a_damaged_training_state_names_file_and_field(tmp_path, field, value):
    for info in (INFO | {field: value}, {name: INFO[name] for name in INFO if name != field}):
        save_training_state(tmp_path, {"m": np.zeros(2)}, INFO)
        (tmp_path / "training_state.json").write_text(json.dumps(info))
        with pytest.raises(ValueError, match=rf"training_state\.json is damaged: {field} must be .*, got "):
            load_training_state(tmp_path, require_training_state)
        save_training_state(tmp_path, {"m": np.zeros(2)}, info)  # and in the file that holds the arrays
        (tmp_path / "training_state.json").write_text(json.dumps(INFO))
        with pytest.raises(ValueError, match=rf"training_state\.safetensors is damaged: {field} must be "):
            load_training_state(tmp_path, require_training_state)


def test_a_loss_that_was_not_finite_is_null(tmp_path):
    save_training_state(tmp_path, {"m": np.zeros(2)}, INFO | {"best_loss": None, "validation_loss": None})
    assert load_training_state(tmp_path, require_training_state)[1]["best_loss"] is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None}]


def test_a_sound_training_state_is_taken_as_it_is(tmp_path):
    save_training_state(tmp_path, {"m": np.zeros(2)}, INFO)
    assert load_training_state(tmp_path, require_training_state)[1]["generator"] == GENERATOR


NO_RECORDS = ["{}", "1", "null", "[]", '"x"', "x", '{"step": 1.0}', '{"step": -1}', '{"step": true}']
NO_RECORDS += ['{"step": 1, "loss": "x"}', '{"step": 1, "step": 2}', '{"step": 1, "loss": [null]}']
NO_RECORDS += ["[" * 50_000, '{"step": ' + "1" * 5000 + "}", "x" * 70_000]


@pytest.mark.parametrize("line", NO_RECORDS)
def test_a_line_of_metrics_that_is_no_record_is_named_and_the_file_is_left(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 1, "loss": 2.5}\n' + line + '\n{"step": 2, "loss": 2.0}\n'
    path.write_text(text)
    for read in (read_metrics, lambda path: MetricsLog(path, 2)):
        with pytest.raises(ValueError, match=r"jsonl, line 2, is damaged: .*the checkpoints are") as caught:
            read(path)
        assert str(caught.value).isprintable()
    assert path.read_text() == text


def test_a_metrics_file_is_kept_up_to_its_checkpoint_byte_for_byte(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [f'{{"loss": {loss},  "step": {step}}}\n' for step, loss in ((1, "2.50"), (2, "NaN"), (3, "1e0"))]
    path.write_text("".join(lines) + '{"step": 4, "lo')
    with MetricsLog(path, 2):
        pass
    assert path.read_text() == "".join(lines[:2])


OTHER_KINDS = [{"steps": "4"}, {"steps": 4.5}, {"steps": True}, {"lr": "x"}, {"lr": None}, {"lr": 10**70}, {"seed": []}]
OTHER_KINDS += [{"data": 5}, {"recompute": 1}, {"new": 1}, {"batch_size": 10**30}, {"a\nb": 1}, {"precision": {}}]
OTHER_KINDS += [{"dropout": 2}]


@pytest.mark.parametrize("change", OTHER_KINDS)
def test_settings_of_another_kind_are_named_in_one_line(tmp_path, change):
    settings = vars(TrainingSettings.from_preset("tiny", steps=4)) | change
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    if change == {"lr": 10**70}:  # a rate that is absurd, but one
        assert load_settings(tmp_path).lr == 10**70
        return
    with pytest.raises(ValueError, match=r"^train: .*settings\.json is damaged \(.*\); restore it") as caught:
        load_settings(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"0.m": np.zeros(2), "0.v": np.zeros(2)}, r"got '0\.m': another version of tinygpt wrote it; .* --init-from"),
        ({"exp_avg": np.zeros(2)}, "got 'exp_avg'"),
        ({"-1.step": np.zeros(2)}, "got '-1.step'"),
        ({"0.step": np.ones(()), "2.step": np.ones(())}, "is damaged: it must have the state of parameters 0 to 1"),
        ({"1.step": np.ones(())}, "must have the state of parameters 0 to 1, got that of 1"),
    ],
)
def test_the_state_of_an_optimizer_in_another_layout_is_refused_by_the_name_of_its_file(tensors, message):
    with pytest.raises(ValueError, match=rf"last/x\.safetensors.*{message}"):
        nested_state(tensors, 2, "last/x.safetensors")


def test_the_state_of_an_optimizer_comes_back_from_its_flat_names():
    state = {number: {"step": np.array(3.0), "exp_avg": np.ones(2)} for number in range(12)}
    np.testing.assert_equal(nested_state(flat_state(state), 12, "last/x.safetensors"), state)
    assert nested_state({}, 12, "last/x.safetensors") == {}
