"""Forward hooks: what they see, what they may change, how they go away, and that they run in PyTorch's order."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tensor, nn
from tinygpt.nn import Identity, Linear, Sequential

CONFIG = GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=2, n_head=2)


def test_a_forward_hook_sees_the_module_its_inputs_and_its_output():
    layer, seen = Linear(2, 3), []
    layer.register_forward_hook(lambda *given: seen.append(given))
    x = Tensor([[1.0, 2.0]])
    out = layer(x)
    ((module, inputs, output),) = seen
    assert module is layer and inputs == (x,) and inputs[0] is x and output is out


def test_hooks_may_replace_inputs_and_output_and_gradients_flow_through_them():
    layer = Identity()
    layer.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2.0)
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1.0,))
    layer.register_forward_hook(lambda module, inputs, output: output * 10.0)
    layer.register_forward_hook(lambda module, inputs, output: None)
    x = Tensor([1.0], requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert out.item() == (1 * 2 + 1) * 10 and x.grad.tolist() == [20]


def order(library, x):
    """In which order hooks run, of a model and of the parts in it; one of them leaves."""
    model, seen = library.Sequential(library.Identity(), library.Sequential(library.Identity())), []
    handles = []
    for name, module in model.named_modules():
        for kind in ("first", "second"):
            handles.append(module.register_forward_pre_hook(lambda *_, at=f"{kind} before {name}": seen.append(at)))
            handles.append(module.register_forward_hook(lambda *_, at=f"{kind} after {name}": seen.append(at)))
    model(x)
    handles[0].remove()
    handles[0].remove()
    handles[5].remove()
    model(x)
    return seen


def test_hooks_run_in_the_order_of_pytorch():
    torch = pytest.importorskip("torch")
    found = order(nn, Tensor([1.0]))
    assert found == order(torch.nn, torch.ones(1))


def test_each_handle_removes_its_own_hook():
    layer, seen = Identity(), []

    def hook(*_):
        seen.append("hook")

    first, second = layer.register_forward_hook(hook), layer.register_forward_hook(hook)
    first()
    first.remove()
    layer(1)
    assert seen == ["hook"]
    second.remove()
    with layer.register_forward_pre_hook(hook):
        layer(1)
    layer(1)
    assert seen == ["hook"] * 2
    x = Tensor([1.0], requires_grad=True)
    first, second = (x.register_hook(lambda gradient: 2 * gradient) for _ in range(2))
    first.remove(), first.remove()
    (x * 1.0).sum().backward()
    assert x.grad.tolist() == [2]


def test_a_hook_that_is_no_function_is_refused_when_it_is_registered():
    layer, x = Identity(), Tensor([1.0], requires_grad=True)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook, x.register_hook):
        with pytest.raises(TypeError, match="a hook must be a function, got None"):
            register(None)
    assert layer(1) == 1


def test_a_hook_may_remove_itself_while_it_runs():
    layer, seen = Identity(), []

    def once(*_):
        seen.append(1)
        handle.remove()

    handle = layer.register_forward_hook(once)
    layer.register_forward_hook(lambda *_: seen.append(2))
    layer(1), layer(1)
    assert seen == [1, 2, 2]


def double(module, inputs, output):
    return output * 2.0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_has_the_hooks_and_its_own_list_of_them_as_in_pytorch(duplicate):
    layer = Identity()
    handle = layer.register_forward_hook(double)
    twin = duplicate(layer)
    handle.remove()
    assert layer(Tensor([1.0])).item() == 1 and twin(Tensor([1.0])).item() == 2
    twin.register_forward_hook(double)
    assert layer(Tensor([1.0])).item() == 1 and twin(Tensor([1.0])).item() == 4


def test_keyword_arguments_go_past_the_hooks():
    class Scale(nn.Module):
        def forward(self, x, by=1.0):
            return x * by

    module = Scale()
    module.register_forward_pre_hook(lambda module, inputs: inputs[0] + 1.0)
    assert module(Tensor([1.0]), by=3.0).item() == 6


@pytest.mark.parametrize("path", ["h.1", "h.0.attn.c_attn", "h.1.mlp.c_proj", "h.0.ln_2", "ln_f", "h.0.mlp.dropout"])
def test_every_part_of_gpt_has_hooks_in_training_and_in_generation(path):
    model, seen = GPT(CONFIG).eval(), []
    plain = list(model.generate([1, 2], max_tokens=3, seed=1))
    handle = model.get_submodule(path).register_forward_hook(lambda *_: seen.append(path))
    model.loss([[1, 2, 3]], [[2, 3, 4]]).backward()
    assert seen == [path]
    assert list(model.generate([1, 2], max_tokens=3, seed=1)) == plain and len(seen) == 1 + 3
    handle.remove()
    assert list(model.generate([1, 2], max_tokens=3, seed=1)) == plain and len(seen) == 4


def test_a_hook_that_changes_a_block_changes_what_is_generated():
    model = GPT(CONFIG).eval()
    model.flat_parameters[:] = np.random.default_rng(0).standard_normal(model.num_parameters())
    model.h[1].register_forward_hook(lambda module, inputs, output: output * -1.0)
    tokens = [3, 1]
    for _ in range(4):
        tokens.append(int(model([tokens]).data[0, -1].argmax()))
    assert list(model.generate([3, 1], max_tokens=4, temperature=0)) == tokens[2:]


def test_recomputed_blocks_run_their_hooks_again():
    model, seen = GPT(CONFIG), []
    model.recompute = True
    model.h[0].register_forward_hook(lambda *_: seen.append(1))
    model.loss([[1, 2, 3]], [[2, 3, 4]]).backward()
    assert seen == [1, 1]


def test_sequential_calls_its_parts_with_their_hooks():
    model, shapes = Sequential(Linear(2, 3), Linear(3, 1)), []
    for part in model:
        part.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(Tensor([[1.0, 2.0]]))
    assert shapes == [(1, 3), (1, 1)]
