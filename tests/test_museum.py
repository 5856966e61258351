"""The museum: every exhibit is wrong, is caught, and is as plausible as its shapes."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from tinygpt import GradientCheckError, gradcheck
from tinygpt.study.bugs import BUGS
from tinygpt.study.museum import broken, broken_function, complaint, function_of, source_with, update_gap
from tinygpt.study.samples import SAMPLES, every_op

every_bug = pytest.mark.parametrize("bug", BUGS, ids=[f"{i}-{bug.op}" for i, bug in enumerate(BUGS, 1)])
GRADIENTS = [bug for bug in BUGS if bug.op != "adamw"]
every_gradient = pytest.mark.parametrize("bug", GRADIENTS, ids=[f"{i}-{bug.op}" for i, bug in enumerate(GRADIENTS, 1)])


def test_there_are_enough_and_no_two_are_the_same():
    assert len(BUGS) >= 25
    assert len({(bug.function, bug.right, bug.wrong) for bug in BUGS}) == len(BUGS)
    assert {bug.op for bug in BUGS} >= {"layernorm", "gelu", "linear", "embedding", "attention", "cross_entropy",
                                        "dropout", "gelu_linear", "linear_cross_entropy"}  # fmt: skip


@every_gradient
def test_the_gradient_check_catches_it_and_names_the_operation(bug):
    op, caught = broken(bug), []
    for sample in SAMPLES[bug.op]:
        try:
            gradcheck(sample.f(op), sample.arrays)
        except GradientCheckError as error:
            caught.append(str(error))
        except (IndexError, ValueError) as error:  # off by one at the last class
            caught.append(f"gradcheck: {bug.op}, {error}")
    assert caught and all(message.startswith(f"gradcheck: {bug.op}, ") for message in caught)


@every_gradient
def test_shapes_do_not_give_it_away_and_the_package_stays_as_it_is(bug):
    op, right = broken(bug), every_op()[bug.op]
    sample = SAMPLES[bug.op][0]
    out, saved = right.forward(*sample.arrays, **sample.attrs)
    wrong, expected = (each.backward(np.ones(np.shape(out)), saved) for each in (op, right))
    assert [np.shape(gradient) for gradient in wrong] == [np.shape(gradient) for gradient in expected]
    assert all(gradcheck(sample.f(right), sample.arrays) for sample in SAMPLES[bug.op][:1])


@every_bug
def test_what_a_learner_sees_is_code_without_the_answer(bug):
    source = source_with(bug)
    assert isinstance(ast.parse(source).body[0], ast.FunctionDef)
    assert bug.wrong in source and bug.right not in source.replace(bug.wrong, "")
    assert function_of(bug).__name__ == bug.function
    assert bug.hint.endswith((".", "?")) and len(bug.answer) > len(bug.hint) / 2


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.op == "adamw"], ids=lambda bug: bug.wrong)
def test_a_wrong_update_is_caught_by_the_comparison_with_pytorch(bug):
    torch = pytest.importorskip("torch")

    def theirs(parameter, gradient, m, v, step, lr, betas, eps, weight_decay):
        if step == 1:
            leaf = torch.from_numpy(parameter).requires_grad_()  # shares the memory
            theirs.leaf, options = leaf, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
            theirs.optimizer = torch.optim.AdamW([leaf], **options)
        theirs.leaf.grad = torch.from_numpy(gradient)
        theirs.optimizer.step()

    assert update_gap(function_of(bug), theirs) < 1e-12
    assert update_gap(broken_function(bug), theirs) > 1e-3
    assert "off by" in complaint(bug)
