"""The arguments of the commands for studying gradients: gradcheck, museum, diff, explain, exercise."""

from __future__ import annotations

from pathlib import Path

from tinygpt.cli.arguments import add_command, add_threads, positive


def add_gradcheck(commands) -> None:
    """tinygpt gradcheck"""
    parser = add_command(
        commands,
        "gradcheck",
        "study_commands.check_gradients",
        "Check every gradient: the reference against differences, the kernels against the reference.",
        "examples:\n"
        "  tinygpt gradcheck                        every operation\n"
        "  tinygpt gradcheck layernorm gelu --sweep sweep.png\n"
        "  tinygpt gradcheck mymodule:MY_OP         an Op of your own; `samples` in the module are its inputs\n"
        "\nerrors are shares of the largest derivative of the input; exit status 1 if one is too large\n",
    )
    add = parser.add_argument
    add("ops", nargs="*", metavar="OP", help="an operation, or module:name (default: all)")
    add("--model", action="store_true", help="check a whole small GPT-2, parameter by parameter")
    add("--sweep", type=Path, metavar="PNG", help="draw the error of the difference against its step")
    add("--against", choices=["torch"], help="compare with PyTorch's gradients too, where it is installed")
    add("--json", action="store_true", help="the table for programs")
    add_threads(parser)


def add_museum(commands) -> None:
    """tinygpt museum"""
    parser = add_command(
        commands,
        "museum",
        "study_commands.museum",
        "Plausible wrong gradients, to be found by reading.",
        "example:\n  tinygpt museum 7, then tinygpt museum 7 --hint, and --answer\n",
    )
    parser.add_argument("number", nargs="?", type=int, metavar="NUMBER", help="an exhibit (default: list them)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--hint", action="store_true", help="a nudge")
    what.add_argument("--answer", action="store_true", help="what is wrong, and why")


def add_diff(commands) -> None:
    """tinygpt diff"""
    sides = "kernels, numpy, float64, bfloat16 or transformers"
    parser = add_command(
        commands,
        "diff",
        "study_commands.diff",
        "Run one batch through two implementations, and name the first operation where they part.",
        "example:\n  tinygpt diff kernels numpy\n\nexit status 1 if they part further than rounding explains\n",
    )
    add = parser.add_argument
    add("a", metavar="A", help=sides)
    add("b", metavar="B", help=sides)
    add("--model", metavar="MODEL", help="a run or a GPT-2 folder (default: a small one with random weights)")
    add("--context", type=positive, default=16, metavar="T", help="tokens a row (default: 16)")
    add("--batch-size", type=positive, default=2, metavar="B", help="rows (default: 2)")
    add("--tolerance", type=float, metavar="X", help="share of the largest number (default: what rounding explains)")
    add("--json", action="store_true", help="the gaps for programs")
    add_threads(parser)


def add_explain(commands) -> None:
    """tinygpt explain"""
    parser = add_command(
        commands,
        "explain",
        "study_commands.explain",
        "One operation on one page: derivation, reference and kernel by step number, an example, its check.",
        "examples:\n"
        "  tinygpt explain                          list all operations\n"
        "  tinygpt explain layernorm\n"
        "  tinygpt explain mymodule:MY_OP           an Op of your own\n",
    )
    parser.add_argument("op", nargs="?", metavar="OP", help="an operation, or module:name (default: list them)")
    parser.add_argument("--step", action="store_true", help="wait for Enter after each section and each statement")


def add_exercise(commands) -> None:
    """tinygpt exercise"""
    parser = add_command(
        commands,
        "exercise",
        "study_commands.exercise",
        "Write a backward yourself, and have it graded: right, general, fast.",
        "examples:\n"
        "  tinygpt exercise                         what there is\n"
        "  tinygpt exercise layernorm               write layernorm_exercise.py, with the backward missing\n"
        "  tinygpt exercise check FILE …            grade files, or a folder of them, into one table\n",
    )
    add = parser.add_argument
    add("what", nargs="?", metavar="NAME|check", help="an exercise, or check")
    add("files", nargs="*", metavar="FILE", help="where to write it; what to grade (default: this folder)")
    add(
        "--time-limit", type=float, default=60, metavar="S", help="seconds that grading one file may take (default: 60)"
    )
    add("--json", action="store_true", help="the grades for programs")
