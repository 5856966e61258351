"""Every example that a reader may type: those of the README and of docs/, and those of all docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import itertools
import os
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import tinygpt
from tinygpt.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks/RESULTS.md",
]
WITHOUT_COMMANDS = ("CONTRIBUTING.md", "RESULTS.md", "notation.md", "coming_from_pytorch.md")
MODULES = sorted(module.name for module in pkgutil.walk_packages(tinygpt.__path__, "tinygpt.")
                 if not module.name.startswith("tinygpt.stories"))  # fmt: skip


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_examples(name: str, text: str, names: dict) -> int:
    """Run a text's doctests; returns how many there were."""
    test = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failures = []
    runner.run(test, out=failures.append)
    assert not failures, "".join(failures)
    return len(test.examples)


def test_the_readmes_python_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = [block for block in blocks("python") if ">>>" in block]
    assert run_examples("README", "\n".join(examples), {}) > 10


def test_the_readmes_loop_runs(tmp_path, monkeypatch):
    """The loop that everyone types, at a size that takes a moment."""
    monkeypatch.chdir(tmp_path)
    loop = next(block for block in blocks("python") if "optimizer.step()" in block and ">>>" not in block)
    small = loop.replace('GPTConfig.preset("gpt2")', 'GPTConfig.preset("tiny", n_layer=1, n_embd=8, n_head=2)')
    assert small != loop
    tokens = np.arange(12).reshape(2, 6)
    names = {name: getattr(tinygpt, name) for name in tinygpt.__all__} | {"tokens": tokens, "targets": tokens + 1}
    exec(compile(small, "README", "exec"), names)
    assert names["loss"].item() == pytest.approx(np.log(2048), abs=0.1)
    reopened = tinygpt.GPT.from_pretrained("runs/mine")
    np.testing.assert_array_equal(reopened.wte.weight.data, names["model"].wte.weight.data)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_on_the_page_is_one_that_the_program_has(page, capsys):
    """Parsed, not run: the programs that they name are run by the tests of the command line."""
    found = blocks("sh", page.read_text(encoding="utf-8"))
    lines = [line for block in found for line in block.splitlines() if re.search(r"(^|[ |/])tinygpt ", line)]
    assert len(lines) >= {"README.md": 6, **dict.fromkeys(WITHOUT_COMMANDS, 0)}.get(page.name, 3)
    for line in lines:
        words = shlex.split(line[line.index("tinygpt ") :], comments=True)
        build_parser().parse_args(itertools.takewhile(lambda word: word not in (">", "|"), words[1:]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_python_example_on_the_page_compiles_and_imports_what_there_is(page):
    text = page.read_text(encoding="utf-8")
    written = re.findall(r"^`(\w+)\.py`:$", text, re.MULTILINE)  # files that the reader writes
    for block in blocks("python", text):
        if ">>>" not in block:
            tree = ast.parse(block)
            imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
                       and getattr(node, "module", "") not in written]  # fmt: skip
            exec(compile(ast.Module(imports, []), page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_and_file_that_the_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) > 10 or page.name != "README.md"
    for link in links:
        assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"
    for name in re.findall(r"`((?:tinygpt|tests|benchmarks|docs)/[a-z0-9_/]+\.(?:py|md))`", text):
        if "swish" not in name and "hello" not in name:  # what CONTRIBUTING.md tells a reader to write
            assert (ROOT / name).exists(), f"{page.name} names {name}, which is not there"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    if name == "tinygpt.__main__":
        return  # importing it is harmless, but it has no example
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failures = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=failures.append)
    assert not failures, "".join(failures)
    assert os.listdir(tmp_path) == [], "an example left files behind"
