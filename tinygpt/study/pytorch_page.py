"""
Make docs/coming_from_pytorch.md from the table of PyTorch's names, runtime/torch_names.py:

    python -m tinygpt.study.pytorch_page > docs/coming_from_pytorch.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tinygpt.runtime.torch_names import ABSENT, DIFFERS, REFUSED, SAME, SCRIPT, WRITE, Row, instead_of

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

Two things to know first. **Arrays are NumPy's**: `Tensor(array)` shares an array's memory, and `x.data` and `w.grad`
are arrays. Everything computes on the CPU, in float32 or float64. **A name or an argument of PyTorch's that is not here
is an error that says what to write**:

```
>>> x.cuda()
AttributeError: {error}
```

So replace the imports, run the script, and follow the errors. Differences without an error come first on this page:

- [What gives something else](#what-gives-something-else), silently
- [The same words with another meaning](#the-same-words-with-another-meaning), an error
- [A script, line by line](#a-script-line-by-line)
- [Write instead](#write-instead)
- [Not here](#not-here)
- [As it is](#as-it-is)

In the tables `x`, `y` and `w` are tensors, `w` requires gradients, `loss` is computed from it; `F` is
`torch.nn.functional` there and `tinygpt.functional` here; `rng` is a generator of NumPy, `np.random.default_rng(seed)`.
Each line is tested; where PyTorch can run it on a CPU, both sides are compared.

## What gives something else

These run as they are typed. The right column gives PyTorch's values.

{differs}

There is no error for these differences either:

- **A weight of `nn.Linear` is (inputs, outputs)**, as GPT-2 stores it; PyTorch's is (outputs, inputs). Transpose what
  you load from PyTorch, a square weight too. `nn.init.kaiming_normal_` counts the inputs accordingly.
  A head that shares the table of embeddings is `F.linear(x, self.wte.weight.T)`, without a layer of its own;
  `self.wte.weight = self.lm_head.weight` gives the table the wrong shape.
- **`x.data` and `w.grad` are arrays**, and an array has no methods of tensors; the error is NumPy's. Write
  `w.data -= lr * w.grad` for a step, `w.grad[...] = 0` for `w.grad.zero_()`, `w.data[...] = x` for `w.data.copy_(x)`,
  `np.linalg.norm(w.grad)` for `w.grad.norm()`, and `array.copy()` for `.clone()`. `state_dict()` holds arrays, too.
- **`x += y` makes a new tensor** and binds `x` to it, and so does `x = x * 2`: another name of the old tensor keeps
  the old values. A parameter of a module is changed through its array, `p.data *= 0.9`; a buffer is set,
  `self.mean = 0.9 * self.mean`. A leaf that requires a gradient is refused, as in PyTorch: write
  `with no_grad(): w -= lr * w.grad`.
- **`GPT`**: `model(tokens)` returns the logits, without a tuple or an object around them; `model.loss(tokens, targets)`
  returns the loss. Neither shifts: `targets[b, t]` is the token that follows `tokens[b, t]`. `model.generate` yields
  the new tokens one by one, without the prompt.
- **Random numbers** are others for the same seed.
- **`tinygpt.load(name)`** loads a model and its tokenizer; what `save_state` wrote is read by `load_state`. Nothing is
  ever unpickled: a file that `torch.save` wrote has to be saved as safetensors first.

## The same words with another meaning

Where NumPy and PyTorch mean different things by one name, `dim`, `keepdim` or PyTorch's order of arguments is an error:

{refused}

## A script, line by line

All that changes in a script of 170 lines for PyTorch, `tests/pytorch_script.py`: attention by hand, SGD, a schedule,
checkpoints. A test runs both sides and compares their losses.

{script}

## Write instead

The functions of `torch` that are here are in `tinygpt.functional`: for `torch.exp(x)` write `F.exp(x)`.

{write}

## Not here

{absent}

## As it is

These expressions give PyTorch's values and gradients.

{same}

`dim` and `keepdim` are other names of `axis` and `keepdims`. `no_grad` may be a block or decorate a function, with
parentheses or without. `model.parameters()` is a list that `next` takes, too. A `Tokenizer` has tiktoken's
methods; for the names of Hugging Face's tokenizers its errors say what to write.
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
    write = "\n\n".join(f"### {title}\n\n{_section(rows)}" for title, rows in WRITE.items())
    return _PAGE.format(
        error=error,
        same=same,
        refused=_table(REFUSED),
        differs=_table(DIFFERS),
        script=_table(SCRIPT),
        write=write,
        absent=_by_note(ABSENT),
    )


def _section(rows: tuple[Row, ...]) -> str:
    """The table of the rows, below the notes that several of them share."""
    counts = Counter(row.note for row in rows if row.note)
    shared = [note for note, count in counts.items() if count > 3]
    said = "".join(f"{note[0].upper()}{note[1:]}.\n\n" for note in shared)
    return said + _table(row._replace(note="") if row.note in shared else row for row in rows)


def _by_note(rows: Iterable[Row]) -> str:
    """A table of the notes, each beside all expressions that it is about."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row.note, []).append(f"`{row.torch}`")
    lines = ["| PyTorch |  |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {', '.join(names)} | {note} |" for note, names in texts.items())])


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
