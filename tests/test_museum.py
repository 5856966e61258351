"""The museum: every exhibit is wrong, is caught, and is as plausible as its shapes."""

from __future__ import annotations

import ast
import inspect
import re

import numpy as np
import pytest

from tinygpt import GradientCheckError, gradcheck
from tinygpt.study.museum import (
    EXHIBITS,
    UPDATES,
    broken,
    broken_function,
    complaint,
    function_of,
    page,
    source_with,
    update_gap,
)
from tinygpt.study.samples import SAMPLES, every_op

every_exhibit = pytest.mark.parametrize(
    "exhibit", EXHIBITS, ids=[f"{i}-{exhibit.op}" for i, exhibit in enumerate(EXHIBITS, 1)]
)
GRADIENTS = [exhibit for exhibit in EXHIBITS if exhibit.op not in UPDATES]
every_gradient = pytest.mark.parametrize(
    "exhibit", GRADIENTS, ids=[f"{i}-{exhibit.op}" for i, exhibit in enumerate(GRADIENTS, 1)]
)


def test_there_are_enough_and_no_two_are_the_same():
    assert len(EXHIBITS) >= 25
    assert len({(exhibit.function, exhibit.right, exhibit.wrong) for exhibit in EXHIBITS}) == len(EXHIBITS)
    gpt2 = {"layernorm", "gelu", "linear", "embedding", "attention", "cross_entropy", "dropout", "gelu_linear",
            "linear_cross_entropy"}  # fmt: skip
    assert gpt2 <= {exhibit.op for exhibit in EXHIBITS}


@every_gradient
def test_the_gradient_check_catches_it_and_names_the_operation(exhibit):
    op, caught = broken(exhibit), []
    for sample in SAMPLES[exhibit.op]:
        try:
            gradcheck(sample.f(op), sample.arrays)
        except GradientCheckError as error:
            caught.append(str(error))
        except (IndexError, ValueError) as error:  # off by one at the last class
            caught.append(f"gradcheck: {exhibit.op}, {error}")
    assert caught and all(message.startswith(f"gradcheck: {exhibit.op}, ") for message in caught)


@every_gradient
def test_shapes_do_not_give_it_away_and_the_package_stays_as_it_is(exhibit):
    op, right = broken(exhibit), every_op()[exhibit.op]
    sample = SAMPLES[exhibit.op][0]
    out, saved = right.forward(*sample.arrays, **sample.attrs)
    wrong, expected = (each.backward(np.ones(np.shape(out)), saved) for each in (op, right))
    assert [np.shape(gradient) for gradient in wrong] == [np.shape(gradient) for gradient in expected]
    assert all(gradcheck(sample.f(right), sample.arrays) for sample in SAMPLES[exhibit.op][:1])


@every_exhibit
def test_what_a_learner_sees_is_code_without_the_answer(exhibit):
    source = source_with(exhibit)
    assert isinstance(ast.parse(source).body[0], ast.FunctionDef)
    assert exhibit.wrong in source and exhibit.right not in source.replace(exhibit.wrong, "")
    assert function_of(exhibit).__name__ == exhibit.function
    assert exhibit.hint.endswith((".", "?")) and len(exhibit.answer) > len(exhibit.hint) / 2


@every_exhibit
def test_no_comment_gives_it_away(exhibit):
    """Comments hold step numbers and shapes only, and if they stand in one column, they do with the wrong line."""
    right = inspect.getsource(function_of(exhibit)).splitlines()
    columns = {line.index("# ") for line in right if "# " in line}
    shown = [line for line in source_with(exhibit).splitlines() if "# " in line]
    assert all(re.fullmatch(r"# (\([^)]*\)[ :;]*)+", line[line.index("# ") :]) for line in shown)
    if len(columns) == 1 and len(shown) > 1:
        assert len({line.index("# ") for line in shown}) == 1


def test_the_pages_say_what_to_do_next():
    number = next(i for i, exhibit in enumerate(EXHIBITS, 1) if exhibit.op == "adamw")
    exhibit = EXHIBITS[number - 1]
    assert all(part in page(number) for part in (f"Exhibit {number}: adamw", "off by", "--hint", "optim/adamw.py"))
    assert page(number, hint=True).replace("\n", " ") == exhibit.hint
    assert exhibit.right in page(number, answer=True) and exhibit.answer[-20:] in page(number, answer=True)
    assert all(max(map(len, text.splitlines())) <= 120 for text in (page(None), page(number)))
    for wrong in (0, len(EXHIBITS) + 1):
        with pytest.raises(ValueError, match=f"there are exhibits 1 to {len(EXHIBITS)}, got {wrong}"):
            page(wrong)


THEIRS = {  # PyTorch's name, and the options that end the arguments of an update
    "sgd": ("SGD", ["lr", "momentum", "dampening", "weight_decay", "nesterov"]),
    "adam": ("Adam", ["lr", "betas", "eps", "weight_decay"]),
    "adamw": ("AdamW", ["lr", "betas", "eps", "weight_decay"]),
}


@pytest.mark.parametrize(
    "exhibit", [exhibit for exhibit in EXHIBITS if exhibit.op in UPDATES], ids=lambda exhibit: exhibit.wrong
)
def test_a_wrong_update_is_caught_by_the_comparison_with_pytorch(exhibit):
    torch = pytest.importorskip("torch")

    name, options_of = THEIRS[exhibit.op]
    started = {}

    def theirs(parameter, gradient, *state_and_options):
        options = dict(zip(options_of, state_and_options[-len(options_of) :], strict=True))
        if id(parameter) not in started:
            leaf = torch.from_numpy(parameter).requires_grad_()  # shares the memory, and keeps it
            started[id(parameter)] = leaf, getattr(torch.optim, name)([leaf], **options)
        leaf, optimizer = started[id(parameter)]
        optimizer.param_groups[0].update(options)
        leaf.grad = torch.from_numpy(gradient)
        optimizer.step()

    assert update_gap(exhibit.op, function_of(exhibit), theirs) < 1e-12
    assert update_gap(exhibit.op, broken_function(exhibit), theirs) > 1e-3
    assert "off by" in complaint(exhibit)
