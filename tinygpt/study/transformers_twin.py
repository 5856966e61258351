"""
The GPT-2 of transformers, for `tinygpt diff kernels transformers`.

transformers is optional; it is imported only for this comparison.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np

from tinygpt.study.trace_result import Result

# The modules of transformers whose output is that of one of tinygpt's operations.
_OPERATIONS = {
    r"wte|wpe": "embedding",
    r"ln_f|h\.\d+\.ln_[12]": "layernorm",
    r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc)": "linear",
    r"h\.\d+\.mlp\.c_proj": "gelu_linear",
}


def trace(model: Any, tokens: np.ndarray, targets: np.ndarray) -> list[Result]:
    """
    The outputs of the modules of a GPT2LMHeadModel with the model's weights, the loss, and all gradients.

    Raises
    ------
    ValueError
        If transformers or PyTorch is not installed.
    """
    try:
        torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    except ImportError:
        raise ValueError('diff: transformers is not installed: pip install "tinygpt[reference]"') from None
    config = transformers.GPT2Config(**model.config.to_dict(), bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict({f"transformer.{k}": torch.tensor(v) for k, v in model.state_dict().items()}, strict=False)
    results: list[Result] = []
    for name, module in theirs.transformer.named_modules():
        op = next((op for pattern, op in _OPERATIONS.items() if re.fullmatch(pattern, name)), None)
        if op:
            module.register_forward_hook(_keeping(results, f"{name}: {op}"))
    logits = theirs(torch.tensor(tokens)).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
    results.append(Result("linear_cross_entropy", "forward", [loss.detach().numpy()]))
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.transformer.named_parameters()}
    return results + [Result(name, "gradient", [gradient]) for name, gradient in gradients.items()]


def _keeping(results: list[Result], where: str) -> Any:
    def keep(module: Any, inputs: Any, out: Any) -> None:
        array = out.detach().numpy()
        array = array[0] if where.startswith("wpe") else array  # the positions are the same for all rows
        results.append(Result(where, "forward", [array]))

    return keep
