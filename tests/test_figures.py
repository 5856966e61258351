"""Labels of pictures: what a font lacks, what would be a formula, what is too long, and what would overlap."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests.pictures import drawn_texts, in_grey, require_readable
from tinygpt.files.figures import FORMATS, label, label_ends, new_figure, save, spread, text_width

pytest.importorskip("matplotlib")
ODD = [
    "a\nb\tc",
    "$x^2$ and $5",
    "日本 🦊",
    "é e\u0301",
    "\x1b[2J\0",
    "\ud800",
    r"\frac{1}{2}_{x}",
    "\u200b\u202e",
    "�␣",
    "क्षि",
]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_text_is_drawn_on_one_line_without_a_warning_and_never_as_a_formula(text, tmp_path):
    figure = new_figure("test", figsize=(8, 1))
    shown = figure.text(0.1, 0.5, label(text))
    assert not shown._preprocess_math(label(text))[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, tmp_path / "odd.png")
    assert "\n" not in label(text) and label(text).isprintable()


def test_characters_that_no_reader_would_see_are_escaped_and_others_are_kept():
    assert label("two\nlines\t日\u200b\x1b") == r"two\nlines\t\u65e5\u200b\x1b"
    assert label(" Straße, ␣é…") == " Straße, ␣é…"
    assert label("e\u0301") == "é"  # the accent alone would have no place of its own
    assert label("5$") == r"5\$"


@pytest.mark.parametrize("text", ["a long name of a run", "W" * 30, "i" * 90, "日本日本日本", "$$$$$$$$$$$$$$$$"])
def test_a_text_that_is_too_long_is_cut_to_the_width_that_it_is_drawn_in(text):
    cut = label(text, points=40, size=9)
    assert cut.endswith("…")
    figure = new_figure("test", figsize=(8, 1), dpi=720)  # ten pixels are a point
    figure.text(0.1, 0.5, cut, size=9)
    ((_, _, box),) = drawn_texts(figure)
    least = 8 if "日" in text else 33  # an escape is not cut in two
    assert least < box.width / 10 <= 40.5
    assert label(text[:2], points=400, size=9) == label(text[:2])


def test_the_width_of_a_text_is_that_of_its_picture():
    figure = new_figure("test", figsize=(8, 1), dpi=720)
    figure.text(0.1, 0.5, "mean of 2,000 steps", size=11)
    ((_, _, box),) = drawn_texts(figure)
    assert text_width("mean of 2,000 steps", 11) == pytest.approx(box.width / 10, rel=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_labels_keep_their_order_do_not_overlap_and_move_no_more_than_they_must(seed):
    rng = np.random.default_rng(seed)
    wanted, heights = rng.random(6) * 10, rng.random(6) + 0.3
    places = np.array(spread(list(wanted), list(heights), 0, 12))
    order = np.argsort(wanted)
    lower, upper = (places - heights / 2)[order], (places + heights / 2)[order]
    assert lower[0] >= -1e-9 and upper[-1] <= 12 + 1e-9 and (lower[1:] >= upper[:-1] - 1e-9).all()
    cost = np.sum((places - wanted) ** 2)
    for _ in range(2000):  # no allowed places are nearer
        other = places + rng.standard_normal(6) * rng.choice([0.01, 0.1, 1])
        low, high = (other - heights / 2)[order], (other + heights / 2)[order]
        if low[0] >= 0 and high[-1] <= 12 and (low[1:] >= high[:-1]).all():
            assert np.sum((other - wanted) ** 2) >= cost - 1e-9


def test_ends_of_curves_are_labelled_beside_the_frame_also_where_they_meet(tmp_path):
    figure = new_figure("test", figsize=(8, 3))
    axes = figure.add_axes((0.1, 0.15, 0.5, 0.8))
    lines = [axes.plot([0, 1, 2], [3, 1, end], style, marker=marker)[0]
             for style, marker, end in (("-", "", 2), ("--", "o", 2), (":", "s", 1e-3))]  # fmt: skip
    label_ends(axes, [(line, f"curve {number}\nwith a second line") for number, line in enumerate(lines)])
    require_readable(figure)
    frame = axes.get_window_extent()
    beside = [box for text, _, box in drawn_texts(figure) if text.startswith("curve")]
    assert len(beside) == 3 and all(box.x0 > frame.x1 for box in beside)
    samples = axes.get_lines()[3:]
    assert [in_grey(line) for line in samples] == [in_grey(line) for line in lines]


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_the_ending_of_a_name_gives_the_format(suffix, start, tmp_path):
    save(new_figure("test", figsize=(8, 1)), tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes().startswith(start) and suffix.lower() in FORMATS
