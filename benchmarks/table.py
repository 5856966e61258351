"""
The results of the benchmarks as text.

A ratio is how many times as long the rival takes, by the medians. It is bold where it means something. A row is *noisy*
where the middle half of a side's readings spreads over more than 15 % of their median, or where the kernel against
itself differs by more than 15 %. Then the ratio is a range, marked with a tilde, from the fast quarter of the rival
against the slow quarter of ours to the reverse.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.worker import median

NOISY = 0.15
NOTE = (
    "~ noisy: the middle half of a side's readings spreads over more than 15 %, or the kernel differs so much from\n"
    "  itself (noise), and the ratio is a range. More --rounds, and a machine that does nothing else, narrow it."
)


def figure(number: float, digits: int = 3) -> str:
    """
    So many digits, and no exponent.

    Examples
    --------
    >>> figure(1432.7), figure(0.0000123456), figure(12.0)
    ('1430', '0.0000123', '12')
    """
    return np.format_float_positional(float(f"{number:.{digits}g}"), trim="-")


def rate(number: float, unit: str) -> str:
    """
    Units per second, with the prefix that leaves at least one digit before the point.

    Examples
    --------
    >>> rate(31.4e9, "B/s"), rate(12345, "FLOP/s"), rate(0.5, "B/s")
    ('31.4 GB/s', '12.3 kFLOP/s', '0.5 B/s')
    """
    scale, prefix = next((each for each in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= each[0]), (1, ""))
    return f"{figure(number / scale)} {prefix}{unit}"


def share(number: float | None) -> str:
    """
    A share in percent.

    Examples
    --------
    >>> share(0.914), share(0.0001), share(None)
    ('91%', '<1%', '')
    """
    return "" if number is None else "<1%" if number < 0.01 else f"{number:.0%}"


def quarters(readings: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    if len(readings) < 2:
        return readings[0], readings[0]
    first, _, third = statistics.quantiles(readings, n=4, method="inclusive")
    return first, third


def noisy(readings: Sequence[float]) -> bool:
    """Whether they spread too far."""
    low, high = quarters(readings)
    return high - low > NOISY * median(list(readings))


def ratio(theirs: Sequence[float], ours: Sequence[float], again: Sequence[float] = (), bold: bool = True) -> str:
    """
    How many times as long the rival takes: a number, or a range where that is all that can be said. It is bold unless
    a side has one reading only, of which no spread is known.

    Examples
    --------
    >>> ratio([3.0, 3.1, 3.0], [1.0, 1.0, 1.1])
    '**3.00**'
    >>> ratio([3.0, 4.2, 2.0], [1.0, 1.0, 1.0])
    '2.50 to 3.60 ~'
    """
    drift = abs(median(list(again)) / median(list(ours)) - 1) if again else 0.0
    if noisy(theirs) or noisy(ours) or drift > NOISY:
        low, high = quarters([*ours, *again])
        return f"{quarters(theirs)[0] / high:.2f} to {quarters(theirs)[1] / low:.2f} ~"
    number = f"{median(list(theirs)) / median(list(ours)):.2f}"
    return f"**{number}**" if bold and min(len(theirs), len(ours)) > 1 else number


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns line up as text, too; a column without a single entry is left out."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    lines = [[columns[i] for i in kept], *([row[i] for i in kept] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    text = ["| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines]  # fmt: skip
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def milliseconds(readings: Sequence[float], spread: bool = False, digits: int = 3) -> str:
    """The median; with `spread`, the least and the largest as well."""
    values = median(list(readings)), min(readings), max(readings)
    middle, least, largest = (figure(1e3 * value, digits) for value in values)
    return f"{middle} ({least}-{largest})" if spread else middle


def kernels(rows: Sequence[dict[str, Any]]) -> str:
    """One line per case."""
    columns = ["kernel", "case", "products", "numpy ms", "torch ms", "tinygpt ms (spread)", "rate", "of peak",
               "numpy / tinygpt", "torch / tinygpt", "torch / against", "against / tinygpt", "noise"]  # fmt: skip
    lines = []
    for row in rows:
        readings = row["readings"]
        ours, again, theirs = readings["tinygpt"], readings["tinygpt again"], readings.get("torch")
        numpy, before = readings.get("numpy"), readings.get("against")
        products = {"highest": "float32", "medium": "bfloat16"}[row["precision"]]
        lines.append([
            row["benchmark"], row["case"], products if row["kind"] == "flops" else "",
            milliseconds(numpy) if numpy else "", milliseconds(theirs) if theirs else "",
            milliseconds(ours, spread=True),
            rate(1e9 * row["rate"], "B/s" if row["kind"] == "bytes" else "FLOP/s"), share(row["share"]),
            ratio(numpy, ours, again, bold=False) if numpy else "", ratio(theirs, ours, again) if theirs else "",
            ratio(theirs, before) if theirs and before else "", ratio(before, ours, again) if before else "",
            f"{row['noise']:.2f}",
        ])  # fmt: skip
    return markdown(columns, lines)


def steps(rows: Sequence[dict[str, Any]]) -> str:
    """A table for each size, and the ratios that count."""
    parts = []
    for row in rows:
        lines = []
        for side, readings in row["readings"].items():
            memory = row["memory"].get(side)
            megabytes = f"{memory / 1e6:,.0f}" if memory else ""
            speed = figure(1 / median(readings))
            lines.append([side, milliseconds(readings, spread=True, digits=4), speed, megabytes])
        title = f"training step, {row['case']}"
        columns = [" ", "ms per step (spread)", "steps/s", "peak memory, MB"]
        parts += [f"{title}\n\n" + markdown(columns, lines)]
        parts += filter(None, [_said(row), _memory_said(row), _left_out(row)])
    return "\n\n".join(parts)


def _said(row: dict[str, Any]) -> str:
    """The ratios of times, of those sides that there are."""
    readings, said = row["readings"], []
    theirs = [values for side, values in readings.items() if side.startswith("torch")]
    float32 = [values for side, values in readings.items() if side.startswith("torch float32")]
    ours, again = readings.get("tinygpt float32"), readings.get("tinygpt float32 again", ())
    if ours and float32:
        best = ratio(min(float32, key=median), ours, again)
        said.append(f"PyTorch's best takes {best} times as long in float32")
    if (rounded := readings.get("tinygpt bfloat16")) and theirs:
        best = ratio(min(theirs, key=median), rounded, readings.get("tinygpt bfloat16 again", ()))
        whose = "its" if said else "PyTorch's"
        said.append(f"{whose} best of all {best} times as long as our bfloat16")
    for kind in ("float32", "bfloat16"):
        if f"tinygpt {kind}" in readings and f"against {kind}" in readings:
            before = ratio(readings[f"against {kind}"], readings[f"tinygpt {kind}"])
            said.append(f"the other checkout takes {before} times as long as ours in {kind}")
    return f"{said[0][0].upper()}{', and '.join(said)[1:]}." if said else ""


def _memory_said(row: dict[str, Any]) -> str:
    """Our peak memory as a share of the least that a side of PyTorch needs in the same precision."""
    memory, said = row["memory"], []
    for kind in ("float32", "bfloat16"):
        theirs = [needed for side, needed in memory.items() if side.startswith(f"torch {kind}") and needed]
        if theirs and memory.get(f"tinygpt {kind}"):
            said.append(f"{memory[f'tinygpt {kind}'] / min(theirs):.2f} in {kind}")
    return f"Peak memory, as a share of the least that PyTorch needs: {', '.join(said)}." if said else ""


def _left_out(row: dict[str, Any]) -> str:
    return "\n".join(f"Left out, {side}: {reason}." for side, reason in row.get("left_out", {}).items())


def generation(rows: Sequence[dict[str, Any]], model: str, bytes_per_token: float, bandwidth: float | None) -> str:
    """
    One line per side and case, and what was left out; `bytes_per_token` are those of the matrices in float32.

    The share of the bandwidth is that of reading the weights once, for all streams; of the bandwidth in turns with the
    sides where it was measured, else of `bandwidth`, GB/s.
    """
    columns = [f"generation, {model}", "side", "ms (spread)", "tokens/s", "torch float32 / this", "weights read, MB",
               "of bandwidth"]  # fmt: skip
    widths, lines = {"float32": 1, "bfloat16": 2, "int8": 4, "int4": 64 / 9}, []
    for row in rows:
        theirs = row["readings"].get("torch float32")
        rate = median(row["bandwidth"]) if row.get("bandwidth") else bandwidth
        for side, readings in row["readings"].items():
            middle, kind = median(readings), side.split()[1]
            read = row["bytes"][side] if "bytes" in row else bytes_per_token / widths[kind]
            streams = {"one": 1}.get(word := row["case"].split()[0]) or (int(word) if word.isdigit() else 0)
            each_reads = streams and row["case"].split()[1].startswith("stream")
            lines.append([
                row["case"], side, milliseconds(readings, spread=True),
                f"{1 / middle:,.0f}" if each_reads else "",
                ratio(theirs, readings) if theirs and side != "torch float32" else "",
                f"{read / 1e6:,.0f}" if each_reads else "",
                share(read / (middle * streams) / 1e9 / rate) if each_reads and rate is not None else "",
            ])  # fmt: skip
    left_out = {side: reason for row in rows for side, reason in row.get("left_out", {}).items()}
    rates = [rate for row in rows for rate in row.get("bandwidth", [])]
    reading = f"Bandwidth, of reading memory in turns with the sides: {_speed(rates)} GB/s." if rates else ""
    return "\n\n".join(filter(None, [markdown(columns, lines), reading, _left_out({"left_out": left_out})]))


def shared(rows: Sequence[dict[str, Any]]) -> str:
    """A table for each size: steps per second alone and beside busy processes, and the shares of the speed alone."""
    parts = []
    for row in rows:
        counts = [*next(iter(row["readings"].values()))]
        busy = [count for count in counts if count != "0"]
        beside = [f"beside {count}" for count in busy]
        columns = [
            "side",
            "alone (spread)",
            *(f"{each} (spread)" for each in beside),
            *(f"share {each}" for each in beside),
        ]
        lines = []
        for side, readings in row["readings"].items():
            alone = median(readings["0"])
            shares = [f"{median(readings[count]) / alone:.2f}" for count in busy]
            lines.append([side, *(_speed(readings[count]) for count in counts), *shares])
        fair = [f"{row['fair'][count]:.2f} {each}" for count, each in zip(busy, beside, strict=True)]
        turns = max(len(speeds) for readings in row["readings"].values() for speeds in readings.values())
        parts.append(f"steps per second beside busy processes, {row['case']}\n\n{markdown(columns, lines)}")
        parts.append(
            f"{row['threads']} threads on {row['cores']} cores; medians of {turns} turns of {row['seconds']:g} s.\n"
            f"Shares are of the speed alone; a fair share of the cores is {', '.join(fair)}."
        )
        parts += filter(None, [_left_out(row)])
    return "\n\n".join(parts)


def _speed(readings: Sequence[float]) -> str:
    """The median and the spread of a rate."""
    middle, least, most = (figure(value) for value in (median([*readings]), min(readings), max(readings)))
    return f"{middle} ({least}-{most})"


def python_share(rows: Sequence[dict[str, Any]]) -> str:
    """One line per case and side."""
    columns = ["Python's share of a step", "side", "ms per step (spread)", "in kernels", "outside", "share outside",
               "calls", "launches"]  # fmt: skip
    lines = []
    for row in rows:
        for side, readings in row["readings"].items():
            pairs = [*zip(readings["watched"], readings["kernels"], strict=True)]
            outside = median([watched - kernels for watched, kernels in pairs])
            part = median([1 - kernels / watched for watched, kernels in pairs])
            calls, launches = median(readings["calls"]), median(readings["launches"])
            lines.append([
                row["case"], side, milliseconds(readings["step"], spread=True), milliseconds(readings["kernels"]),
                figure(1e3 * outside), share(part), f"{calls:.0f}", f"{launches:.0f}",
            ])  # fmt: skip
    return markdown(columns, lines)


def recipe(rows: Sequence[dict[str, Any]]) -> str:
    """One line per side."""
    parts = []
    for row in rows:
        theirs, lines = row["readings"].get("torch float32"), []
        for side, seconds in row["readings"].items():
            middle, least, most = (figure(value) for value in (median(seconds), min(seconds), max(seconds)))
            lines.append([
                side, f"{middle} ({least}-{most})", f"{median(row['losses'][side]):.4f}",
                ratio(theirs, seconds) if theirs and side != "torch float32" else "",
            ])  # fmt: skip
        columns = [" ", "seconds, start to exit (spread)", "last validation loss", "torch float32 / this"]
        parts.append(f"{row['case']}, {row['text']}; {row['threads']} threads\n\n{markdown(columns, lines)}")
    return "\n\n".join(parts)


def perplexity(rows: Sequence[dict[str, Any]]) -> str:
    """One line per text, one column per type of weights: the perplexity, and how far it is above that of float32."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        sides = list(dict.fromkeys(side for row in of_model for side in row["losses"]))
        read = of_model[-1]["bytes"]
        columns = [
            f"perplexity, {model}",
            "tokens",
            *(f"{side}, {read[side] / 1e6:,.1f} MB per token" for side in sides),
        ]
        lines = []
        for row in of_model:
            exact = row["losses"].get("tinygpt float32")
            cells = [_perplexity(row["losses"].get(side), exact, side) for side in sides]
            lines.append([row["case"], f"{row['tokens']:,}", *cells])
        left_out = {side: reason for row in of_model for side, reason in row["left_out"].items()}
        parts += filter(None, [markdown(columns, lines), _left_out({"left_out": left_out})])
    return "\n\n".join(parts)


def _perplexity(loss: float | None, exact: float | None, side: str) -> str:
    if loss is None:
        return ""
    more = f" ({np.expm1(loss - exact):+.2%})" if exact is not None and side != "tinygpt float32" else ""
    return f"{figure(float(np.exp(loss)), 5)}{more}"


def lookup(rows: Sequence[dict[str, Any]]) -> str:
    """One line per text and side, with what look-up gains."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        lines, left_out = [], {}
        for row in rows:
            if row["model"] == model:
                left_out |= row["left_out"]
                for side, readings in row["readings"].items():
                    plain = row["readings"].get(side.removesuffix(" lookup")) if side.endswith("lookup") else None
                    lines.append([
                        row["case"], side, milliseconds(readings, spread=True), f"{1 / median(readings):,.0f}",
                        ratio(plain, readings) if plain else "",
                    ])  # fmt: skip
        columns = [f"look-up decoding, {model}", "side", "ms per token (spread)", "tokens/s", "without / with"]
        parts += filter(None, [markdown(columns, lines), _left_out({"left_out": left_out})])
    return "\n\n".join(parts)
