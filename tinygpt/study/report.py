"""The table of `tinygpt gradcheck`."""

from __future__ import annotations

from collections.abc import Sequence

from tinygpt.files.one_line import one_line
from tinygpt.runtime.plural import counted
from tinygpt.study.checks import BOUNDS, Finding


def table(findings: Sequence[Finding]) -> str:
    """A line for each finding: the largest error as a share of the largest derivative, where it is, the best step."""
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
    return "\n".join(lines)


def verdict(finding: Finding) -> str:
    """The text of the last column."""
    return "ok" if finding.passed else f"FAILED {finding.problem}".rstrip()
