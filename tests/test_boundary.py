"""
What stands between a caller's arrays and the kernels, which check no index: whatever is handed over is converted,
copied where the caller may still change it, or refused with an error that names the operation.
"""

from __future__ import annotations

import copy
import sys
import types

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import GPT, AdamW, GPTConfig, Tensor, apply, clip_grad_norm, implementation
from tinygpt.gpt2.decoder import Decoder
from tinygpt.nn import Linear, Module
from tinygpt.ops.attention import ATTENTION
from tinygpt.ops.cross_entropy import CROSS_ENTROPY
from tinygpt.ops.dropout import DROPOUT
from tinygpt.ops.embedding import EMBEDDING
from tinygpt.ops.layernorm import LAYERNORM
from tinygpt.ops.linear_cross_entropy import LINEAR_CROSS_ENTROPY

both = pytest.mark.parametrize("name", ["kernels", "numpy"])
CONFIG = GPTConfig(vocab_size=13, n_positions=8, n_embd=8, n_layer=2, n_head=2)


def unaligned(array):
    """The same numbers at an odd address, as `np.frombuffer` with an offset gives them."""
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    result = memory.view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned
    return result


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def numeric_slope(loss, array, index, step=1e-3):
    """The derivative of a loss by one number of an array, by central differences."""
    before = array[index]
    array[index] = before + step
    above = loss()
    array[index] = before - step
    below = loss()
    array[index] = before
    return (above - below) / (2 * step)


# Gradients in another memory order


def test_a_kernel_adds_to_the_gradient_of_a_transposed_leaf(rng):
    """The first gradient is the transpose of an array; a kernel that added to a copy of it would lose its own."""
    x = Tensor(rng.standard_normal((100, 60), np.float32), requires_grad=True)
    factor = rng.standard_normal((60, 100), np.float32)
    (x.T * factor).sum().backward()
    F.dropout(x, 0.5, seed=3).sum().backward()
    mask = F.dropout(Tensor(np.ones((100, 60), np.float32)), 0.5, seed=3).data
    np.testing.assert_allclose(x.grad, factor.T + mask, rtol=1e-6)


def test_a_kernel_adds_to_a_transposed_gradient_on_its_way(rng):
    leaf = Tensor(rng.standard_normal((100, 60), np.float32), requires_grad=True)
    factor = rng.standard_normal((60, 100), np.float32)
    h = leaf * 1.0
    dropped = F.dropout(h, 0.5, seed=3)  # older than the transpose: its gradient arrives second
    ((h.T * factor).sum() + dropped.sum()).backward()
    mask = F.dropout(Tensor(np.ones((100, 60), np.float32)), 0.5, seed=3).data
    np.testing.assert_allclose(leaf.grad, factor.T + mask, rtol=1e-6)


@pytest.mark.parametrize("order", [lambda a: np.asfortranarray(a), read_only, unaligned, lambda a: a[::-1][::-1].T.T])
def test_a_gradient_that_the_caller_sets_is_added_to_whatever_its_memory(order):
    x = Tensor(np.ones((70, 90), np.float32), requires_grad=True)
    x.grad = order(np.full((70, 90), 5, np.float32))
    F.dropout(x, 0.5, seed=1).sum().backward()
    mask = F.dropout(Tensor(np.ones((70, 90), np.float32)), 0.5, seed=1).data
    np.testing.assert_array_equal(x.grad, 5 + mask)


def test_a_gradient_that_is_the_data_itself_does_not_let_backward_write_into_the_data():
    x = Tensor(np.ones((70, 90), np.float32), requires_grad=True)
    x.grad = x.data
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(x.data, np.ones((70, 90)))
    np.testing.assert_array_equal(x.grad, np.full((70, 90), 4))


@pytest.mark.parametrize(
    "memory", [np.zeros((3, 2), np.float32).T, read_only(np.zeros((2, 3), np.float32)), np.zeros((2, 3)), np.zeros(6)]
)
def test_memory_that_cannot_hold_a_gradient_is_refused(memory):
    with pytest.raises(ValueError, match=r"keep_grad_in: the (memory|gradient) must be"):
        Tensor(np.zeros((2, 3), np.float32), requires_grad=True).keep_grad_in(memory)


# Arrays that NumPy reads and compiled code does not


@pytest.mark.parametrize(
    "kind", [read_only, unaligned, lambda a: a.astype(a.dtype.newbyteorder(">")), np.asfortranarray]
)
def test_any_array_of_a_machine_is_computed_with(kind, rng):
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 10), (10, 7), (7,)))
    out, want = F.linear(Tensor(kind(x)), Tensor(kind(w)), Tensor(kind(b))), x.astype(float) @ w + b
    np.testing.assert_allclose(out.data, want, rtol=1e-4, atol=1e-5)
    assert out.dtype == np.dtype("=f4")
    np.testing.assert_allclose(F.gelu(Tensor(kind(x))).data, F.gelu(Tensor(x.astype(float))).data, atol=1e-6)


@pytest.mark.parametrize("kind", [read_only, unaligned, lambda a: np.broadcast_to(a[:1, :1], a.shape)])
def test_a_hook_may_return_any_array(kind):
    x = Tensor(np.ones((40, 50), np.float32), requires_grad=True)
    h = F.dropout(x, 0.5, seed=1)
    h.register_hook(lambda gradient: kind(np.full((40, 50), 2, np.float32)))
    h.sum().backward()
    np.testing.assert_array_equal(x.grad, 2 * h.data)


# Ids and targets


@both
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", ">u2", ">i8", "<i4"])
@pytest.mark.parametrize("ignored", [0, 3])
def test_targets_of_any_integer_type_are_ignored_alike(name, dtype, ignored, rng):
    logits = rng.standard_normal((64, 9)).astype(np.float32)
    targets = rng.integers(0, 6, 64).astype(dtype)
    rows = [i for i in range(64) if targets[i] != ignored]
    log_p = logits - np.log(np.exp(logits.astype(float)).sum(1, keepdims=True))
    with implementation(name):
        x = Tensor(logits, requires_grad=True)
        loss = F.cross_entropy(x, targets, ignore_index=ignored)
        loss.backward()
    np.testing.assert_allclose(loss.item(), -np.mean([log_p[i, targets[i]] for i in rows]), rtol=1e-5)
    expected = np.exp(log_p) / len(rows)
    expected[np.arange(64), targets.astype(int)] -= 1 / len(rows)
    expected[targets == ignored] = 0
    np.testing.assert_allclose(x.grad, expected, atol=1e-6)


@both
def test_the_models_loss_takes_a_token_files_own_type(name):
    tokens = np.array([[1, 2, 3, 0], [5, 0, 0, 12]], np.uint16)
    with implementation(name):
        model = GPT(CONFIG).eval()
        one, two = (model.loss(t, t, ignore_index=0).item() for t in (tokens, tokens.astype(int)))
        logits = model(tokens).data.astype(float)
    counted = tokens != 0
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = -np.take_along_axis(log_p, tokens.astype(int)[..., None], -1)[..., 0][counted].mean()
    assert one == two
    np.testing.assert_allclose(one, want, rtol=1e-5)


@pytest.mark.parametrize("ignored", [-1, 65535, 2**63 - 1])
def test_an_ignored_id_may_lie_outside_of_the_vocabulary(ignored):
    targets = np.array([1, ignored, 0], np.int64)
    x = np.zeros((3, 4), np.float32)
    assert F.cross_entropy(Tensor(x), targets, ignore_index=ignored).item() == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    ("targets", "ignored", "error", "message"),
    [
        ([0, 2**63], -100, ValueError, f"cross_entropy: targets must be from 0 to 3, got {2**63}"),
        ([0, 1], 2**64 - 1, ValueError, "ignore_index must fit into int64"),
        ([0, 1], 1.0, TypeError, "ignore_index must be an integer, got 1.0"),
        ([0, 1], None, TypeError, "ignore_index must be an integer, got None"),
        ([[0], [1, 2]], -100, ValueError, "targets must be a rectangular array"),
        ([0, -1], -100, ValueError, "targets must be from 0 to 3, got -1"),
        (["0", "1"], -100, TypeError, "targets must be integers"),
    ],
)
def test_targets_that_no_row_has_are_named(targets, ignored, error, message):
    if targets == [0, 2**63]:
        targets = np.array(targets, np.uint64)
    with pytest.raises(error, match=message):
        F.cross_entropy(Tensor(np.zeros((2, 4), np.float32)), targets, ignore_index=ignored)


@both
@pytest.mark.parametrize("later", [7, -1, 10**9])
def test_ids_may_be_filled_with_the_next_batch_before_backward(name, later):
    with implementation(name):
        table = Tensor(np.ones((10, 64), np.float32), requires_grad=True)
        ids = np.zeros((4, 64), np.int64)
        out = F.embedding(ids, table)
        ids[:] = later
        out.sum().backward()
    np.testing.assert_array_equal(table.grad[0], np.full(64, 256))
    assert not table.grad[1:].any()


@both
def test_whatever_selects_is_remembered_as_it_was(name):
    with implementation(name):
        x = Tensor(np.arange(6.0), requires_grad=True)
        index, mask, condition = np.array([1, 1]), np.array([True] + [False] * 5), np.array([True] * 6)
        loss = x[index].sum() + 10 * x[mask].sum() + 100 * F.where(condition, x, 0.0).sum()
        index[:], mask[:], condition[:] = 5, True, False
        loss.backward()
    np.testing.assert_array_equal(x.grad, [110, 102, 100, 100, 100, 100])


@both
def test_a_models_batch_may_be_filled_again_before_backward(name):
    tokens = np.array([[1, 2, 3, 0], [5, 0, 0, 12]], np.int64)
    with implementation(name):
        gradients = []
        for changed in (False, True):
            model, inputs, targets = GPT(CONFIG).eval(), tokens.copy(), tokens.copy()
            loss = model.loss(inputs, targets)
            if changed:
                inputs[:], targets[:] = 10**6, -5
            loss.backward()
            gradients.append(model.flat_gradients.copy())
    np.testing.assert_array_equal(*gradients)


WEIGHT, VECTOR = np.ones((4, 6), np.float32), np.ones(6, np.float32)


@both
@pytest.mark.parametrize(
    ("op", "arrays", "attrs"),
    [
        (EMBEDDING, [WEIGHT], {"ids": np.array([4])}),
        (EMBEDDING, [WEIGHT], {"ids": np.array([-1])}),
        (CROSS_ENTROPY, [WEIGHT], {"targets": np.array([0, 1, 2, 6])}),
        (CROSS_ENTROPY, [WEIGHT], {"targets": np.array([0, 1, 2])}),
        (LINEAR_CROSS_ENTROPY, [WEIGHT, WEIGHT], {"targets": np.array([0, 1, 2, 4])}),
        (LINEAR_CROSS_ENTROPY, [WEIGHT, WEIGHT[:, :5]], {"targets": np.array([0, 1, 2, 3])}),
        (LAYERNORM, [WEIGHT, VECTOR[:5], VECTOR], {}),
        (LAYERNORM, [WEIGHT, VECTOR, VECTOR], {"eps": np.nan}),
        (ATTENTION, [WEIGHT[None]], {"n_head": 3}),
        (ATTENTION, [WEIGHT[None]], {"n_head": 0}),
        (ATTENTION, [WEIGHT[None]], {"n_head": 1, "p": 0.5, "seed": -1}),
        (DROPOUT, [WEIGHT], {"p": 1.0, "seed": 1}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_op_that_is_applied_directly_is_checked_too(name, op, arrays, attrs):
    with implementation(name), pytest.raises(ValueError, match=f"^{op.name}: "):
        apply(op, *arrays, **attrs)


def test_a_number_of_heads_must_be_an_integer():
    with pytest.raises(TypeError, match=r"attention: n_head must be an integer, got 2.0"):
        F.attention(Tensor(np.ones((1, 2, 12), np.float32)), n_head=2.0)


# Data that is replaced


@both
@pytest.mark.parametrize("shape", [(9, 4), (3, 4), (12,), (5, 5)])
def test_a_table_of_another_size_is_found_when_it_is_used(name, shape):
    table = Tensor(np.ones((5, 4), np.float32), requires_grad=True)
    table.data = np.ones(shape, np.float32)
    with implementation(name), pytest.raises(ValueError, match=r"(mul|embedding): .*float32 \(5, 4\).* is now"):
        F.embedding([0], table) if len(shape) == 2 else table * 2.0


def replaced(value):
    p = Tensor(np.zeros(10, np.float32), requires_grad=True)
    other = Tensor(np.zeros(3, np.float32), requires_grad=True)
    (other.sum() + (p * p).sum()).backward()
    optimizer = AdamW([other, p], lr=0.1)
    optimizer.step()
    p.data = value
    return optimizer, other


@both
@pytest.mark.parametrize(
    "value",
    [np.ones(n, np.float32) for n in (0, 1, 9, 11, 10**6)]
    + [np.ones(10), np.ones((2, 5), np.float32), read_only(np.ones(10, np.float32))],
    ids=lambda a: f"{a.dtype}{a.shape}{'' if a.flags.writeable else ' read-only'}",
)
def test_adamw_refuses_data_that_its_moments_do_not_fit_and_changes_nothing(name, value):
    optimizer, other = replaced(value)
    before = copy.deepcopy(optimizer.state_dict())
    kept = other.data.copy()
    with implementation(name), pytest.raises(ValueError, match=r"AdamW.step: a parameter"):
        optimizer.step()
    np.testing.assert_array_equal(other.data, kept)
    np.testing.assert_equal(optimizer.state_dict(), before)


@both
@pytest.mark.parametrize("view", [lambda a: a[::2], lambda a: a.reshape(2, 10)[:, ::-1][0], unaligned])
def test_adamw_steps_in_any_memory_that_can_be_written(name, view):
    memory = np.arange(20, dtype=np.float32)
    p, plain = (Tensor(np.zeros(10, np.float32), requires_grad=True) for _ in range(2))
    p.data = view(memory)[:10]
    plain.data = p.data.copy()
    with implementation(name):
        for tensor in (p, plain):
            tensor.grad = np.linspace(-1, 1, 10, dtype=np.float32)
            AdamW([tensor], lr=0.1).step()
    np.testing.assert_allclose(p.data, plain.data, rtol=1e-6)


def test_a_gradient_that_overlaps_its_parameter_is_read_before_it_is_written():
    results = []
    for name in ("kernels", "numpy"):
        memory = np.linspace(1, 2, 40_001, dtype=np.float32)
        p = Tensor(np.zeros(40_000, np.float32), requires_grad=True)
        p.grad = memory[:-1]
        p.data = memory[1:]
        with implementation(name):
            AdamW([p], lr=0.1).step()
        results.append(p.data.copy())
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_a_gradient_that_is_set_read_only_is_scaled_all_the_same():
    p = Tensor(np.zeros(16, np.float32), requires_grad=True)
    p.grad = read_only(np.ones(16, np.float32))
    assert clip_grad_norm([p], 1.0) == 4
    np.testing.assert_array_equal(p.grad, np.full(16, 0.25))


# Decoding


@pytest.mark.parametrize("path", ["wte", "ln_f", "h.1.ln_1", "h.0.attn.c_attn", "h.1.mlp.c_proj"])
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a.astype(np.float64), lambda a: np.tile(a, 2)])
def test_a_decoder_refuses_weights_that_are_not_of_the_models_shape(path, change):
    model = GPT(CONFIG).eval()
    weight = dict(model.named_parameters())[f"{path}.weight"]
    weight.data = change(weight.data)
    if path == "wte" and weight.dtype == np.float64:
        path = "h.0.ln_1"  # the table decides what the others must be
    with pytest.raises(ValueError, match=f"Decoder: {path}.weight must be float"):
        Decoder(model)


def test_a_decoder_reads_weights_in_any_memory_order():
    model, plain = GPT(CONFIG).eval(), GPT(CONFIG).eval()
    for kind, parameter in zip([read_only, np.asfortranarray, unaligned] * 20, model.parameters(), strict=False):
        parameter.data = kind(parameter.data)
    decoder, other = Decoder(model), Decoder(plain)
    np.testing.assert_allclose(decoder.prefill(0, [1, 2]), other.prefill(0, [1, 2]), rtol=1e-5)
    np.testing.assert_allclose(decoder.step([0], [3]), other.step([0], [3]), rtol=1e-5)


@pytest.mark.parametrize("length", [0, -1, -(2**40), 8, 2**40])
def test_a_length_that_no_text_has_is_refused(length):
    decoder = Decoder(GPT(CONFIG).eval())
    decoder.prefill(0, [1, 2])
    decoder.lengths[0] = length
    with pytest.raises(ValueError, match=r"Decoder.step: each sequence must have from 1 to 7 tokens"):
        decoder.step([0], [3])


@pytest.mark.parametrize("sequence", [1, -1, 10**9])
def test_a_sequence_that_is_not_there_is_refused(sequence):
    with pytest.raises(ValueError, match=r"Decoder.prefill: sequence must be from 0 to 0"):
        Decoder(GPT(CONFIG).eval()).prefill(sequence, [1, 2])


def test_flat_memory_still_receives_what_kernels_write():
    layer = Linear(40, 30, np.random.default_rng(0))
    layer.flatten_parameters()
    layer(Tensor(np.ones((7, 40), np.float32))).sum().backward()
    assert np.shares_memory(layer.weight.grad, layer.flat_gradients)
    np.testing.assert_array_equal(layer.weight.grad, np.full((40, 30), 7))


def fresh(seed=3):
    return GPT(CONFIG, seed=seed).eval()


@pytest.mark.parametrize("columns", [1, 4, 40])
def test_a_table_that_is_resized_under_a_decoder_is_refused_at_its_next_step(columns):
    """The scratch memory of a step is as wide as the model was when the decoder was made."""
    model = fresh()
    decoder = Decoder(model)
    decoder.prefill(0, [1, 2])
    model.wte.weight.data = np.ones((13, columns), np.float32)
    with pytest.raises(ValueError, match=r"Decoder: wte.weight must be float32 \(13, 8\), got"):
        decoder.step([0], [3])


def test_data_that_is_replaced_under_a_decoder_is_what_it_reads_next():
    model = fresh()
    decoder = Decoder(model)
    for name in ("h.0.attn.c_attn.weight", "ln_f.weight", "wpe.weight", "wte.weight"):
        parameter = dict(model.named_parameters())[name]
        parameter.data = parameter.data * 0.5
        decoder.prefill(0, [1, 2])
        other = Decoder(model)
        other.prefill(0, [1, 2])
        np.testing.assert_array_equal(decoder.step([0], [3]), other.step([0], [3]), err_msg=name)


@pytest.mark.parametrize("name", ["lengths", "capacity"])
def test_what_bounds_a_decoders_memory_cannot_be_replaced(name):
    with pytest.raises(AttributeError, match=name):
        setattr(Decoder(fresh()), name, 10**6)


def test_a_tied_parameter_counts_once_in_the_norm_and_is_scaled_once():
    class Tied(Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.a, self.b = Linear(4, 4, rng), Linear(4, 4, rng)
            self.b.weight = self.a.weight

    model = Tied()
    model.a.weight.grad = np.ones((4, 4), np.float32)
    assert clip_grad_norm([model.a.weight, model.b.weight], 1.0) == 4
    np.testing.assert_allclose(np.linalg.norm(model.a.weight.grad), 1, rtol=1e-6)
    assert model.num_parameters() == 16 + 4 + 4
    assert set(model.state_dict()) == {"a.weight", "a.bias", "b.weight", "b.bias"}  # as PyTorch saves them
    model.load_state_dict(model.state_dict())
    model.flatten_parameters()
    assert model.flat_parameters.size == 24 and model.b.weight is model.a.weight
    AdamW(model.parameters()).step()


def test_a_parameter_that_joins_a_group_later_leaves_the_others_their_moments():
    a, b = (Tensor(np.ones(3, np.float32), requires_grad=True) for _ in range(2))
    optimizer = AdamW([a], lr=0.1)
    a.grad = np.ones(3, np.float32)
    optimizer.step()
    optimizer.param_groups[-1]["params"].append(b)
    b.grad = np.ones(3, np.float32)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    assert (state[0]["step"], state[1]["step"]) == (2, 1)
    np.testing.assert_allclose(state[0]["exp_avg"], 0.1 + 0.9 * 0.1, rtol=1e-6)


def test_a_gradient_that_is_set_by_hand_is_nobody_elses():
    a, b = (Tensor(np.full(3, 2, np.float32), requires_grad=True) for _ in range(2))
    given = np.ones(3, np.float32)
    a.grad, b.grad = given, given
    (a * 1.0).sum().backward()
    assert a.grad.tolist() == [2, 2, 2] and b.grad.tolist() == given.tolist() == [1, 1, 1]
    a.grad = b.data
    (a * 1.0).sum().backward()
    assert b.data.tolist() == [2, 2, 2]


@pytest.mark.parametrize("data", [[1.0], 1.0, None, "1", Tensor([1.0])], ids=lambda value: type(value).__name__)
def test_data_that_is_no_array_is_refused_where_it_is_assigned(data):
    p = Tensor(np.ones((1, 1), np.float32), requires_grad=True)
    with pytest.raises(TypeError, match=f"Tensor.data: must be a NumPy array, got {type(data).__name__}"):
        p.data = data
    assert p.data.tolist() == [[1]]


def test_a_matrix_computes_like_an_array():
    """`*` is the matrix product for np.matrix: the gradient would be another one."""
    p = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    p.data = np.full((2, 2), 3, np.float32).view(np.matrix)
    (p * p).sum().backward()
    np.testing.assert_array_equal(p.grad, np.full((2, 2), 6))


def test_a_mask_is_not_lost_without_a_word():
    masked = np.ma.masked_array([1, 2], mask=[True, False])
    with pytest.raises(TypeError, match="targets must be a plain array, got a masked one"):
        F.cross_entropy(Tensor(np.zeros((2, 4), np.float32)), masked)
    with pytest.raises(TypeError, match="Tensor: got a masked array"):
        Tensor(np.ma.masked_array([1.0], mask=[True]))


def test_a_tensor_is_made_while_another_thread_imports_masked_arrays(monkeypatch):
    """Python lists a module before it has run it; a child forked at that moment sees it so for ever."""
    monkeypatch.setitem(sys.modules, "numpy.ma", types.ModuleType("numpy.ma"))
    assert (Tensor([1.0, 2.0]).sum().item(), F.cross_entropy(Tensor(np.zeros((2, 4), np.float32)), [1, 2]).shape) == (
        3.0,
        (),
    )


def test_the_ends_of_a_slice_are_remembered_as_they_were():
    x, i = Tensor(np.arange(5.0), requires_grad=True), np.array(1)
    y = x[i:].sum()
    i[...] = 4
    y.backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1]


def test_targets_of_different_lengths_are_told_as_that():
    with pytest.raises(ValueError, match=r"GPT.loss: targets must be a rectangular array"):
        fresh().loss([[1, 2], [3]], [[1, 2], [3]])
