"""What commands import when they run is there: otherwise a renamed module would be found by the user."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import tinygpt.cli

FILES = sorted(Path(tinygpt.cli.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_import_of_the_package_finds_its_name(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tinygpt"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):  # then it must be a module of that package
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_command_imports_numpy_or_a_model_before_it_runs(path):
    cheap = {"argparse", "contextlib", "dataclasses", "errno", "importlib", "math", "os", "re", "shlex", "signal"}
    cheap |= {"__future__", "collections", "pathlib", "sys", "textwrap", "threading", "time", "types", "typing"}
    cheap |= {"warnings"}
    allowed = ("tinygpt.cli", "tinygpt.files.locate", "tinygpt.files.one_line", "tinygpt.gpt2.config",
               "tinygpt.runtime.plural", "tinygpt.runtime.seeds", "tinygpt.runtime.streams",
               "tinygpt.training.settings")  # fmt: skip
    for node in ast.parse(path.read_text(encoding="utf-8")).body:  # neither in a function nor for type checkers alone
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.split(".")[0] in cheap or name.startswith(allowed), f"{path.name} imports {name} at its top"
