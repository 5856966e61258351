"""The table of `tinygpt gradcheck`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinygpt.files.one_line import one_line
from tinygpt.runtime.plural import counted
from tinygpt.study.checks import BOUNDS, Finding

# Who computed the derivative, and what it is compared with.
_SIDES = {
    "reference": ("backward", "differences"),
    "float32": ("the kernel", "the reference"),
    "bfloat16": ("the kernel", "the reference"),
    "torch": ("backward", "PyTorch"),
}


def table(findings: Sequence[Finding], names: Mapping[str, str] | None = None) -> str:
    """
    A line for each finding: the largest error as a share of the largest derivative, where it is, the best step.

    Below it, both numbers for each that failed.

    Parameters
    ----------
    findings : sequence of Finding
    names : mapping of str to str, optional
        By the name of an operation the one by which `tinygpt explain` finds it, which is shown if it failed.
    """
    header = ("operation", "input", "implementation", "worst error", "allowed", "where", "best step", "")
    rows = [header]
    for finding in findings:
        step = "" if finding.best_step is None else f"{finding.best_step:.0e}"
        rows.append((one_line(finding.op), finding.input, finding.implementation, f"{finding.error:.1e}",
                     f"{BOUNDS[finding.implementation]:.0e}", finding.where, step, verdict(finding)))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failed = sum(not finding.passed for finding in findings)
    passed = f"{failed} failed" if failed else "passed" if len(findings) == 1 else "all passed"
    lines.append(f"{counted(len(findings), 'check')}, {passed}")
    return "\n".join([*lines, *_details(findings, names or {})])


def _details(findings: Sequence[Finding], names: Mapping[str, str]) -> list[str]:
    """For each wrong gradient both numbers at the worst place; for each operation where its steps are."""
    failed = [finding for finding in findings if not finding.passed]
    lines = []
    for finding in failed:
        if not finding.problem and finding.got is not None:
            got, expected = _SIDES[finding.implementation]
            give = "give" if expected == "differences" else "gives"
            lines.append(
                f"  {finding.op}, gradient of {finding.input}, {finding.where}: "
                f"{got} gives {finding.got:.6g}, {expected} {give} {finding.expected:.6g}"
            )
    explained = dict.fromkeys(names[finding.op] for finding in failed if finding.op in names)
    return [*lines, *(f"  its steps, one by one: tinygpt explain {name}" for name in explained)]


def verdict(finding: Finding) -> str:
    """The text of the last column."""
    return "ok" if finding.passed else f"FAILED {finding.problem}".rstrip()
