"""The picture of `tinygpt gradcheck --sweep`: a panel for each operation, in which right and wrong gradients differ."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from tests.pictures import drawn_texts, in_grey, require_readable
from tinygpt import Op
from tinygpt.ops.gelu import GELU
from tinygpt.ops.layernorm import LAYERNORM
from tinygpt.ops.shapes import CONCATENATE
from tinygpt.study import sweep
from tinygpt.study.checks import STEP, STEPS
from tinygpt.study.samples import SAMPLES, Sample, every_op

pytest.importorskip("matplotlib")


def panels_of(monkeypatch, checked):
    """The figure and its panels by title."""
    kept = []
    monkeypatch.setattr(sweep, "save", lambda figure, path: kept.append(figure))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep.draw_sweep(checked, "unused.png")
        kept[0].canvas.draw()
    return kept[0], {axes.get_title(): axes for axes in kept[0].axes if axes.get_visible()}


def curves(axes):
    """The curves of a panel, without the slopes, the marks and the step of the check."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


@pytest.mark.parametrize("count", [1, 2, 5, 35])
def test_each_operation_has_a_panel_that_is_readable(count, monkeypatch):
    names = sorted(every_op())[:count]
    figure, panels = panels_of(monkeypatch, [(every_op()[name], SAMPLES[name]) for name in names])
    require_readable(figure)
    assert list(panels) == names
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in panels.values()}
    assert len(limits) == 1  # shared
    for name, axes in panels.items():
        assert len(curves(axes)) == len(SAMPLES[name][0].arrays)
        assert len({in_grey(line)[0] for line in curves(axes).values()}) == len(curves(axes))  # by their patterns


def test_a_curve_has_the_slopes_of_rounding_and_truncation_and_its_best_step_is_marked(monkeypatch):
    _, panels = panels_of(monkeypatch, [(GELU, SAMPLES["gelu"])])
    lines = panels["gelu"].get_lines()
    errors, steps = curves(panels["gelu"])["x"].get_ydata(), np.array(STEPS)
    largest = steps >= 1e-3
    assert np.polyfit(np.log(steps[largest]), np.log(errors[largest]), 1)[0] == pytest.approx(2, abs=0.1)
    smallest = steps <= 1e-7
    assert np.polyfit(np.log(steps[smallest]), np.log(errors[smallest]), 1)[0] == pytest.approx(-1, abs=0.4)
    marks = [line for line in lines if line.get_marker() == "o"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in marks] == [(steps[errors.argmin()], errors.min())]
    drawn = [tuple(np.asarray(line.get_ydata(), float)) for line in lines if len(line.get_ydata()) == len(steps)]
    assert tuple(steps**2) in drawn and tuple(2.0**-52 / steps) in drawn
    assert any(set(line.get_xdata()) == {STEP} for line in lines)


def test_a_wrong_gradient_is_a_flat_line_far_above_and_a_linear_operation_has_no_truncation(monkeypatch):
    wrong = GELU._replace(name="wrong", backward=lambda dout, saved: tuple(0.9 * g for g in GELU.backward(dout, saved)))
    _, panels = panels_of(monkeypatch, [(wrong, SAMPLES["gelu"]), (CONCATENATE, SAMPLES["concatenate"])])
    errors = curves(panels["wrong"])["x"].get_ydata()
    assert min(errors) > 0.01 and max(errors) < 2 * min(errors)
    assert panels["wrong"].get_ylim()[1] > max(errors)
    for line in curves(panels["concatenate"]).values():
        assert line.get_ydata()[np.argmax(STEPS)] < 1e-12


def test_an_operation_that_fails_leaves_its_panel_to_the_name_of_the_error(monkeypatch):
    fails = Op("fails_$x$_with_a_name_that_is_too_long_" + "x" * 99, lambda x: (x, ()), lambda dout, saved: 1 / 0)
    nothing = [Sample([np.zeros((0, 3))])]
    figure, panels = panels_of(
        monkeypatch, [(fails, SAMPLES["gelu"]), (LAYERNORM, SAMPLES["layernorm"]), (GELU, nothing)]
    )
    require_readable(figure)
    assert "ZeroDivisionError" in [text for text, _, _ in drawn_texts(figure)]
    assert not curves(panels["gelu"]) and set(curves(panels["layernorm"])) == {"x", "weight", "bias"}
    assert all(math.isfinite(limit) for axes in panels.values() for limit in axes.get_ylim())
