"""The house rules that a machine can check: who imports whom, how large the core is, which files mirror which."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinygpt"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Imports point downward only. Each module may import those named here (a folder names all in it), besides `runtime`.
ENGINE = {"graph", "autograd"}
TEXT = {"corpus", "token_file", "durable", "tokenizer"}
# What any file may use that reads what comes from elsewhere; they import nothing but each other.
READERS = {"input_file", "json_file", "one_line"}
CHECKPOINT = {
    "checkpoint",
    "durable",
    "hub",
    "hugging_face",
    "parameter_shapes",
    "serialization",
    "swap",
    "tokenizer",
    "weight_files",
}
MODEL = {
    "model",
    "recompute",
    "config",
    "decoding",
    "generate",
    "gradient_norm",
    "hub",
    "memory_limit",
    "nn",
    "optim",
    "ops",
    "quantization",
    *ENGINE,
    *CHECKPOINT,
}
RUNS = {
    "train",
    "gradient_norm",
    "initial_model",
    "kernels",
    "settings",
    "dataset",
    "evaluate",
    "interrupt",
    "ownership",
    "run_log",
    "training_state",
    "completion",
    "sealed",
    "streams",
    *MODEL,
    *TEXT,
}
MAY_IMPORT = {
    "scope": set(),
    "runtime": {"scope"},
    "one_line": set(),
    "input_file": {"one_line"},
    "memory_limit": set(),
    "json_file": {"input_file", "one_line"},
    "bfloat16": set(),
    "guard": {"pages"},
    "pages": set(),
    "buffers": {"guard", "pages"},
    "launch": set(),
    "kernel_cache": {"user_cache"},
    "compiler": {"guard", "kernel_cache", "user_cache"},
    "kernels": {"bfloat16", "buffers", "compiler", "kernels", "launch"},
    "locks": set(),
    "durable": {"locks"},
    "process_identity": set(),
    "owner_file": {"durable", "locks", "process_identity"},
    "ownership": {"durable", "locks", "owner_file", "process_identity"},
    "swap": {"durable", "locks", "owner_file"},
    "config": set(),
    "hub": {"user_cache"},
    "hugging_face": set(),
    "windows": set(),
    "arguments": set(),
    "streams": set(),
    "sealed": set(),
    "interrupt": {"streams"},
    "user_cache": set(),
    "tokenizer": {
        "compiler",
        "durable",
        "http_client",
        "launch",
        "locks",
        "owner_file",
        "streams",
        "tokenizer",
        "user_cache",
    },
    "graph": {"buffers"},
    "contract": {"graph", "scope"},
    "copying": {"graph"},
    "rounding": set(),
    "twin": {"buffers", "contract", "graph", "launch", "rounding"},
    "tensor_methods": {"autograd"},  # for type checkers only
    "autograd": {"buffers", "copying", "graph", "numpy_protocol", "scope", "tensor_methods", "twin"},
    "gradient_check": {"contract", "rounding", "scope", *ENGINE},
    "ops": {"ops", *ENGINE},
    "functional": {"ops"},
    "numpy_functions": {"ops", *ENGINE},
    "numpy_dispatch": {"numpy_functions", "ops", *ENGINE},
    "numpy_protocol": set(),  # it names numpy_dispatch, which knows the operations, by string
    "nn": {"buffers", "ops", *ENGINE},
    "display": {"nn", *ENGINE},
    "recompute": ENGINE,
    "runs": set(),
    "optim": {"kernels", "runs", "twin", *ENGINE},
    "gradient_norm": {"kernels", "runs", "twin", *ENGINE},
    "serialization": {"bfloat16", "durable", "swap"},
    "weight_files": {"serialization"},
    "parameter_shapes": {"config", "hugging_face"},
    "training_state": set(),
    "checkpoint": CHECKPOINT,
    "quantization": {"bfloat16"},
    "sampling": set(),
    "decoding": {"ops", "quantization", "twin", *ENGINE},
    "generate": {"ops", "sampling", *ENGINE},
    "completion": {"generate", "tokenizer"},
    "pictures": {"durable"},
    "inspection": {"ops", "pictures", "sampling", *ENGINE},
    "model": MODEL - {"gradient_norm", "optim", "model"},
    "token_file": {"durable"},
    "documents": TEXT,
    "corpus": TEXT,
    "http_client": set(),
    "download": {"corpus", "durable", "http_client", "user_cache"},
    "gutenberg": {"corpus", "download", "durable", "tokenizer"},
    "settings": {"config"},
    "evaluate": MODEL | TEXT | {"streams", "windows"},
    "dataset": {"settings", *CHECKPOINT, *TEXT},
    "initial_model": {"config", "dataset", "model", "settings"},
    "run_log": {"checkpoint", "streams"},
    "train": RUNS,
    "ledger": {"config"},
    "doctor": {"kernels", "user_cache"},
    "warmup": {
        "functional",
        "autograd",
        "config",
        "gradient_norm",
        "kernels",
        "model",
        "optim",
        "quantization",
        "streams",
        "tokenizer",
    },
    "machine_commands": {"doctor", "kernels", "streams", "warmup"},
    "cache_contents": {"user_cache"},
    "cache_commands": {"cache_contents", "kernels", "streams", "tokenizer", "user_cache"},
    "ctrl_c": {"streams"},
    "commands": RUNS | {"gutenberg", "ledger"},
    "model_commands": RUNS | {"completion", "inspection", "sampling"},
    "model_arguments": {"arguments"},
    "study": {
        "buffers",
        "contract",
        "doctor",
        "gradient_check",
        "kernels",
        "pictures",
        "scope",
        "study",
        "tokenizer",
        "twin",
        *MODEL,
    },
    "study_commands": {"config", "durable", "gradient_check", "model", "streams", "study"},
    "study_arguments": {"arguments"},
    "tokenizer_commands": {"documents", "streams", *TEXT},
    "cli": {
        "arguments",
        "ctrl_c",
        "commands",
        "machine_commands",
        "model_arguments",
        "model_commands",
        "streams",
        "study_arguments",
        "study_commands",
        "tokenizer_commands",
    },
    "__main__": {"cli"},
    "__init__": {
        "autograd",
        "display",
        "config",
        "gradient_check",
        "gradient_norm",
        "graph",
        "model",
        "optim",
        "tokenizer",
    },
}
CORE = [  # twin.py is not among them: it is the way to the kernels, which are not either
    "graph.py",
    "autograd.py",
    "tensor_methods.py",
    "buffers.py",
    "nn.py",
    "model.py",
    "optim.py",
    "gradient_norm.py",
    "ops/*.py",
]


def name_of(path: Path) -> str:
    """The first part of a module's name inside the package: ops/gelu.py is "ops"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in found]
    return {part[1] for part in parts if part[0] == "tinygpt" and len(part) > 1} - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    allowed = MAY_IMPORT[name_of(path)] | {"runtime"} | READERS
    assert imports_of(path) <= allowed, f"{path.name} may not import {imports_of(path) - allowed}"


def test_the_import_table_names_existing_modules_only():
    assert MAY_IMPORT.keys() == {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_deep_learning_framework_is_imported(path):
    text = path.read_text(encoding="utf-8")
    names = {alias.name.split(".")[0] for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {node.module.split(".")[0] for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)
              and node.module}  # fmt: skip
    assert not names & {"torch", "transformers", "tiktoken", "tokenizers", "tensorflow", "jax", "pickle"}


def lines_of_code(path: Path) -> int:
    """Lines that hold code: docstrings, comments and blank lines are not counted."""
    text = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def test_the_core_stays_within_1800_lines_of_code():
    files = [path for pattern in CORE for path in PACKAGE.glob(pattern)]
    assert len(files) > 15
    assert sum(map(lines_of_code, files)) <= 1800


def test_a_docstring_or_a_comment_is_not_a_line_of_code(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        '"""Two\nlines."""\n\n# why\nx = 1  # what\n\n\ndef f():\n    """Doc."""\n    return (\n        x\n    )\n'
    )
    assert lines_of_code(path) == 5


def test_every_gpt2_op_has_the_four_parts_and_its_test():
    basic = {"__init__", "basic", "elementwise", "reductions", "shapes"}
    ops = {path.stem for path in (PACKAGE / "ops").glob("*.py")} - basic
    assert ops == {"attention", "cross_entropy", "dropout", "embedding", "gelu", "gelu_linear", "layernorm", "linear",
                   "linear_cross_entropy"}  # fmt: skip
    for op in ops:
        tree = ast.parse((PACKAGE / "ops" / f"{op}.py").read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {f"{op}_forward", f"{op}_backward", op} <= functions
        text = (PACKAGE / "ops" / f"{op}.py").read_text(encoding="utf-8")
        assert re.search(rf'Op\(\s*"{op}"', text)
        assert (ROOT / "tests" / "ops" / f"test_{op}.py").exists()
        for word in ("Forward", "Backward", "Step", "Source:", "Cost:"):
            assert word in ast.get_docstring(tree), f"ops/{op}.py: the docstring lacks {word!r}"


def test_every_kernel_that_is_an_ops_twin_has_its_test_and_its_benchmark():
    ops = {path.stem for path in (PACKAGE / "ops").glob("*.py")} - {"__init__"}
    twins = {path.stem for path in (PACKAGE / "kernels").glob("*.py")} & ops
    assert "linear" in twins
    for name in twins:
        assert f'"tinygpt.kernels.{name}"' in (PACKAGE / "ops" / f"{name}.py").read_text(encoding="utf-8")
        assert (ROOT / "tests" / "kernels" / f"test_{name}.py").exists()
        assert (ROOT / "benchmarks" / f"bench_{name}.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_and_public_function_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    pairs = ("_forward", "_backward", "forward", "backward", "accepts")  # the module's docstring is theirs
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or node.name.endswith(pairs), f"{path.name}: {node.name} has no docstring"
