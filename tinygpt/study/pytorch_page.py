"""
Make docs/coming_from_pytorch.md from the table of PyTorch's names, runtime/torch_names.py:

    python -m tinygpt.study.pytorch_page > docs/coming_from_pytorch.md
"""

from __future__ import annotations

from collections.abc import Iterable

from tinygpt.runtime.torch_names import ABSENT, DIFFERS, REFUSED, SAME, WRITE, Row, instead_of

_PAGE = """\
# Coming from PyTorch

<!-- Made by tinygpt/study/pytorch_page.py from tinygpt/runtime/torch_names.py: do not edit. -->

A training loop is the one that you know:

```python
import numpy as np
import tinygpt.functional as F
from tinygpt import Tensor, nn, no_grad, optim

rng = np.random.default_rng(0)
x = Tensor(rng.standard_normal((64, 8), np.float32))
targets = x.data.argmax(axis=1)

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
optimizer = optim.AdamW(model.parameters(), lr=1e-2)
for step in range(100):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), targets)
    loss.backward()
    optimizer.step()

with no_grad():
    right = model(x).data.argmax(axis=1) == targets
print(f"loss {{loss:.3f}}, {{right.mean():.0%}} right")
```

Arrays are NumPy's: `Tensor(array)` shares an array's memory, `np.asarray(tensor)` gives it back, and NumPy's functions
take tensors. Everything computes on the CPU, in float32 or float64. A name or an argument that is not here is an error
that says what to write:

```
>>> x.cuda()
AttributeError: {error}
```

Each line below is tested; where PyTorch can run it on a CPU, both sides are compared. In them `x`, `y` and `w` are
tensors, `w` requires gradients, `loss` is computed from it; `F` is `torch.nn.functional` there and `tinygpt.functional`
here; `rng` is a generator of NumPy.

- [As it is](#as-it-is)
- [The same words with another meaning](#the-same-words-with-another-meaning)
- [Write instead](#write-instead)
- [Not here](#not-here)

## As it is

These expressions give PyTorch's values and gradients.

{same}

`dim` and `keepdim` are other names of `axis` and `keepdims`. `no_grad` may be a block or decorate a function, with
parentheses or without. `model.generate(ids, max_new_tokens=100)` takes the argument by its name in transformers, and
yields the new ids one by one. A `Tokenizer` has tiktoken's methods; for the names of Hugging Face's tokenizers its
errors say what to write.

## The same words with another meaning

Where NumPy and PyTorch mean different things by one name, `dim` or PyTorch's order of arguments is an error:

{refused}

These run, and give something else:

{differs}

The right column gives PyTorch's values.

There is no error for these differences either:

- `x.data` and `w.grad` are arrays of NumPy, not tensors. `w.data -= lr * w.grad` is a step, as in PyTorch.
  `w.grad = None` forgets the gradient, and `w.grad[...] = 0` sets it to zero.
- `x += y` makes a new tensor and binds `x` to it. No operation writes into a tensor, so none makes a gradient wrong.
  A leaf that requires a gradient is refused, as in PyTorch: write `with no_grad(): w -= lr * w.grad`.
- `model(tokens)` returns the logits, without a tuple or an object around them; `model.loss(tokens, targets)` returns
  the loss. Neither shifts: `targets[b, t]` is the token that follows `tokens[b, t]`.
- `model.parameters()` is a list: write `next(iter(model.parameters()))`.
- `model.generate` yields new tokens only, not the prompt.
- `tinygpt.load(name)` loads a model and its tokenizer; what `save_state` wrote is read by `load_state`. Nothing is ever
  unpickled: a file that `torch.save` wrote has to be saved as safetensors first.

## Write instead

The functions of `torch` that are here are in `tinygpt.functional`: for `torch.exp(x)` write `F.exp(x)`.

{write}

## Not here

{absent}
"""


def page() -> str:
    """
    The page, as Markdown.

    Examples
    --------
    >>> page().splitlines()[0]
    '# Coming from PyTorch'
    """
    error = f"'Tensor' object has no attribute 'cuda'{instead_of('Tensor', 'cuda')}"
    same = "\n".join(f"- **{title}**: {', '.join(f'`{text}`' for text in texts)}" for title, texts in SAME.items())
    write = "\n\n".join(f"### {title}\n\n{_table(rows)}" for title, rows in WRITE.items())
    return _PAGE.format(
        error=error, same=same, refused=_table(REFUSED), differs=_table(DIFFERS), write=write, absent=_table(ABSENT)
    )


def _table(rows: Iterable[Row]) -> str:
    """The columns that any of the rows fills."""
    lines = [
        ("PyTorch", "here", ""),
        *((f"`{row.torch}`", f"`{row.here}`" if row.here else "", row.note) for row in rows),
    ]
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    head, *body = zip(*columns, strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


if __name__ == "__main__":
    print(page(), end="")
