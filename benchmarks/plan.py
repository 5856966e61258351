"""What a run of `python -m benchmarks` races: which rows, and which sides of each kind of row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import (
    bench_generate,
    bench_lookup,
    bench_perplexity,
    bench_python_share,
    bench_recipe,
    bench_shared,
    bench_train_step,
    choice,
    kernel_race,
    modules,
)

QUICK = {
    "linear": ["c_fc, N=256"],
    "attention": ["B=4 T=64 H=12 D=64"],
    "layernorm": ["N=1024"],
    "gelu": ["N=1024"],
    "cross_entropy": ["N=256, V=50257"],
    "adamw": ["7 M parameters"],
    "train_step": ["nanoGPT's recipe, B=12 T=64"],
    "generate": ["one stream"],
}
# What --quick takes of a benchmark that is named, if not all.
_QUICK_CASES = QUICK | {"python_share": QUICK["train_step"], "shared": QUICK["train_step"], "recipe": []}
_MODULES: dict[str, Any] = {
    "train_step": bench_train_step, "python_share": bench_python_share, "shared": bench_shared,
    "recipe": bench_recipe, "generate": bench_generate, "lookup": bench_lookup, "perplexity": bench_perplexity,
}  # fmt: skip


class Race(NamedTuple):
    """The cases and sides of a benchmark of its own; both are empty where there is nothing to race."""

    cases: list[str]
    sides: list[str]


class Plan(NamedTuple):
    """
    What is raced.

    Attributes
    ----------
    rows : list of (name, case, precision)
        Of kernels.
    kernel_sides : list of str
        Those that are timed; tinygpt always is, and "against" where another checkout races.
    races : dict of str to Race
        Of the benchmarks in `modules.STEPS`, by their names; and "small_steps", the cases of train_step for which
        PyTorch compiles nothing unless it is asked to.
    size : str
        Of the model that generates.
    """

    rows: list[tuple[str, str, str]]
    kernel_sides: list[str]
    races: dict[str, Race]
    size: str


def plan(
    names: Sequence[str], quick: bool = False, quick_rows: bool = False, bfloat16: bool = True, against: bool = False,
    cases: Sequence[str] | None = None, sides: Sequence[str] | None = None,
) -> Plan:  # fmt: skip
    """
    The rows and sides of the benchmarks `names`.

    Parameters
    ----------
    names : sequence of str
        As `modules.resolve` gives them.
    quick : bool
        Whether steps and generation are those of --quick: of small models, in float32.
    quick_rows : bool
        Whether kernels are those of --quick: the most important rows.
    bfloat16 : bool
        Whether products of bfloat16 are raced, too.
    against : bool
        Whether another checkout races.
    cases, sides : sequence of str or None
        What --cases and --sides say.

    Raises
    ------
    ValueError
        If one of them names nothing.
    """
    ops = [name for name in names if name not in modules.STEPS]
    rows = list(kernel_race.cases(ops, bfloat16, QUICK if quick_rows else None))
    races = {}
    for name in names:
        if name in modules.STEPS:
            module = _MODULES[name]
            found = module.SIDES if sides else getattr(module, "DEFAULT", module.SIDES)
            # weights in bfloat16 need no instructions for it
            rounded = bfloat16 or name in ("generate", "lookup", "perplexity")
            races[name] = _raced(name, module.CASES, found, quick, rounded)
    if "train_step" in names and not quick:
        found = [side for side in races["train_step"].sides if sides or not side.endswith(bench_train_step.COMPILED)]
        races["small_steps"] = Race([*bench_train_step.SMALL], found)
    frameworks = kernel_race.SIDES if rows else ()
    choice.check(
        "--cases", cases, [*(case for _, case, _ in rows), *(case for race in races.values() for case in race.cases)]
    )
    choice.check("--sides", sides, [*frameworks, *(side for race in races.values() for side in race.sides)])
    case_of, side_of = choice.having(cases), choice.having(sides)
    wanted = {*case_of(case for _, case, _ in rows)}
    return Plan(
        [row for row in rows if row[1] in wanted], _frameworks(frameworks, sides),
        {
            name: Race(case_of(race.cases), _with_other_checkout(side_of(race.sides), against))
            for name, race in races.items()
        },
        "small" if quick else "gpt2",
    )  # fmt: skip


def _raced(name: str, cases: Sequence[str], sides: Sequence[str], quick: bool, bfloat16: bool) -> Race:
    if quick:
        quick_cases = _QUICK_CASES.get(name, [*cases])
        return Race(
            [*quick_cases],
            [side for side in sides if "float32" in side and not side.endswith(bench_train_step.COMPILED)],
        )
    return Race([*cases], [side for side in sides if bfloat16 or "bfloat16" not in side])


def _frameworks(known: Sequence[str], sides: Sequence[str] | None) -> list[str]:
    """Those of which --sides names one, in whatever precision; all, if it names none."""
    words = {word for text in sides or () for word in text.lower().split()}
    named = [side for side in known if side in words]
    return [side for side in known if not named or side in named or side == "tinygpt"]


def _with_other_checkout(sides: list[str], against: bool) -> list[str]:
    ours = [side for side in sides if side.startswith("tinygpt")]
    return sides + [side.replace("tinygpt", "against") for side in ours if against]
