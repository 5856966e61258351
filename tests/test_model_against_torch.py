"""The whole model against PyTorch: loss, every named gradient, the curve of ten steps, and files in both directions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinygpt import GPT, AdamW, GPTConfig, Tokenizer, clip_grad_norm, no_grad
from tinygpt.text.corpus import bundled_stories, encode_documents

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 61, "n_positions": 12, "n_embd": 24, "n_layer": 3, "n_head": 4}
OTHER_SIZES = [{}, {"n_layer": 1, "n_head": 1}, {"n_head": 24, "layer_norm_epsilon": 1e-2}]
NO_DROPOUT = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}


def theirs_like(ours: GPT):
    """GPT2LMHeadModel with our weights and precision."""
    config = transformers.GPT2Config(**ours.config.to_dict(), bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(config).to(torch.float64 if ours.wte.weight.dtype == np.float64 else None)
    weights = {f"transformer.{name}": torch.tensor(array) for name, array in ours.state_dict().items()}
    result = theirs.load_state_dict(weights, strict=False)
    assert result.missing_keys == ["lm_head.weight"] and not result.unexpected_keys  # the head is wte
    return theirs.train()


def randomize(parameters, rng) -> None:
    """Weights of order one, biases and norms away from their special starting values: no array can be mistaken."""
    for array in parameters:
        array += 0.3 * rng.standard_normal(array.shape).astype(array.dtype)


def their_loss(theirs, tokens, targets):
    """Not the model's own loss, which rounds float64 logits to float32."""
    logits = theirs(torch.tensor(tokens)).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())


def assert_within(ours, theirs, tolerance, name=""):
    """Within `tolerance` of the array's largest magnitude, as the project states its bounds."""
    theirs = theirs.detach().numpy()
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), name


def batches(count, vocab_size, rng):
    for _ in range(count):
        rows = rng.integers(vocab_size, size=(3, SIZES["n_positions"] + 1))
        yield rows[:, :-1], rows[:, 1:]


@pytest.mark.parametrize("sizes", OTHER_SIZES, ids=str)
def test_loss_logits_and_every_named_gradient_in_float64(rng, sizes):
    ours = GPT(GPTConfig(**SIZES | sizes, **NO_DROPOUT), dtype=np.float64)
    randomize(ours.state_dict().values(), rng)
    theirs = theirs_like(ours)
    tokens, targets = next(batches(1, SIZES["vocab_size"], rng))
    targets = targets.copy()
    targets[0, :4] = -100  # ignored by both
    loss, other = ours.loss(tokens, targets), their_loss(theirs, tokens, targets)
    loss.backward()
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-12)
    assert_within(ours(tokens).data, theirs(torch.tensor(tokens)).logits, 1e-9)
    gradients = {name.removeprefix("transformer."): p.grad for name, p in theirs.named_parameters()}
    names = [name for name, _ in ours.named_parameters()]
    assert gradients.keys() == set(names) and len(names) == 2 + 12 * ours.config.n_layer + 2
    for name, parameter in ours.named_parameters():
        assert_within(parameter.grad, gradients[name], 1e-9, name)


def test_the_losses_of_ten_adamw_steps_in_float32(rng):
    ours = GPT(GPTConfig(**SIZES, **NO_DROPOUT))
    theirs = theirs_like(ours)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    theirs_optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    optimizer = AdamW(ours.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for tokens, targets in batches(10, SIZES["vocab_size"], rng):
        loss, other = ours.loss(tokens, targets), their_loss(theirs, tokens, targets)
        assert loss.item() == pytest.approx(other.item(), abs=1e-5)
        loss.backward()
        other.backward()
        norm = clip_grad_norm(ours.parameters(), 0.5)
        assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item(), rel=1e-4)
        optimizer.step()
        theirs_optimizer.step()
        optimizer.zero_grad()
        theirs_optimizer.zero_grad()


@pytest.mark.parametrize("sizes", OTHER_SIZES, ids=str)
def test_transformers_opens_what_we_save(tmp_path, rng, sizes):
    ours = GPT(GPTConfig(**SIZES | sizes | {"vocab_size": 300})).eval()
    randomize(ours.state_dict().values(), rng)
    tokenizer = Tokenizer.train("\n".join(map(str, range(2000))), 300, progress=False)
    ours.save_pretrained(tmp_path, tokenizer)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens = rng.integers(300, size=(2, 12))
    with torch.no_grad():
        np.testing.assert_allclose(theirs.eval()(torch.tensor(tokens)).logits.numpy(), ours(tokens).data, atol=1e-4)
    text = "The hen said: good night, moon!  2 moons?\n"
    assert transformers.GPT2TokenizerFast.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer.encode(text)


@pytest.mark.parametrize("sizes", OTHER_SIZES, ids=str)
def test_we_open_what_transformers_saves(tmp_path, rng, sizes):
    config = transformers.GPT2Config(**SIZES | sizes, **NO_DROPOUT, bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    randomize((parameter.detach().numpy() for parameter in theirs.parameters()), rng)  # in place
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path).eval()
    tokens = rng.integers(SIZES["vocab_size"], size=(2, 12))
    with torch.no_grad():
        np.testing.assert_allclose(ours(tokens).data, theirs(torch.tensor(tokens)).logits.numpy(), atol=1e-5)


def test_greedy_continuations_agree(rng):
    ours = GPT(GPTConfig(**SIZES | {"n_positions": 32}))
    theirs = theirs_like(ours).eval()
    prompt = rng.integers(SIZES["vocab_size"], size=4)
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    told = theirs.generate(torch.tensor(prompt[None]), **options)[0, 4:].tolist()
    assert list(ours.generate(prompt, max_tokens=20, temperature=0)) == told


@pytest.mark.slow
def test_an_untrained_gpt2_is_as_surprised_as_theory_says_on_a_real_story(shared_data):
    """
    ln(50257) = 10.825 if all scores were equal. GPT-2's initialisation makes scores of variance C 0.02^2 = 0.307, since
    the final norm gives a vector of length sqrt(C) and the head's rows have standard deviation 0.02; and the mean of
    -ln softmax over normal scores of variance s^2 is ln V + s^2 / 2. So an untrained GPT-2 starts at 10.978.
    """
    tokenizer = Tokenizer.from_pretrained(shared_data / "gpt2")
    ids = encode_documents(bundled_stories()[-2:], tokenizer).astype(np.int64)[:513]
    ours = GPT(GPTConfig.preset("bedtime")).eval()
    with no_grad():
        loss = ours.loss(ids[None, :-1], ids[None, 1:]).item()
    assert ours.num_parameters() == 124_046_592
    assert loss == pytest.approx(math.log(50257) + 768 * 0.02**2 / 2, abs=0.05)
    torch.manual_seed(0)
    config = transformers.GPT2Config(**ours.config.to_dict())
    with torch.no_grad():  # and so does theirs, with its own random weights
        other = their_loss(transformers.GPT2LMHeadModel(config).eval(), ids[None, :-1], ids[None, 1:]).item()
    assert loss == pytest.approx(other, abs=0.05)
