"""
What an operation promises besides its numbers: the gradient check, check mode and TINYGPT_DEBUG=1 find who breaks it.

The operations here give right values and right gradients, each for itself. Each breaks one promise.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tinygpt
from tinygpt import GradientCheckError, Op, Tensor, apply, gradcheck, implementation
from tinygpt.runtime import settings
from tinygpt.study.checks import check_op
from tinygpt.study.samples import SAMPLES, Sample, every_op

BUFFER = np.zeros(4)
COUNT = itertools.count()


def triple(x):
    return 3 * x, x.copy()


def triple_back(dout, saved):
    return (3 * dout,)


def forward_writes_input(x):
    x += 1.0
    return 3 * (x - 1.0), x


def forward_hands_out_a_buffer(x):
    np.multiply(3, x, out=BUFFER)
    return BUFFER, None


def forward_saves_a_buffer(x):
    np.copyto(BUFFER, x)
    return x * x, {"x": BUFFER}


def square_of_saved(dout, saved):
    return (2 * saved["x"] * dout,)


def forward_remembers(x):
    return 3 * x + next(COUNT), None


def forward_writes_attribute(x, weight):
    out = x * weight
    weight *= 1.5
    return out, 3.0


def backward_writes_dout(dout, saved):
    dout *= 3
    return (dout,)


def backward_writes_a_view_of_dout(dout, saved):
    gradient = 3 * dout
    dout.reshape(-1)[::2] = 0
    return (gradient,)


def backward_writes_saved(dout, saved):
    saved *= 2
    return (3 * dout,)


def backward_hands_out_a_buffer(dout, saved):
    np.multiply(3, dout, out=BUFFER)
    return (BUFFER,)


def backward_remembers(dout, saved):
    return (3 * dout + 1e-3 * next(COUNT),)


FAULTY = {
    "writes into its inputs": Op("faulty", forward_writes_input, triple_back),
    "returns memory that a later call writes into": Op("faulty", forward_hands_out_a_buffer, triple_back),
    "saves memory": Op("faulty", forward_saves_a_buffer, square_of_saved),
    "forward gives another result": Op("faulty", forward_remembers, triple_back),
    "writes into dout": Op("faulty", triple, backward_writes_dout),
    "writes into a view of dout": Op("faulty", triple, backward_writes_a_view_of_dout),
    "writes into saved": Op("faulty", triple, backward_writes_saved),
    "backward returns memory": Op("faulty", triple, backward_hands_out_a_buffer),
    "backward gives another result": Op("faulty", triple, backward_remembers),
}
SAYS = {
    "saves memory": "faulty.forward: returns memory that a later call writes into",
    "forward gives another result": "faulty.forward: gives another result the second time",
    "writes into a view of dout": "faulty.backward: writes into dout",
    "backward returns memory": "faulty.backward: returns memory that a later call writes into",
    "backward gives another result": "faulty.backward: gives another result the second time",
}


@pytest.mark.parametrize("fault", FAULTY)
def test_the_gradient_check_names_the_operation_and_what_it_does(fault):
    with pytest.raises(GradientCheckError, match="^gradcheck: .*" + SAYS.get(fault, fault)):
        gradcheck(lambda x: apply(FAULTY[fault], x), [np.array([1.0, -2.0, 0.5, 3.0])])


@pytest.mark.parametrize("fault", FAULTY)
def test_the_gradcheck_command_makes_it_a_finding(fault):
    findings = list(check_op(FAULTY[fault], [Sample([np.array([1.0, -2.0, 0.5, 3.0])])]))
    assert any(not finding.passed and SAYS.get(fault, fault) in finding.problem for finding in findings)


def test_what_an_object_among_saved_holds_is_watched_too():
    op = Op(
        "faulty",
        lambda x: (3 * x, SimpleNamespace(x=x.copy(), deep=[{"y": x.copy()}])),
        lambda dout, saved: (np.add(saved.deep[0]["y"], 1, out=saved.deep[0]["y"]) * 0 + 3 * dout,),
    )
    with pytest.raises(GradientCheckError, match=r"faulty\.backward: writes into saved"):
        gradcheck(lambda x: apply(op, x), [np.ones(4)])


def test_an_attribute_is_not_to_be_written_either():
    op = Op("faulty", forward_writes_attribute, triple_back)
    with pytest.raises(GradientCheckError, match=r"faulty\.forward: writes into its attributes"):
        gradcheck(lambda x: apply(op, x, weight=np.full(4, 3.0)), [np.ones(4)])


def test_a_function_that_draws_numbers_is_told_to_pass_seeds():
    rng = np.random.default_rng(0)
    with pytest.raises(GradientCheckError, match="the second time; pass seeds, not generators"):
        gradcheck(lambda x: x * rng.standard_normal(3), [np.ones(3)])


def test_a_constant_that_is_kept_and_never_written_is_allowed():
    mask = np.array([1.0, 0.0, 1.0])
    op = Op("masked", lambda x: (x * mask, mask), lambda dout, saved: (dout * saved,))
    assert gradcheck(lambda x: apply(op, x), [np.ones(3)])
    np.testing.assert_array_equal(mask, [1, 0, 1])


def test_dout_itself_a_view_of_it_and_saved_may_be_returned():
    same = Op("same", lambda x: (x + 0.0, None), lambda dout, saved: (dout,))
    view = Op("view", lambda x: (x.reshape(2, 2), None), lambda dout, saved: (dout.reshape(4),))
    kept = Op("kept", lambda x: (x.sum(), np.ones_like(x)), lambda dout, saved: (saved if dout == 1 else saved * dout,))
    for op in (same, view, kept):
        assert gradcheck(lambda x, op=op: apply(op, x), [np.arange(4.0)])


@pytest.mark.parametrize("name", every_op())
def test_every_operation_of_the_package_keeps_the_contract(name):
    for sample in SAMPLES[name]:
        assert gradcheck(sample.f(every_op()[name]), sample.arrays, elementwise_limit=0, directions=1)


# check mode


def kernel_op(forward=triple, backward=triple_back) -> Op:
    """A right reference beside a kernel that is made of these."""

    def write(dout, saved, into):
        into[0].write(backward(dout, saved)[0])

    return Op("faulty", triple, triple_back, SimpleNamespace(forward=forward, backward=write))


@pytest.mark.parametrize(
    ("op", "says"),
    [
        (kernel_op(forward_writes_input), "forward: writes into its inputs"),
        (kernel_op(forward_hands_out_a_buffer), "forward: returns memory"),
        (kernel_op(backward=backward_writes_dout), "backward: writes into dout"),
        (kernel_op(backward=backward_writes_saved), "backward: writes into saved"),
        (kernel_op(backward=backward_remembers), "backward: gives another result"),
        (kernel_op()._replace(backward=backward_writes_dout), "backward: writes into dout"),
        (kernel_op()._replace(forward=forward_remembers), "forward: gives another result"),
    ],
)
def test_check_mode_watches_kernel_and_reference(op, says):
    x = Tensor(np.array([1.0, -2.0, 0.5, 3.0]), requires_grad=True)
    with pytest.raises(ValueError, match=f"^faulty.{says}"), implementation("check"):
        apply(op, x).backward(np.ones(4))


# TINYGPT_DEBUG=1


@pytest.mark.parametrize("backward", [backward_writes_dout, backward_writes_a_view_of_dout, backward_writes_saved])
def test_debugging_finds_a_backward_that_writes_into_dout_or_saved(monkeypatch, backward):
    monkeypatch.setattr(settings, "DEBUG", True)
    x = Tensor(np.ones(4), requires_grad=True)
    out = apply(Op("faulty", triple, backward), x * 1.0) + x
    with pytest.raises(RuntimeError, match=r"faulty\.backward: writes into (dout|saved), which others hold too"):
        out.backward(np.ones(4))


def test_an_edit_of_what_was_saved_in_a_dict_is_found():
    op = Op("kept", lambda x: (x * x, {"x": [x]}), lambda dout, saved: (2 * saved["x"][0] * dout,))
    x = Tensor(np.ones(3), requires_grad=True)
    out = apply(op, x)
    x.data[1] = 5.0
    with pytest.raises(RuntimeError, match=r"kept\.backward: has saved an array of shape \(3,\) that was changed"):
        out.backward(np.ones(3))


def test_a_training_step_in_debug_mode_and_in_check_mode_breaks_nothing():
    program = """
import numpy as np
from tinygpt import GPT, GPTConfig, AdamW
model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=2, n_head=2, attn_pdrop=0.1), seed=1)
optimizer = AdamW(model.parameters())
for _ in range(2):
    model.loss([[1, 2, 3]], [[2, 3, 4]]).backward()
    optimizer.step()
    optimizer.zero_grad()
print("done")
"""
    home = Path(tinygpt.__file__).parents[1]
    for setting in ({"TINYGPT_DEBUG": "1"}, {"TINYGPT_IMPLEMENTATION": "check"}):
        command, environment = [sys.executable, "-c", program], {**os.environ, **setting}
        told = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=600)
        assert told.stdout.strip() == "done", told.stderr[-2000:]


def test_a_backward_that_empties_what_was_saved_is_named_as_that():
    def backward(dout, saved):
        x = saved.pop()
        return (2 * x * dout,)

    op = Op("square", lambda x: (x * x, [x]), backward)
    with pytest.raises(GradientCheckError, match=r"square.backward: writes into saved"):
        gradcheck(lambda x: apply(op, x), [np.ones(3)])


def test_a_backward_that_cannot_run_twice_is_named_as_that():
    op = Op("square", lambda x: (x * x, iter([x])), lambda dout, saved: (2 * next(saved) * dout,))
    with pytest.raises(GradientCheckError, match=r"square.backward: fails when it is called again .*StopIteration"):
        gradcheck(lambda x: apply(op, x), [np.ones(3)])
