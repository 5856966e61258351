"""What a command says when it refuses: one line about the user's options and files, and none of our functions."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, Tokenizer, implementation
from tinygpt.cli.main import main

PACKAGE = Path(tinygpt.__file__).parent
# Every command with wrong inputs: the line, and what must be said after the name of the command.
WRONG = r"""
train --steps 0                                     | --steps must be at least 1, got 0
train --seed -1                                     | --seed must be at least 0, got -1; any whole number from 0
train --lr -1                                       | --lr must be positive, got -1.0
train --stop-after 0                                | --stop-after must be at least 1, got 0
train --profile 0                                   | --profile must be at least 1, got 0
train --profile -2                                  | --profile must be at least 1, got -2
train --profile 2 --dry-run                         | --dry-run is not allowed with --profile
train --profile 2 --data none.txt                   | no file or folder none.txt
train --json                                        | --json needs --profile
train --data none.txt                               | no file or folder none.txt
train --data empty.txt                              | empty.txt: must hold text
train --data folder                                 | no .txt file in folder folder
train --data binary.txt                             | binary.txt: must be UTF-8 text
train --data hens.bin                               | hens.bin holds tokens: name the tokenizer
train --data hens.txt --tokenizer none              | none must be a run, a checkpoint, a folder with
train --data hens.txt --tokenizer novocab           | novocab/vocab.json must be a file
train --data hens.txt --vocab-size 3                | --vocab-size must be at least 257
train --data hens.txt --out hens.txt/run            | .*hens.txt/run: Not a directory
train --resume --out none                           | none is not a run to resume
train --resume --out model                          | model is not a run to resume
train --init-from none                              | none must be a run, a checkpoint, a Hugging
train --init-from heads --data hens.txt             | heads/config.json: n_embd must be a multiple of n_head
train --init-from model --data hens.txt --context 9 | --context must be at most the 8 positions of model
train --init-from bare --data hens.txt              | bare has no tokenizer beside its weights
train --config none.toml                            | none.toml must be a file, and is not there
train --config wrong.toml                           | wrong.toml: there is no setting 'stesp'; did you mean steps?
train --config empty.txt --lr -1                    | --lr must be positive, got -1.0
train --keep-every -1                               | --keep-every must be at least 0, got -1
train --threads 100000                              | --threads: must be an integer of at least 1
runs none                                           | none must be a run, or a folder with runs, and does not exist
runs hens.txt                                       | hens.txt must be a run, or a folder with runs, and is a file
generate none                                       | none must be a run, a checkpoint, a Hugging
generate hens.txt                                   | hens.txt must be a run, a checkpoint
generate model --temperature -1                     | --temperature must be at least 0
generate model --top-k -1                           | --top-k must be at least 0
generate model --top-p 0                            | --top-p must be above 0 .*; 1 is without a limit
generate model --samples 4294967296                 | --samples must be below
generate model --top-p 2                            | --top-p must be above 0
generate model --max-tokens -1                      | --max-tokens must be at least 0
generate model --prompt ""                          | the prompt must not be empty
generate model --seed -1                            | --seed must be at least 0, got -1; any whole number from 0
generate model --stop a\\q --escape                 | --stop must hold no other escapes than .*, got \\q at
generate model --prompt a\\q --escape               | --prompt must hold no other escapes than .*, got \\q at
generate model --stop ""                            | a stop text must not be empty
generate model --file none.txt                      | none.txt: No such file or directory
generate model --file folder                        | folder: Is a directory
generate model --file empty.txt                     | empty.txt must hold a prompt
generate cut --prompt a                             | cut/model.safetensors must be a whole safetensors file
generate heads --prompt a                           | heads/config.json: n_embd must be a multiple of n_head
generate bare --prompt a                            | bare has no tokenizer
generate noweights --prompt a                       | noweights/model.safetensors must be a file
generate nan --prompt a                             | the \w+ must be finite
evaluate model --data none.txt                      | no file or folder none.txt
evaluate model --data hens.txt --context 9          | --context must be at most the model's 8 tokens
evaluate model --data hens.txt --stride 9           | --stride must be at most the context of 8
plot none                                           | none must be the folder of a run
plot model --x time                                 | model must be the folder of a run
plot model -o loss.jpg                              | -o/--out must end in .png, .svg or .pdf, got loss.jpg
inspect model --prompt ""                           | the prompt must not be empty
inspect model --prompt a --top 999                  | --top must be from 1 to 256
inspect model --prompt a --layer 1                  | --layer must be from 0 to 0, got 1
inspect model --prompt a --head 2                   | --head must be from 0 to 1, got 2
inspect model --prompt "a long prompt"              | the prompt must have
data gutenberg 5 -o x.txt --base-url nonsense       | the base address must begin with http
data gutenberg 5 none.txt -o x.txt                  | none.txt must be the number of a book, or a file, and
data gutenberg hens.txt -o x.txt                    | hens.txt: must have a line '\*\*\* START OF
data shakespeare --base-url nonsense                | the base address must begin with http
data tinystories --base-url nonsense                | the base address must begin with http
tokenizer train none.txt -o t                       | no file or folder none.txt
tokenizer train empty.txt -o t                      | empty.txt: must hold text
tokenizer train binary.txt -o t                     | binary.txt: must be UTF-8 text
tokenizer train hens.txt -o t --pattern "("         | --pattern must be a regular expression
tokenizer train hens.txt -o t --vocab-size 5        | --vocab-size must be at least 257, for .* 1 special token, got
tokenizer encode none.txt -o x --tokenizer model    | no file or folder none.txt
tokenizer encode empty.txt -o x --tokenizer model   | empty.txt: must hold text
tokenizer decode 999 --tokenizer model              | ids must be in the vocabulary
tokenizer decode 1 x --tokenizer model              | needs one token file, or ids
tokenizer decode hens.txt --tokenizer model         | hens.txt: must be a token file
tokenizer decode none.bin --tokenizer model         | needs one token file, or ids, got 'none.bin'
train --resume --out modell                         | modell is not a run to resume: .*; did you mean model?
tokenizer info none                                 | none must be a run, a checkpoint, a folder with
tokenizer explain a --tokenizer none                | none must be a run, a checkpoint, a folder with
tokenizer fetch gpt2 --base-url nonsense            | the base address must begin with http
gradcheck gelu --sweep sweep.txt                    | --sweep must end in .png, .svg or .pdf, got sweep.txt
gradcheck nosuch                                    | there is no operation 'nosuch'
gradcheck nomodule:X                                | there is no module nomodule in this folder
explain nosuch                                      | there is no operation 'nosuch'
museum 0                                            | there are exhibits 1 to
exercise nosuch                                     | there is no exercise 'nosuch'
exercise gelu hens.txt                              | hens.txt is there already
exercise gelu check                                 | the file to write must end with .py, got check
exercise gelu a.py b.py                             | an exercise is one file
exercise check none.py                              | none.py must be a .py file
exercise check hens.txt --time-limit 0              | --time-limit must be above 0
exercise check hens.txt --memory-limit 9            | --memory-limit must be at least 256
exercise check hens.txt --exercise nosuch           | there is no exercise 'nosuch'
exercise check hens.txt --exercise gelu             | hens.txt must be a file for gelu
exercise check hens.txt --points right              | --points must be such as right=10,fast=0
exercise check hens.txt --fast 0                    | --fast must be above 0
exercise check hens.txt --seed -1                   | --seed must be at least 0
doctor --threads 0                                  | --threads must be at least 1, got 0
diff numpy float64 --model none                     | none must be a run, a checkpoint, a Hugging
diff numpy float64 --tolerance 0                    | --tolerance must be above 0
"""
CASES = [tuple(part.strip() for part in line.split(" | ")) for line in WRONG.strip().splitlines()]


def names_of_functions() -> set[str]:
    """Those of the package, read from its source."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
    return names


NAMES = names_of_functions()


def status_of(words: list[str]) -> int:
    """The exit status, whether the command refuses or, before it, the parser."""
    try:
        return main(words)
    except SystemExit as error:
        return error.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "hens.txt").write_text("The hen counts her eggs, and then the eggs count her. " * 40, encoding="utf-8")
    (folder / "empty.txt").write_text("")
    (folder / "wrong.toml").write_text("stesp = 3")
    (folder / "binary.txt").write_bytes(b"\0\1")
    (folder / "folder").mkdir()
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    model = GPT(GPTConfig(256, 8, 8, 1, 2), seed=1)
    model.save_pretrained(folder / "model", tokenizer)
    model.save_pretrained(folder / "bare")
    for name in ("novocab", "heads", "cut", "noweights"):
        shutil.copytree(folder / "model", folder / name)
    (folder / "novocab/vocab.json").unlink()
    (folder / "noweights/model.safetensors").unlink()
    config = json.loads((folder / "model/config.json").read_text())
    (folder / "heads/config.json").write_text(json.dumps(config | {"n_head": 3}))
    weights = folder / "cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    model.flat_parameters[:] = np.nan
    model.save_pretrained(folder / "nan", tokenizer)
    out = ["-o", str(folder / "hens.bin"), "--quiet"]
    assert main(["tokenizer", "encode", str(folder / "hens.txt"), "--tokenizer", str(folder / "model"), *out]) == 0
    return folder


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_a_mistake_is_one_line_in_the_users_terms(folder, monkeypatch, capsys, line, expected):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    before = sorted(folder.rglob("*"))
    words = shlex.split(line)
    with implementation("numpy"), np.errstate(all="ignore"):  # nothing is compiled, which would be announced
        assert status_of(words) == 2
    captured = capsys.readouterr()
    lines = [text for text in captured.err.splitlines() if text.startswith("tinygpt: ")]
    command = " ".join(words[:2] if words[0] in ("data", "tokenizer") else words[:1])
    assert captured.err == lines[0] + "\n", "something came before it"
    said = lines[0].removeprefix(f"tinygpt: {command}: ")
    assert said != lines[0] and re.match(expected.replace("(", r"\("), said), said
    started = re.match(r"(?:\w+\.)?(\w+): ", said)
    assert not started or started[1] not in NAMES, f"a function of ours is named: {said}"
    assert not re.search(r"\w_\w+\(|\b(?:GPT|Tokenizer)\.\w|(?:from|save)_pretrained", said), said
    assert sorted(folder.rglob("*")) == before  # nothing was left behind


def test_a_file_of_the_user_that_has_a_functions_name_stays_in_the_message(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "train").write_bytes(b"caf\xe9")
    assert main(["train", "--data", "train"]) == 2
    assert "train: train: must be UTF-8 text" in capsys.readouterr().err
    (folder / "train").unlink()


def test_a_traceback_is_there_for_those_who_ask(folder, monkeypatch):
    monkeypatch.setenv("TINYGPT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="train: steps must be at least 1"):
        main(["train", "--steps", "0"])
