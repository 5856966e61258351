"""Recomputed blocks: the same loss and the same gradients to the last bit, for less memory."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tensor, gradcheck, manual_seed, nn, no_grad
from tinygpt.autograd.recompute import recompute

CONFIG = GPTConfig(vocab_size=50, n_positions=16, n_embd=16, n_layer=3, n_head=2)  # with dropout
TOKENS = np.arange(32).reshape(2, 16)


def gradients(recomputed: bool, passes: int = 2) -> tuple[list[float], np.ndarray, dict]:
    model = GPT(CONFIG, seed=1)
    model.recompute = recomputed
    losses = []
    for _ in range(passes):
        loss = model.loss(TOKENS, TOKENS + 1)
        loss.backward()
        losses.append(loss.item())
    return losses, model.flat_gradients.copy(), model.generator.bit_generator.state


def test_losses_gradients_and_the_generator_are_the_same_to_the_last_bit():
    """Two passes: the second adds to the gradients of the first, and draws dropout's seeds where the first stopped."""
    (losses, gradient, state), (losses_again, gradient_again, state_again) = gradients(False), gradients(True)
    assert losses[0] != losses[1]  # dropout drew anew
    assert losses == losses_again and state == state_again
    np.testing.assert_array_equal(gradient, gradient_again)


def test_what_is_kept_is_the_input_alone():
    seen = []

    def cube(x: Tensor) -> Tensor:
        y = x * x * x
        seen.append(y.requires_grad)
        return y

    x = Tensor(np.ones(3), requires_grad=True)
    out = recompute(cube, x, np.random.default_rng(0))
    assert out.node.saved[0] is x.data
    out.sum().backward()
    assert seen == [False, True]  # recorded the second time only


def test_the_gradient_is_right():
    rng = np.random.default_rng(0)
    assert gradcheck(lambda x: recompute(lambda x: (x * x).tanh(), x, rng), [rng.standard_normal((3, 4))])


def test_without_gradients_it_runs_once():
    calls = []
    with no_grad():
        out = recompute(lambda x: calls.append(1) or x + 1.0, Tensor([1.0]), np.random.default_rng(0))
    assert out.item() == 2 and calls == [1] and not out.requires_grad


@pytest.mark.parametrize("retain", [True, False])
def test_backward_may_run_twice_only_if_asked(retain):
    x = Tensor(np.ones(3), requires_grad=True)
    out = recompute(lambda x: x * x, x, np.random.default_rng(0)).sum()
    out.backward(retain_graph=retain)
    if retain:
        out.backward()
        np.testing.assert_array_equal(x.grad, [4, 4, 4])
    else:
        with pytest.raises(ValueError, match="freed"):
            out.backward()


def test_layers_without_a_generator_draw_the_same_masks_again():
    layer = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5))
    gradients = []
    for compute in (layer, lambda x: recompute(layer, x), lambda x: recompute(layer, x, np.random.default_rng(0))):
        manual_seed(3)
        x = Tensor(np.ones((2, 4), np.float32), requires_grad=True)
        (compute(x) + layer(x)).sum().backward()
        gradients.append(x.grad)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5)
    np.testing.assert_allclose(gradients[2], gradients[0], rtol=1e-5)
