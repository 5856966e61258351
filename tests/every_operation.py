"""Lists that have an entry for each operation: a test of one says what to add, and where."""

from __future__ import annotations

from collections.abc import Iterable

from tinygpt.study.samples import every_op

WITH_KERNELS = {name for name, op in every_op().items() if op.kernel is not None}


def assert_lists(listed: Iterable[str], where: str, expected: Iterable[str] | None = None) -> None:
    """Assert that `listed` has each of `expected` and no other; by default every operation of the package."""
    listed, expected = set(listed), set(every_op() if expected is None else expected)
    missing, unknown = (", ".join(sorted(names)) for names in (expected - listed, listed - expected))
    assert not missing, f"add {missing} to {where}"
    assert not unknown, f"take {unknown} out of {where}: there is no such operation"
