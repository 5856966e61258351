"""What layers are made with: sizes, initial values as PyTorch's, the generator of the process, and no bias."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tinygpt
import tinygpt.functional as F
from tinygpt import GPT, GPTConfig, Tensor, gradcheck
from tinygpt.nn import Dropout, Embedding, LayerNorm, Linear

MEDIAN_OF_NORMAL = 0.6745  # half of a standard normal distribution is nearer to 0 than this


@pytest.fixture(autouse=True)
def seed():
    tinygpt.manual_seed(5)


def test_linear_starts_uniform_within_one_over_the_root_of_its_inputs_weight_and_bias():
    layer = Linear(400, 3000)
    for values in (layer.weight.data, layer.bias.data):
        assert values.dtype == np.float32 and abs(values).max() == pytest.approx(1 / 20, rel=2e-3)
        for share in (0.25, 0.5, 0.75):  # of a uniform distribution, below this share of its width
            assert np.mean(values < (2 * share - 1) / 20) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("kind", ["Linear", "Embedding"])
def test_the_initial_values_have_the_distributions_of_pytorchs(kind):
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    ours, theirs = (getattr(module, kind)(64, 5000).weight for module in (tinygpt.nn, torch.nn))
    theirs, places = theirs.detach().numpy(), np.linspace(0.1, 0.9, 9)
    found = np.quantile(ours.data, places) - np.quantile(theirs, places)
    assert abs(found).max() < 0.02 * theirs.std()


def test_with_std_linear_starts_normal_and_its_bias_zero():
    layer = Linear(300, 200, std=0.02)
    assert layer.weight.data.std() == pytest.approx(0.02, rel=0.02)  # 60,000 numbers: 0.3 % is one standard error
    assert abs(layer.weight.data.mean()) < 4 * 0.02 / math.sqrt(60_000)
    assert np.median(abs(layer.weight.data)) == pytest.approx(0.02 * MEDIAN_OF_NORMAL, rel=0.02)
    assert not layer.bias.data.any()


def test_the_initial_values_of_gpt_are_the_generators_own_numbers():
    """A seed means the same model in every version."""
    model = GPT(GPTConfig(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2), seed=3)
    weights, _ = np.random.default_rng(3).spawn(2)
    block = model.h[0]
    order = [model.wte, model.wpe, block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj]
    for layer in order:
        expected = weights.standard_normal(layer.weight.shape, np.float32)
        expected *= 0.02 / math.sqrt(2) if layer in (block.attn.c_proj, block.mlp.c_proj) else 0.02
        np.testing.assert_array_equal(layer.weight.data, expected)


def test_embedding_starts_standard_normal_or_with_std():
    assert Embedding(300, 200).weight.data.std() == pytest.approx(1, rel=0.02)
    assert Embedding(300, 200, std=0.1).weight.data.std() == pytest.approx(0.1, rel=0.02)


def test_linear_without_bias_is_a_product():
    layer, x = Linear(3, 4, bias=False, dtype=np.float64), np.random.default_rng(0).standard_normal((5, 3))
    assert layer.bias is None and list(layer.state_dict()) == ["weight"]
    np.testing.assert_allclose(layer(Tensor(x)).data, x @ layer.weight.data, rtol=1e-14)
    assert gradcheck(F.linear, [x, layer.weight.data]) and gradcheck(F.gelu_linear, [x, layer.weight.data])
    model = GPT(GPTConfig(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2)).eval()
    for part in (model.h[0].attn.c_attn, model.h[0].mlp.c_proj):
        part.bias = None
    decoder, tokens = model.decoder(), [1, 2, 3]
    decoder.prefill(0, tokens[:2])
    np.testing.assert_allclose(decoder.step([0], tokens[2:])[0], model([tokens]).data[0, 2], atol=1e-5)


def test_layers_know_their_sizes_by_pytorchs_names():
    layer = Linear(in_features=3, out_features=4)
    assert (layer.in_features, layer.out_features) == (3, 4) == layer.weight.shape
    table = Embedding(num_embeddings=5, embedding_dim=2)
    assert (table.num_embeddings, table.embedding_dim) == (5, 2) == table.weight.shape
    for shape in (3, (3,), [3]):
        assert LayerNorm(normalized_shape=shape).normalized_shape == (3,)
    assert Dropout().p == 0.5


def drawn() -> list[np.ndarray]:
    return [Linear(2, 3).weight.data, Embedding(2, 3).weight.data, Dropout(0.5)(Tensor(np.ones(40, np.float32))).data]


def test_a_seed_starts_the_generator_of_the_process_anew():
    first, later = drawn(), drawn()
    tinygpt.manual_seed(5)
    for a, b, c in zip(first, drawn(), later, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    tinygpt.manual_seed(np.int64(6))
    assert (drawn()[0] != first[0]).any()


def test_a_process_starts_with_the_documented_seed():
    program = "import tinygpt; {}; from tinygpt.nn import Linear; print(Linear(2, 2).weight.data.tolist())"
    unseeded, seeded = (
        subprocess.run([sys.executable, "-c", program.format(line)], capture_output=True, text=True, check=True).stdout
        for line in ("pass", "tinygpt.manual_seed(1337)")
    )
    assert unseeded == seeded


def test_a_seed_reaches_layers_that_were_made_before_it_and_their_copies():
    layer, x = Dropout(0.5), Tensor(np.ones(100, np.float32))
    copies = [layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    masks = []
    for each in copies:
        tinygpt.manual_seed(9)
        masks.append(each(x).data)
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_a_generator_of_ones_own_leaves_that_of_the_process_alone():
    expected = Linear(2, 3).weight.data
    tinygpt.manual_seed(5)
    Linear(2, 3, np.random.default_rng(0)), Embedding(2, 3, np.random.default_rng(0))
    Dropout(0.5, np.random.default_rng(0))(Tensor([1.0]))
    np.testing.assert_array_equal(Linear(2, 3).weight.data, expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Linear(3, 4, False), TypeError, r"Linear: generator must be .*, got False; .* such as bias=False"),
        (lambda: Embedding(3, 4, 0), TypeError, r"Embedding: generator must be .*, got 0; write np.random.default_rng"),
        (lambda: Dropout(0.5, 1), TypeError, r"Dropout: generator must be .*, got 1; write np.random.default_rng"),
        (lambda: Linear(3.0, 4), TypeError, r"Linear: in_features must be an integer, got 3\.0"),
        (lambda: Linear(3, 0), ValueError, r"Linear: out_features must be at least 1, got 0"),
        (lambda: Embedding(-1, 4), ValueError, r"Embedding: num_embeddings must be at least 1, got -1"),
        (lambda: Embedding(3, "4"), TypeError, r"Embedding: embedding_dim must be an integer, got '4'"),
        (
            lambda: LayerNorm((3, 4)),
            ValueError,
            r"LayerNorm: normalized_shape must be .* last axis alone, got \(3",
        ),
        (lambda: LayerNorm("3"), TypeError, r"LayerNorm: normalized_shape must be an integer, got '3'"),
        (lambda: Linear(3, 4, dtype="float16"), TypeError, r"Linear: dtype must be float32 or float64, got float16"),
        (lambda: Embedding(3, 4, dtype=int), TypeError, r"Embedding: dtype must be float32 or float64, got int64"),
        (
            lambda: LayerNorm(3, dtype="bfloat16"),
            TypeError,
            r"LayerNorm: dtype must be .*, got bfloat16; write dtype=np",
        ),
        (lambda: LayerNorm(3, eps="x"), ValueError, r"LayerNorm: eps must be a finite number of at least 0, got 'x'"),
        (lambda: Linear(3, 4, std="x"), ValueError, r"Linear: std must be a finite number of at least 0, got 'x'"),
        (lambda: Embedding(3, 4, std=-1), ValueError, r"Embedding: std must be a finite number of at least 0, got -1"),
        (lambda: Dropout(1.0), ValueError, r"Dropout: p must be at least 0 and below 1, got 1\.0"),
        (lambda: tinygpt.manual_seed(-1), ValueError, r"manual_seed: seed must be at least 0, got -1"),
        (lambda: tinygpt.manual_seed("1"), TypeError, r"manual_seed: seed must be an integer, got '1'"),
    ],
)
def test_what_layers_cannot_be_made_with_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_table_that_is_tied_to_a_head_the_wrong_way_round_says_how_to_tie_it():
    table, head = Embedding(65, 32), Linear(32, 65, bias=False)
    table.weight = head.weight  # as nanoGPT does; PyTorch's Linear has the table's shape
    with pytest.raises(ValueError, match=r"^Embedding: weight must have the shape \(65, 32\), got \(32, 65\); a head"):
        table([[1, 2]])
    table = Embedding(65, 32)
    F.linear(table([[1, 2]]), table.weight.T).sum().backward()
    expected = np.zeros((65, 32), np.float32) + table.weight.data[[1, 2]].sum(axis=0)
    expected[[1, 2]] += table.weight.data.sum(axis=0)
    np.testing.assert_allclose(table.weight.grad, expected, rtol=1e-4, atol=1e-4)
