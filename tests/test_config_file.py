"""TOML files of settings: what is read, what is refused, who overrides whom, and that a run's own file repeats it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from small_runs import TEXT, checkpoints_of, without_times

from tinygpt.cli.main import main
from tinygpt.training.config_file import _GROUPS, read_config, write_config
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import Trainer, load_settings, train

SMALL = "steps = 4\nbatch-size = 2\ncontext = 16\neval-every = 2\nvocab-size = 300\neval_tokens = 200\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(Trainer, "story", lambda self, interrupt=None: "")
    monkeypatch.setattr(Trainer, "_draw", lambda self: None)


def write(name, text):
    Path(name).write_text(text, encoding="utf-8")
    return name


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("tinygpt: train: ")
    return captured.err.removeprefix("tinygpt: train: ").strip()


def test_the_groups_name_every_setting_once():
    names = [name for group in _GROUPS.values() for name in group]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(TrainingSettings))


@pytest.mark.parametrize("settings", [
    TrainingSettings.from_preset("tiny", clip=math.inf, lr=1e-5, seed=2**63, recompute=True, precision="bfloat16"),
    TrainingSettings.from_preset("gpt2", data='a "quoted" \\ name\x7f\t🌙.txt', tokenizer="gpt2", min_lr=1e-300),
    TrainingSettings.from_preset("tiny", steps=9, keep_every=3).extend(4, 12).extend(12, 20),
    TrainingSettings.from_preset("tiny", init_from="owner/name", lr=1),
])  # fmt: skip
def test_what_is_written_is_read_again(folder, settings):
    write_config(folder / "config.toml", settings, "tinygpt train \n x")
    assert TrainingSettings(**read_config("config.toml")) == settings


def test_a_file_keeps_the_commands_that_were_typed(folder):
    path, settings = folder / "config.toml", TrainingSettings.from_preset("tiny", steps=9)
    write_config(path, settings, "tinygpt train --steps 9")
    before = path.read_bytes()
    write_config(path, settings, "tinygpt train --resume")
    assert path.read_bytes() == before  # it says the same
    write_config(path, settings.extend(9, 12), "tinygpt train --resume --steps 12")
    commands = [line for line in path.read_text().splitlines() if line.startswith("# $ ")]
    assert commands == ["# $ tinygpt train --steps 9", "# $ tinygpt train --resume --steps 12"]


def test_the_command_line_overrides_the_file_and_the_file_the_preset(folder, quick):
    write("book.toml", SMALL + 'data = "text.txt"\nlr = 1e-4\nseed = 5\nkeep-every = 4\n')
    assert main(["train", "--config", "book.toml", "--seed", "6", "--out", "run", "--quiet"]) == 0
    s = load_settings("run")
    assert (s.seed, s.lr, s.min_lr, s.steps, s.keep_every) == (6, 1e-4, 1e-5, 4, 4)
    assert s.warmup == TrainingSettings.from_preset("tiny").warmup and s.preset == "tiny"


@pytest.mark.parametrize("extended", [False, True])
def test_the_file_of_a_run_repeats_it_to_the_last_bit(folder, quick, extended):
    """Given as it is, in another folder; also of a run that was extended."""
    options = "--data text.txt --out run --quiet --dropout 0.1 --clip inf --lr 1.3e-3 --batch-size 2 --context 16 " \
        "--steps 4 --eval-every 3 --vocab-size 300 --eval-tokens 200 --keep-every 2"  # fmt: skip
    assert main(["train", *options.split()]) == 0
    if extended:
        assert main(["train", "--resume", "--out", "run", "--steps", "7", "--quiet"]) == 0
    (folder / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder / "elsewhere")
        assert main(["train", "--config", "../run/config.toml", "--out", "again", "--quiet"]) == 0
    again = folder / "elsewhere/again"
    assert checkpoints_of(again) == checkpoints_of(folder / "run")
    both = [[line for line in without_times(run) if "loss" in line] for run in (again, folder / "run")]
    assert both[0] == both[1]
    text = (folder / "run/config.toml").read_text()
    assert f"# $ tinygpt train {options}\n" in text
    assert ("extended = [[4, 4]]" in text) == extended
    assert main(["train", "--config", "run/config.toml", "--steps", "2", "--out", "short", "--quiet"]) == 0
    assert load_settings("short").extended == ()


def test_the_file_of_a_fine_tuned_run_repeats_it(folder, quick):
    write("book.toml", SMALL + 'data = "text.txt"')
    assert main(["train", "--config", "book.toml", "--out", "first", "--quiet"]) == 0
    write("tune.toml", 'init_from = "first"\ndata = "text.txt"\nsteps = 2\ncontext = 8\n')
    for name, config in (("tuned", "tune.toml"), ("again", "tuned/config.toml")):
        assert main(["train", "--config", config, "--out", name, "--quiet"]) == 0
    assert load_settings("tuned").preset == "fine-tuning"
    assert checkpoints_of(folder / "again") == checkpoints_of(folder / "tuned")


def test_a_path_is_looked_for_beside_the_file_and_then_here(folder):
    (folder / "configs").mkdir()
    write("configs/beside.txt", "x")
    for data, expected in (("beside.txt", "configs/beside.txt"), ("text.txt", "text.txt"), ("none.txt", "none.txt"),
                           ("../text.txt", "configs/../text.txt"), (f"{folder}/x", f"{folder}/x")):  # fmt: skip
        write("configs/book.toml", f'data = "{data}"\ntokenizer = "gpt2"\n')
        assert read_config("configs/book.toml") == {"data": expected, "tokenizer": "gpt2"}


def test_older_runs_get_the_file_when_they_are_resumed(folder, quick):
    s = TrainingSettings.from_preset("tiny", data="text.txt", steps=4, batch_size=2, context=16, vocab_size=300)
    train(s, "run", progress=False, stop_after=2)
    (folder / "run/config.toml").unlink()
    train(load_settings("run"), "run", resume=True, progress=False)
    assert dataclasses.replace(s, data=str(folder / "text.txt")) == TrainingSettings(**read_config("run/config.toml"))


def test_a_file_goes_with_resume_if_it_says_what_the_run_has(folder, quick, capsys):
    write("book.toml", SMALL + 'data = "text.txt"')
    assert main(["train", "--config", "book.toml", "--out", "run", "--quiet", "--stop-after", "2"]) == 0
    resume = ["--resume", "--out", "run", "--quiet", "--config", "book.toml"]
    assert main(["train", *resume]) == 0
    write("book.toml", SMALL.replace("steps = 4", "steps = 6"))
    assert main(["train", *resume]) == 0
    assert load_settings("run").extended == ((4, 4),)
    write("book.toml", "lr = 0.5\n")
    assert "where lr is 0.002, not 0.5 (in book.toml); leave them out" in refused(capsys, *resume)
    write("book.toml", "steps = 4\n")
    assert refused(capsys, *resume).startswith("book.toml: steps must be at least the 6 that run was planned for")


WRONG = r"""
stesp = 3                         | book.toml: there is no setting 'stesp'; did you mean steps?
batchsize = 3                     | book.toml: there is no setting 'batchsize'; did you mean batch_size?
out = "x"                         | book.toml: there is no setting 'out'; the config.toml of any run has them all
"a\nb" = 1                        | book.toml: there is no setting 'a\\nb'; the config.toml of any run has them all
steps = "3"                       | book.toml: steps must be an integer, got '3'
steps = 3.0                       | book.toml: steps must be an integer, got 3.0
steps = true                      | book.toml: steps must be an integer, got True
steps = [3]                       | book.toml: steps must be an integer, got [3]
steps = 0                         | book.toml: steps must be at least 1, got 0
steps = 99999999999999999999999   | book.toml: steps must be below 1,099,511,627,776, got 99999999999999999999999
batch-size = 0                    | book.toml: batch_size must be at least 1, got 0
batch-size = "x"                  | book.toml: batch-size must be an integer, got 'x'
lr = "x"                          | book.toml: lr must be a number, got 'x'
lr = nan                          | book.toml: lr must be positive, got nan
min_lr = 1                        | book.toml: min_lr must be at most lr = 0.002, got 1
recompute = 1                     | book.toml: recompute must be true or false, got 1
data = 1979-05-27                 | book.toml: data must be text, got datetime.date(1979, 5, 27)
data = ""                         | book.toml: data must not be empty; leave it out for the default
tokenizer = "\u0000"              | the name of a tokenizer must not hold a NUL character, got '\x00'
init_from = "a\u0000b"            | the name of a config must not hold a NUL character, got 'a\x00b'
data = "none.txt"                 | no file or folder none.txt; give a .txt file or a folder of them
preset = "tin"                    | book.toml: preset must be one of tiny, shakespeare-char,
preset = "fine-tuning"            | book.toml: preset 'fine-tuning' needs a model: name it with init_from
warmup = 1099511627776            | book.toml: warmup must be below 1,099,511,627,776, got 1099511627776
precision = "half"                | book.toml: precision must be one of float32, bfloat16, got 'half'
extended = [[3]]                  | book.toml: extended must be pairs of integers, got (3,)
extended = 3                      | book.toml: extended must be pairs of integers, got 3
extended = [[900, 900]]           | book.toml: extended must name a step, the steps planned until then and more
[train]                           | book.toml must hold settings only, got the table 'train'; write them without
steps.x = 3                       | book.toml: steps must be an integer, got {'x': 3}
steps                             | book.toml must be TOML: Expected '=' after a key
steps = 3 4                       | book.toml must be TOML: Expected newline or end of document after a statement
"""
CASES = [tuple(part.strip() for part in line.split(" | ")) for line in WRONG.strip().splitlines()]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_a_wrong_file_is_one_line(folder, capsys, text, expected):
    write("book.toml", text)
    assert refused(capsys, "--config", "book.toml").startswith(expected.replace("\\\\", "\\"))
    assert not (folder / "runs").exists()


OTHERS = {
    "twice in two ways": (b"batch-size = 1\nbatch_size = 1", "must have each setting once, and has batch_size twice"),
    "twice": (b"steps = 1\nsteps = 1", "must be TOML: Cannot overwrite a value"),
    "not UTF-8": (b"data = '\xff'", "must be TOML, and byte 8 is not UTF-8; save it as UTF-8"),
    "a NUL": (b"steps = 1\0", "must be TOML: "),
    "too long": (b"# " + b"x" * (1 << 20), "must be a TOML file of at most 1,048,576 bytes, got 1,048,578"),
    "too deep": (b"steps = " + b"[" * 99_999, "must be TOML: "),
    "a long number": (b"steps = " + b"1" * 9999, "must be TOML, and holds a number that is too long"),
}


@pytest.mark.parametrize("setting", ["lr", "min_lr", "weight-decay", "clip", "beta1", "dropout"])
def test_an_integer_that_no_float_can_hold_is_one_line(folder, capsys, setting):
    write("book.toml", f"{setting} = 1{'0' * 400}\n")
    assert refused(capsys, "--config", "book.toml").startswith(f"book.toml: {setting} must be below 1.8e308, got 1000")
    with pytest.raises(ValueError, match=r"must be below 1\.8e308, got 1000"):
        TrainingSettings.from_preset("tiny", **{setting.replace("-", "_"): 10**400})


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_not_toml_within_limits_is_one_line(folder, capsys, kind):
    (folder / "book.toml").write_bytes(OTHERS[kind][0])
    assert refused(capsys, "--config", "book.toml").startswith(f"book.toml {OTHERS[kind][1]}")


def test_what_is_no_file_is_one_line(folder, capsys):
    assert refused(capsys, "--config", "none.toml") == "none.toml must be a file, and is not there; check the name"
    assert refused(capsys, "--config", ".").startswith(". must be an ordinary file, got a folder")
    assert refused(capsys, "--config", "/dev/zero").startswith("/dev/zero must be an ordinary file, got a device")


def test_an_option_that_is_wrong_is_named_though_the_file_has_the_setting(folder, capsys):
    write("book.toml", "steps = 5\n")
    assert refused(capsys, "--config", "book.toml", "--steps", "0") == "--steps must be at least 1, got 0"


def test_byte_order_marks_and_windows_lines_are_read(folder):
    (folder / "book.toml").write_bytes(b"\xef\xbb\xbf# a comment\r\nsteps = 5\r\n")
    assert read_config("book.toml") == {"steps": 5}


def test_a_name_that_toml_cannot_hold_is_a_comment(folder):
    settings = TrainingSettings.from_preset("tiny", data="caf\udce9.txt")
    write_config(folder / "config.toml", settings)
    assert "data" not in read_config("config.toml")
    assert "# data: caf\\udce9.txt, a name" in (folder / "config.toml").read_text()
