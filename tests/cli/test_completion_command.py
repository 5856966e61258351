"""`tinygpt completion`: what the scripts complete, as the shells themselves say."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
import shtab

from tinygpt.cli import main
from tinygpt.cli.completion import SHELLS
from tinygpt.cli.main import build_parser
from tinygpt.gpt2.config import PRESETS
from tinygpt.study.exercises import ORDER

CHECKS = {"bash": "-n", "zsh": "-n", "fish": "--no-execute"}  # each reads a script without running it
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")


def script_for(shell: str, capsys) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def completed(capsys, tmp_path):
    """What bash offers after a line, the last word of which is not finished."""
    script = tmp_path / "tinygpt.bash"
    script.write_text(script_for("bash", capsys), encoding="utf-8")
    (tmp_path / "book.txt").write_text("the hen", encoding="utf-8")
    (tmp_path / "books").mkdir()

    def complete(line: str) -> set[str]:
        words = line.split(" ")
        program = f"source {shlex.quote(str(script))}\n" \
                  f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}\n" \
                  "compopt() { :; }\n_shtab_tinygpt\nprintf '%s\\n' \"${COMPREPLY[@]}\""  # fmt: skip
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stderr == ""
        return set(done.stdout.split())

    return complete


@needs_bash
def test_bash_completes_commands_options_choices_and_files(completed):
    assert completed("tinygpt tr") == {"train"}
    assert {"train", "generate", "doctor", "completion"} <= completed("tinygpt ")
    assert completed("tinygpt tokenizer e") == {"encode", "explain"}
    assert completed("tinygpt train --pre") == {"--preset", "--precision"}
    assert completed("tinygpt train --seed 3 --res") == {"--resume"}
    assert completed("tinygpt train --preset ") == set(PRESETS)
    assert completed("tinygpt train --lr 0.1 --preset ti") == {"tiny"}
    assert completed("tinygpt generate runs/tiny --weights ") == {"float32", "bfloat16", "int8", "int4"}
    assert completed("tinygpt train --data bo") == {"book.txt", "books"}
    assert completed("tinygpt train --out bo") == {"books"}
    assert completed("tinygpt evaluate runs/tiny --data bo") == {"book.txt", "books"}
    assert completed("tinygpt tokenizer encode boo") == {"book.txt", "books"}
    assert completed("tinygpt diff ker") == {"kernels"}


def test_every_option_that_takes_a_file_or_a_folder_completes_it(capsys):
    script = script_for("bash", capsys)
    for parser in build_parser().below():
        for action in parser._actions:
            if action.metavar in ("FILE", "PATH", "DIR") and action.option_strings:
                name = f"_shtab_{parser.prog} {action.option_strings[-1]}_COMPGEN=".replace(" ", "_").replace("-", "_")
                assert name in script, (parser.prog, action.option_strings)


@needs_bash
def test_bash_completes_the_names_of_operations_and_exercises(completed):
    assert completed("tinygpt explain layern") == {"layernorm"}
    assert completed("tinygpt gradcheck layernorm gel") == {"gelu", "gelu_linear"}
    assert completed("tinygpt exercise ") == {*ORDER, "check"}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_has_every_command_and_its_long_options(shell, capsys):
    script = script_for(shell, capsys)
    for parser in build_parser().below():
        assert parser.prog.split()[-1] in script
        for action in parser._actions:
            for option in action.option_strings:
                assert option.lstrip("-") in script, (parser.prog, option)


@pytest.mark.parametrize(("shell", "check"), [each for each in CHECKS.items() if shutil.which(each[0])])
def test_each_shell_can_read_its_script(shell, check, capsys, tmp_path):
    (tmp_path / "script").write_text(script_for(shell, capsys), encoding="utf-8")
    done = subprocess.run([shell, check, str(tmp_path / "script")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shells_are_those_that_shtab_knows():
    assert set(SHELLS) <= set(shtab.SUPPORTED_SHELLS)
