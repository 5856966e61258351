"""What tensors and models show of themselves."""

from __future__ import annotations

import re

import numpy as np

from tinygpt import GPT, GPTConfig, Tensor
from tinygpt.autograd.summary import parameter_table
from tinygpt.quantization import quantize_model

CONFIG = GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=4, n_head=2)


def test_a_model_is_a_table_of_its_parameters_in_which_like_layers_are_one_line():
    model = GPT(CONFIG)
    text = repr(model)
    assert text.splitlines()[0] == f"GPT: {model.num_parameters():,} parameters, float32, training"
    for name, parameter in model.named_parameters():
        if not re.match(r"h\.[1-3]\.", name):
            row = next(line.split() for line in text.splitlines()[1:] if line.split()[0] == name)
            assert " ".join(row[1:]).startswith(f"{parameter.shape} {parameter.size:,}")
    assert "h.1 to h.3" in text and "h.2" not in text.replace("h.1 to h.3", "")
    counted = sum(int(row[2].replace(",", "")) for row in parameter_table(model.named_parameters()))
    assert counted == model.num_parameters()


def test_gradients_are_none_then_a_norm_and_frozen_ones_are_not_wanted():
    model, tokens = GPT(CONFIG).eval(), np.array([[1, 2, 3]])
    assert "evaluating" in repr(model) and "norm" not in repr(model)
    model.loss(tokens, tokens).backward()
    norm = np.linalg.norm(model.ln_f.bias.grad)
    assert f"norm {norm:.3g}" in repr(model.ln_f)
    quantize_model(model, "int8")
    assert "not required" in repr(model.ln_f)


def test_html_holds_the_same_and_escapes():
    model = GPT(CONFIG)
    page = model._repr_html_()
    assert page.count("<tr>") == len(parameter_table(model.named_parameters())) + 1 and "h.1 to h.3" in page
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert x._repr_html_() == "<b>Tensor</b> (2,), float32, gradient: none<pre>[1. 2.]</pre>"
    y = (x * x).sum()
    assert "made by sum" in y._repr_html_()
    y.backward()
    assert "gradient: norm 4.47" in x._repr_html_()
    assert "..." in Tensor(np.zeros((100, 100)))._repr_html_()
