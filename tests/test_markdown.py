"""Derivations as Markdown: the notebook's pages say what the docstrings say, each word and sign of it."""

from __future__ import annotations

import html
import importlib
import re
from collections import Counter

import pytest
from derivations import table_of

from tinygpt.study.markdown import as_markdown, formula
from tinygpt.study.samples import docstring_of

PAGES = ["attention", "cross_entropy", "dropout", "embedding", "gelu", "gelu_linear", "layernorm", "linear",
         "linear_cross_entropy"]  # fmt: skip
SYMBOLS = {"Σ": "sum ", "√": "sqrt", "π": "pi", "∞": "inf", "−": "-", "≤": "<=", "≥": ">=", "≠": "!="}


def docstring(name: str) -> str:
    return docstring_of(importlib.import_module(f"tinygpt.ops.{name}"))


def plain(page: str) -> str:
    """The text that a browser shows, with a space where an index, a power or a line begins."""
    text = html.unescape(re.sub(r"<(?:su[bp]|br)>", " ", page))
    for symbol, letters in SYMBOLS.items():
        text = text.replace(symbol, letters)
    return re.sub(r"</?(?:i|b|sub|sup|code)>", "", text)


@pytest.mark.parametrize("name", PAGES)
def test_no_word_number_or_sign_of_a_docstring_is_lost_or_added(name):
    markup = re.compile(r"^\| name \| shape \| meaning \|$|^\|[ :|-]+\|$|^>", re.MULTILINE)
    rendered = markup.sub("", plain(as_markdown(docstring(name))))
    original = docstring(name).replace("Throughout this file", "").replace("any shape, ", "any shape ")
    for pattern in (r"[A-Za-z]+|\d+", r"[-+/@=\[\],;<>!]"):
        assert Counter(re.findall(pattern, rendered)) == Counter(re.findall(pattern, original))


@pytest.mark.parametrize("name", PAGES)
def test_each_statement_of_the_table_stands_beside_the_numbers_of_its_step(name):
    """The statements are those that the executed derivations find; their columns and order are kept."""
    page, table = as_markdown(docstring(name)), table_of(docstring(name))
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines() if line.startswith("|")]
    for column, statements in ((1, table.forward), (3, table.backward)):
        for statement in statements:
            label = f"({', '.join(map(str, statement.steps))})"
            text = formula(re.sub(r" +(?=[-+]?= )", " ", statement.text))
            cells = [row[column - 1 : column + 1] for row in rows if len(row) == 4]
            assert any(text in cell and (number or label) == label for number, cell in cells), statement.text


def test_the_glossary_has_a_row_for_each_name_of_the_table():
    for name in PAGES:
        names = re.findall(r"^\| ([^|]+?) \|[^|]*\|[^|]*\|$", plain(as_markdown(docstring(name))), re.MULTILINE)
        listed = {each for cell in names for each in cell.split(", ")}
        assert table_of(docstring(name)).axes.keys() <= listed


@pytest.mark.parametrize(("text", "expected"), [
    ("x @ w^T", "<i>x</i> @ <i>w</i><sup>T</sup>"),
    ("mean_C(xc^2)", "mean<sub>C</sub>(<i>xc</i><sup>2</sup>)"),
    ("mean - sum_N(mean)", "<i>mean</i> − sum<sub>N</sub>(<i>mean</i>)"),
    ("1[c = ids]", "<b>1</b>&#91;<i>c</i> = <i>ids</i>&#93;"),
    ("dropout_mask_ts", "<i>dropout&#95;mask</i><sub>ts</sub>"),
    ("h ^= h >> 16", "<i>h</i> ^= <i>h</i> &gt;&gt; 16"),
    ("(dropped^T dheads)_sd", "(<i>dropped</i><sup>T</sup> <i>dheads</i>)<sub>sd</sub>"),
])  # fmt: skip
def test_the_notation_is_typeset(text, expected):
    assert formula(text) == expected


def test_words_of_a_sentence_are_no_formulas():
    assert formula("a one-hot row's T, `dx_n`", ()) == "a one-hot row's <i>T</i>, <code>dx&#95;n</code>"


def test_a_docstring_without_a_table_is_refused_by_what_it_begins_with():
    with pytest.raises(ValueError, match=r"tinygpt/ops/gelu\.py, got one that begins 'The chain rule'"):
        as_markdown("The chain rule\n\nin one page")
