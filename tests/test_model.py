"""The model: GPT-2's parameters and initial weights, its forward pass number by number, gradients for all of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import assert_close

from tinygpt import GPT, GPTConfig, nn, no_grad
from tinygpt.ops.dropout import dropout_mask

RATES = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
SMALL = {"vocab_size": 11, "n_positions": 7, "n_embd": 6, "n_layer": 2, "n_head": 2} | dict.fromkeys(RATES, 0.0)
TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])  # repeats, and ids that never stand in the input
TARGETS = np.array([[1, 4, 1, 5, 9], [2, -100, 5, 3, 8]])  # one does not count


def random_model(seed: int = 0, **changes) -> GPT:
    """A float64 model with weights of order one: layers, norms and biases all matter to the result."""
    model = GPT(GPTConfig(**(SMALL | changes)), seed=seed, dtype=np.float64)
    model.flat_parameters[:] = 0.5 * np.random.default_rng(seed).standard_normal(model.num_parameters())
    return model


def shapes_of_gpt2(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """What OpenAI's checkpoints hold, under the names of Hugging Face's GPT2Model."""
    V, P, C = config.vocab_size, config.n_positions, config.n_embd
    block = {
        "ln_1.weight": (C,), "ln_1.bias": (C,), "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,), "ln_2.weight": (C,), "ln_2.bias": (C,),
        "mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,), "mlp.c_proj.weight": (4 * C, C),
        "mlp.c_proj.bias": (C,),
    }  # fmt: skip
    shapes = {"wte.weight": (V, C), "wpe.weight": (P, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    return shapes | {f"h.{i}.{name}": shape for i in range(config.n_layer) for name, shape in block.items()}


# parameters


@pytest.mark.parametrize(
    "changes", [{}, {"n_layer": 1, "n_head": 6}, {"n_layer": 3, "n_embd": 5, "n_head": 1}], ids=str
)
def test_parameters_have_gpt2s_names_and_shapes(changes):
    model = random_model(**changes)
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes_of_gpt2(model.config)


# The published sizes of the architecture (Radford et al. 2019, table 2, counts the same to three digits).
@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("bedtime", 124_046_592),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_presets_have_exactly_the_published_number_of_parameters(preset, published, monkeypatch):
    zeros = lambda rng, shape, std, dtype: np.broadcast_to(np.zeros((), dtype), shape)  # noqa: E731 takes no memory
    monkeypatch.setattr(nn.layers, "normal", zeros)
    monkeypatch.setattr(GPT, "flatten_parameters", lambda self: None)
    model = GPT(GPTConfig.preset(preset))
    assert model.num_parameters() == published
    assert sum(math.prod(shape) for shape in shapes_of_gpt2(model.config).values()) == published


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_initial_weights_are_normal_and_residual_projections_smaller(scale):
    config = GPTConfig(**SMALL | {"vocab_size": 200, "n_positions": 100, "n_embd": 64, "initializer_range": scale})
    for name, array in GPT(config).state_dict().items():
        assert array.dtype == np.float32
        if name.endswith("bias"):
            assert not array.any()
        elif "ln_" in name:
            assert (array == 1).all()
        else:
            std = scale / math.sqrt(2 * config.n_layer) if "c_proj" in name else scale
            # at least 4,096 numbers: one standard error is 1.1 % of std, for the mean 1.6 %, for the share 0.7 %
            assert array.std() == pytest.approx(std, rel=0.04), name
            assert abs(array.mean()) < 0.06 * std, name
            assert np.mean(np.abs(array) < std) == pytest.approx(0.6827, abs=0.03), name  # normal's share


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, same, other = (GPT(GPTConfig(**SMALL), seed=seed).state_dict() for seed in (1, 1, 2))
    drawn = [name for name, array in first.items() if array.ndim == 2]
    for name, array in first.items():
        np.testing.assert_array_equal(array, same[name])
        assert name not in drawn or not np.isin(array, other[name]).any()
    everything = np.concatenate([first[name].ravel() for name in drawn])
    assert len(np.unique(everything)) > 0.99 * everything.size  # no two matrices start alike


@pytest.mark.slow
def test_a_new_gpt2_knows_nothing():
    model = GPT(GPTConfig.preset("gpt2")).eval()
    assert model.num_parameters() == model.flat_parameters.size == 124_439_808
    tokens = np.random.default_rng(0).permutation(50257)[:256].reshape(4, 64)
    # The last norm makes hidden vectors of length sqrt(C), so a logit is N(0, C 0.02^2): ln sum e^logit is half a
    # variance above ln V. 256 unrelated targets of standard deviation 0.55: one standard error is 0.035.
    expected = math.log(50257) + 768 * 0.02**2 / 2
    with no_grad():
        assert model.loss(tokens, tokens[::-1]).item() == pytest.approx(expected, abs=0.1)


# the forward pass


def literal_logits(p, config: GPTConfig, tokens, masks):
    """GPT-2 on one sequence, number by number; `masks` are dropout's factors by place, 1 where there are none."""
    T, C, D, eps = len(tokens), config.n_embd, config.n_embd // config.n_head, config.layer_norm_epsilon

    def affine(x, name):
        weight, bias = p[name + ".weight"], p[name + ".bias"]
        return [sum(x[i] * weight[i, o] for i in range(len(x))) + bias[o] for o in range(len(bias))]

    def norm(x, name):
        mean = sum(x) / C
        deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / C + eps)
        return [(x[c] - mean) / deviation * p[name + ".weight"][c] + p[name + ".bias"][c] for c in range(C)]

    def attend(qkv, name):
        out = [[0.0] * C for _ in range(T)]
        for t in range(T):
            for c in range(C):
                head, first = c // D, c // D * D
                scores = [sum(qkv[t][first + d] * qkv[s][C + first + d] for d in range(D)) for s in range(t + 1)]
                e = [math.exp(score / math.sqrt(D)) for score in scores]
                weights = [e[s] / sum(e) * masks[name][head, t, s] for s in range(t + 1)]
                out[t][c] = sum(weights[s] * qkv[s][2 * C + c] for s in range(t + 1))
        return out

    def gelu(u):
        return 0.5 * u * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))

    wte, wpe = p["wte.weight"], p["wpe.weight"]
    x = [[(wte[tokens[t], c] + wpe[t, c]) * masks["embd"][t, c] for c in range(C)] for t in range(T)]
    for h in (f"h.{i}" for i in range(config.n_layer)):
        heads = attend([affine(norm(row, f"{h}.ln_1"), f"{h}.attn.c_attn") for row in x], f"{h}.attn")
        for t in range(T):
            branch = affine(heads[t], f"{h}.attn.c_proj")
            x[t] = [x[t][c] + branch[c] * masks[f"{h}.resid1"][t, c] for c in range(C)]
            wide = [gelu(u) for u in affine(norm(x[t], f"{h}.ln_2"), f"{h}.mlp.c_fc")]
            branch = affine(wide, f"{h}.mlp.c_proj")
            x[t] = [x[t][c] + branch[c] * masks[f"{h}.resid2"][t, c] for c in range(C)]
    x = [norm(row, "ln_f") for row in x]
    return [[sum(x[t][c] * wte[v, c] for c in range(C)) for v in range(len(wte))] for t in range(T)]


def draw_masks(model: GPT, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Dropout's factors at GPT-2's places, each with the next seed of `generator`; all 1 where the rate is 0."""
    config, (B, T) = model.config, TOKENS.shape
    features, weights = (B, T, config.n_embd), (B, config.n_head, T, T)
    places = {"embd": (config.embd_pdrop, features)}
    for h in (f"h.{i}" for i in range(config.n_layer)):
        places |= {f"{h}.attn": (config.attn_pdrop, weights), f"{h}.resid1": (config.resid_pdrop, features),
                   f"{h}.resid2": (config.resid_pdrop, features)}  # fmt: skip
    return {
        place: dropout_mask(shape, p, int(generator.integers(2**63)), np.float64) if p else np.ones(shape)
        for place, (p, shape) in places.items()
    }


def literal_batch(model: GPT, generator: np.random.Generator) -> np.ndarray:
    state, masks = model.state_dict(), draw_masks(model, generator)
    rows = [{place: mask[b] for place, mask in masks.items()} for b in range(len(TOKENS))]
    return np.array([literal_logits(state, model.config, TOKENS[b], rows[b]) for b in range(len(TOKENS))])


@pytest.mark.parametrize(
    "changes", [{"n_layer": 1}, {}, {"n_head": 1}, {"n_head": 6}, {"layer_norm_epsilon": 0.5}], ids=str
)
def test_logits_are_gpt2s_number_by_number(changes, rng):
    model = random_model(**changes)
    assert_close(model(TOKENS).data, literal_batch(model, rng))


@pytest.mark.parametrize(
    "rates", [{name: 0.4} for name in RATES] + [dict(zip(RATES, (0.2, 0.3, 0.4), strict=True))], ids=str
)
def test_each_rate_drops_at_its_own_place_in_training_only(rates):
    model, plain = random_model(**rates), random_model()
    generator = np.random.default_rng(1)
    before = model.generator.bit_generator.state
    generator.bit_generator.state = before
    np.testing.assert_array_equal(model.eval()(TOKENS).data, plain(TOKENS).data)
    assert model.generator.bit_generator.state == before  # evaluating does not change what training will draw
    dropped = model.train()(TOKENS).data
    assert_close(dropped, literal_batch(model, generator))
    assert (dropped != plain(TOKENS).data).any()
    assert (model(TOKENS).data != dropped).any()  # a new mask each step


def test_the_loss_is_the_mean_surprise_of_the_targets_that_count():
    model = random_model()
    logits = model(TOKENS).data
    surprises = [math.log(sum(math.exp(value) for value in logits[b, t])) - logits[b, t, TARGETS[b, t]]
                 for b in range(2) for t in range(5) if TARGETS[b, t] != -100]  # fmt: skip
    assert len(surprises) == 9
    assert model.loss(TOKENS, TARGETS).item() == pytest.approx(sum(surprises) / 9, rel=1e-12)
    marked = np.where(TARGETS == -100, 10, TARGETS)
    assert model.loss(TOKENS, marked, ignore_index=10).item() == pytest.approx(sum(surprises) / 9, rel=1e-12)


def test_no_token_sees_what_comes_after_it():
    model = random_model()
    logits = model(TOKENS).data
    for changed in range(5):
        other = TOKENS.copy()
        other[:, changed] = (other[:, changed] + 3) % 11
        got = model(other).data
        np.testing.assert_array_equal(got[:, :changed], logits[:, :changed])
        assert (got[:, changed:] != logits[:, changed:]).any(axis=-1).all()  # all later ones do see it
    assert_close(model(TOKENS[:, :3]).data, logits[:, :3])  # nor does the length matter
    assert_close(model(TOKENS[1:]).data, logits[1:])  # nor the other texts of the batch


# gradients


@pytest.mark.parametrize("rates", [{}, dict.fromkeys(RATES, 0.3)], ids=["plain", "dropout"])
def test_every_parameters_gradient_agrees_with_finite_differences(rates, rng):
    """Along two random directions for each array: the embedding's shows that it serves the head, too."""
    model, step = random_model(**rates), 1e-5
    seeds = model.generator.bit_generator.state

    def loss():
        model.generator.bit_generator.state = seeds  # the same masks each time
        return model.loss(TOKENS, TARGETS)

    loss().backward()
    for name, parameter in model.named_parameters():
        before = parameter.data.copy()
        for _ in range(2):
            direction = rng.standard_normal(parameter.shape)
            with no_grad():
                parameter.data[...] = before + step * direction
                above = loss().item()
                parameter.data[...] = before - step * direction
                below = loss().item()
            parameter.data[...] = before
            # Truncation, step^2 = 1e-10 times third derivatives, and rounding, 1e-16 / step, stay below 1e-7.
            numeric = (above - below) / (2 * step)
            scale = max(np.linalg.norm(parameter.grad), 1e-3)
            assert np.sum(parameter.grad * direction) == pytest.approx(numeric, abs=1e-7 * scale), name


def test_every_row_of_the_tied_table_gets_its_two_gradients():
    """Element by element: rows that are read, that are predicted, that are both, and that are neither."""
    model, step = random_model(n_layer=1), 1e-5
    model.loss(TOKENS, TARGETS).backward()
    table = model.wte.weight
    numeric = np.empty_like(table.data)
    with no_grad():
        for index in np.ndindex(table.shape):
            before = table.data[index]
            above, below = (_loss_with(model, index, before + h) for h in (step, -step))
            table.data[index] = before
            numeric[index] = (above - below) / (2 * step)
    assert_close(table.grad, numeric, 1e-8)
    assert table.grad.any(axis=1).all()


def _loss_with(model: GPT, index, value) -> float:
    model.wte.weight.data[index] = value
    return model.loss(TOKENS, TARGETS).item()
