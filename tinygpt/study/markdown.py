"""
The derivation in an operation's docstring as Markdown, for notebooks: tables, and formulas with indices and powers.

Only the typesetting changes: `dx_no` becomes dx with a subscript, `x^2` gets a superscript, `sum_s` a sigma. Names stay
as they are in the code, `*` stays the product by element and `@` the matrix product. docs/notation.md describes the
notation. The markup is HTML that Jupyter, GitHub and VS Code allow in Markdown: `sub`, `sup`, `i`, `b`, `br`, `code`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

_SURPRISES = "What surprises people here"
_WIDTH = 120  # of the docstrings; a line whose first word would not have fitted continues the line before
_UPRIGHT = {"again", "and", "ln", "max", "where"}  # of a formula's words; all others are names
_ENGLISH = {"a", "bias", "bits", "counted", "dropped", "heads", "logits", "loss", "mask", "mean"}  # names that are also
_ENGLISH |= {"merge", "out", "scores", "shifted", "split", "targets", "weight", "weights"}  # words of a sentence
_SYMBOLS = {"sqrt": "√", "pi": "π", "-inf": "−∞", "-": "−", "<=": "≤", ">=": "≥", "!=": "≠", "1[": "<b>1</b>&#91;"}
_PIECE = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|(?<!\S)\*(?P<emphasis>\w[\w -]*\w)\*"
    r"|(?<=[\w)\]])\^(?:\((?P<group>[^()]*)\)|\{(?P<braces>[^{}]*)\}|(?P<power>\w+))"
    r"|\b(?P<base>[A-Za-z]\w*)_(?P<index>[A-Za-z0-9]{1,2})\b"
    r"|(?<=\))_(?P<outer>[A-Za-z]{1,2})\b"
    r"|(?P<symbol>\bsqrt\b|\bpi\b|\b1\[|(?<=\s)(?:<=|>=|!=)(?=\s)|(?:^|(?<=[\s(\[{]))(?:-inf\b|-(?=[\w( ])))"
    r"|(?:^|(?<=\s))(?P<label>\([a-c]\))"
    r"|(?P<letter>(?<=\b[a-z] )a\b|\ba(?= = ))"
    r"|(?P<word>(?<!')(?:\b|(?<=\d)(?=[A-Z]\b))[A-Za-z]\w*(?:'(?!s\b))?)"
)


class Entry(NamedTuple):
    """A row of the glossary: names, their shape and what they mean; any but the names may be empty."""

    names: str
    shape: str
    meaning: str


def as_markdown(docstring: str) -> str:
    """
    The docstring of an operation's file as Markdown; of tables, only one with a glossary above it.

    Raises
    ------
    ValueError
        If the docstring has no line "Throughout this file", or no table of Forward and Backward.

    Examples
    --------
    >>> from tinygpt.ops import linear
    >>> page = as_markdown(linear.__doc__)
    >>> next(line for line in page.splitlines() if line.startswith("| <i>bias"))
    '| <i>bias</i> | (<i>O</i>,) |  |'
    """
    blocks = [block.split("\n") for block in docstring.strip().split("\n\n")]
    heads = [block[0] for block in blocks]
    steps = next((i for i, head in enumerate(heads) if re.match(r"Forward\b.*\bBackward\b", head)), None)
    if "Throughout this file" not in heads or steps is None:
        raise ValueError('as_markdown: required a docstring with "Throughout this file" and a table "Forward '
                         f'... Backward", as in tinygpt/ops/gelu.py, got one that begins {heads[0]!r}')  # fmt: skip
    glossary = blocks[heads.index("Throughout this file")]
    entries = [entry for line in glossary[1:] for entry in _entries(line)]
    names = {name for entry in entries for name in entry.names.split(", ")}
    names |= {f"d{name}" for name in names} | {*re.findall("[A-Z]", "".join(entry.shape for entry in entries))}
    words = names - _ENGLISH
    parts = []
    for i, block in enumerate(blocks):
        if block is glossary:
            parts += [_glossary(entries, words)]
        elif i == steps:
            parts += [_steps(block)]
        elif block[0] == _SURPRISES:
            parts += [f"> **{_SURPRISES}**\n>\n> {formula(' '.join(map(str.strip, block[1:])), words)}"]
        elif block[0].startswith(("Source:", "Cost:")):
            parts += ["\n\n".join(_references(block, words))]
        else:
            parts += ["\n\n".join(_prose(block, names))]
    return "\n\n".join(parts)


def formula(text: str, names: Collection[str] | None = None) -> str:
    """
    A formula, or a sentence with formulas in it, as HTML: indices, powers, symbols, and names in italics.

    In a sentence, give the `names` that are no words of it; letters and what has an index are names in any case.

    Examples
    --------
    >>> formula("c * x^(-1/2)")
    '<i>c</i> &#42; <i>x</i><sup>−1/2</sup>'
    >>> formula("the share dv_d of a head is sum_t e^{a_t}", names=())
    'the share <i>dv</i><sub>d</sub> of a head is Σ<sub>t</sub> <i>e</i><sup><i>a</i><sub>t</sub></sup>'
    """
    result, end = "", 0
    for match in _PIECE.finditer(text):
        result += _escaped(text[end : match.start()]) + _typeset(match, names)
        end = match.end()
    return result + _escaped(text[end:])


def _typeset(match: re.Match[str], names: Collection[str] | None) -> str:
    """One piece of a formula."""
    following = match.string[match.end() : match.end() + 1]
    kind, text = match.lastgroup, match[match.lastgroup or 0]
    if kind == "code":
        return f"<code>{_escaped(text)}</code>"
    if kind in ("emphasis", "letter"):
        return f"<i>{_escaped(text)}</i>"
    if kind in ("group", "braces", "power"):
        return f"<sup>{text if text == 'T' else formula(text)}</sup>"
    if kind == "index":
        function = following == "(" or match["base"] in _UPRIGHT
        base = "Σ" if match["base"] == "sum" and following == " " else _italic(match["base"], not function)
        return f"{base}<sub>{text}</sub>"
    if kind == "label":
        return text
    if kind == "outer":
        return f"<sub>{text}</sub>"
    return _SYMBOLS[text] if kind == "symbol" else _italic(match[0], following != "(" and _is_name(match[0], names))


def _is_name(word: str, names: Collection[str] | None) -> bool:
    if names is None:
        return word not in _UPRIGHT
    return word in names or (len(word) == 1 and word not in "aAI")


def _italic(word: str, italic: bool) -> str:
    return f"<i>{_escaped(word)}</i>" if italic else _escaped(word)


def _escaped(text: str) -> str:
    """Characters that mean something in HTML or Markdown as entities; two spaces or more as one that is wider."""
    text = html.escape(text, quote=False)
    for character in "*_[]|~$`\\":
        text = text.replace(character, f"&#{ord(character)};")
    return re.sub(r" {2,}", " &ensp;", text)


def _entries(line: str) -> Iterator[Entry]:
    """A line of the glossary; two spaces or more separate names, shape and meaning, and one entry from the next."""
    fields = re.split(r" {2,}", line.strip())

    def begins_entry(i: int) -> bool:
        return fields[i] == "dX" or (i + 1 < len(fields) and _is_shape(fields[i + 1]))

    i = 0
    while i < len(fields):
        if defined := re.match(r"(\w+)(?:: | (?== ))(.*)", fields[i]):  # "dX: the gradient", "c = sqrt(2 / pi)"
            yield Entry(defined[1], "", defined[2])
            i += 1
            continue
        names, shape, meaning = fields[i], "", ""
        i += 1
        if i < len(fields) and _is_shape(fields[i]):
            shape, _, meaning = fields[i].partition(", ") if fields[i].startswith("any") else (fields[i], "", "")
            i += 1
        if i < len(fields) and not meaning and not begins_entry(i) and not re.match(r"\w+(: | = )", fields[i]):
            meaning = fields[i]
            i += 1
        yield Entry(names, shape, meaning)


def _is_shape(field: str) -> bool:
    return bool(re.match(r"\(.*\)$|any shape", field))


def _glossary(entries: list[Entry], words: Collection[str]) -> str:
    rows = ["| name | shape | meaning |", "|:--|:--|:--|"]
    for names, shape, meaning in entries:
        shape = formula(shape, words).replace(" ", "&nbsp;")
        rows.append(f"| {formula(names)} | {shape} | {formula(meaning, None if meaning.startswith('=') else words)} |")
    return "\n".join(rows)


def _steps(block: list[str]) -> str:
    """The table: each column with its step numbers before it; a line without any belongs to the step above it."""
    middle = block[0].index("Backward")
    rows: list[list[str]] = []
    for line in block[1:]:
        row = [*_cell(line[:middle]), *_cell(line[middle:])]
        if rows and row[:3] == ["", "", ""]:
            rows[-1][3] += f"<br>{row[3]}"
        else:
            rows.append(row)
    header = ["", _escaped(block[0][:middle].strip()), "", _escaped(block[0][middle:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, [":--"] * 4, *rows))


def _cell(text: str) -> tuple[str, str]:
    """The step numbers of a cell, and its formula without the spaces that aligned it."""
    numbers = re.match(r"\(\d+(?:, \d+)*\)(?=\s)|", text.strip())[0]  # type: ignore[index]
    statement = re.sub(r" +(?=[-+]?= )", " ", text.strip().removeprefix(numbers).strip())
    return numbers, formula(statement)


def _prose(block: list[str], names: set[str]) -> Iterator[str]:
    """Paragraphs: a new one for each step; an indented line that is no continuation stands on a line of its own."""
    paragraph, words = "", names - _ENGLISH
    for previous, line in zip(["", *block], block, strict=False):
        text = line.strip()
        if not line.startswith(" "):
            step = re.match(r"Steps? \(\d+\)(?: (?:and|to) \(\d+\))?|", text)[0]  # type: ignore[index]
            if paragraph and (step or previous.startswith(" ")):
                yield paragraph
                paragraph = ""
            heading = f"<b>{step}</b>" if step else ""
            paragraph += (" " if paragraph else "") + heading + formula(text.removeprefix(step), words)
        elif len(previous) + 1 + len(text.split()[0]) > _WIDTH and not re.match(r"\w+ *= ", text):
            paragraph += f" {formula(text, words)}"
        else:
            indent = "&emsp;" * ((len(line) - len(line.lstrip())) // 2)
            statement, *remark = re.split(r" {4,}", re.sub(r" +(?=[=/] )", " ", text), maxsplit=1)
            paragraph += (
                ("<br>" if paragraph else "")
                + indent
                + formula(statement, words if re.match("[A-Z][a-z]+ ", text) else names)
            )
            paragraph += f" &emsp; {formula(remark[0], words)}" if remark else ""
    yield paragraph


def _references(block: list[str], words: Collection[str]) -> Iterator[str]:
    """Source and cost, a paragraph each."""
    text = "\n".join(block)
    for label, content in re.findall(r"^(Source|Cost):(.*(?:\n .*)*)", text, re.MULTILINE):
        yield f"<b>{label}:</b> {formula(' '.join(content.split()), words)}"
