"""
PyTorch's names, and what to write for them here: a table.

Errors about a missing name or argument are made from it (`instead_of`, `instead_of_argument`), and so is the page
docs/coming_from_pytorch.md; tests run both sides of each row. It is imported when a name is missing, not before.

Throughout the table
    x, y           tensors of one shape, float32           w          another one, which requires gradients
    loss           a scalar that is computed from w        mask       a tensor of bool, of the shape of x
    ids            a tensor of int64, (B, T)               C, T       sizes: of the last axis of x, of that of ids
    model, optimizer, tokenizer, folder    a GPT, an optimizer of its parameters, a Tokenizer, where they are saved
    torch, F, nn, optim    torch, torch.nn.functional, torch.nn, torch.optim; here tinygpt and its modules
    rng                    np.random.default_rng(seed)
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple


class Row(NamedTuple):
    """What is typed with PyTorch, what to write here for the same values, and what else there is to know."""

    torch: str
    here: str
    note: str = ""


ON_CPU = "everything computes on the CPU"
FLOATS = "tensors are float32 or float64"
GENERATOR = "rng is a generator, np.random.default_rng(seed)"
IN_PLACE = "operations do not write into tensors; what changes a parameter writes into its array, x.data"
OF_GPT = "the layers are those that GPT-2 needs; docs/own_operations.md shows how to write another one"

# fmt: off
SAME = {  # what is typed as in PyTorch: the same values, and the same gradients
    "Tensors: arithmetic and elements": (
        "x + 2 * y", "x @ y.T", "x ** 2", "2 ** x", "x % 2", "abs(x)", "x > 0", "x[:, 1:]", "x[mask]", "len(x)",
        "float(x.sum())", "x.add(y)", "x.sub(y)", "x.mul(y)", "x.div(y)", "x.pow(2)", "x.neg()", "x.matmul(y.T)",
        "x.mm(y.T)", "x.exp()", "y.log()", "y.sqrt()", "x.square()", "y.reciprocal()", "x.abs()", "x.cos()",
        "x.tanh()", "x.sigmoid()", "x.relu()", "x.clamp(-1, 1)", "x.clip(min=0)",
    ),
    "Tensors: shapes": (
        "x.shape", "x.ndim", "x.reshape(3, 2)", "x.T", "x.contiguous()",
    ),
    "Tensors: along axes": (
        "x.sum()",
    ),
    "Tensors: values, dtype and device": (
        "x.sum().item()", "x.tolist()", "x.numpy()", "x.detach().cpu().numpy()", "x.cpu()", "x.to('cpu')", "x.to(y)",
        "x.float()", "x.double()", "x.long()", "x.int()", "x.bool()", "torch.Tensor([1.0, 2.0])",
        "isinstance(x, torch.Tensor)",
    ),
    "Gradients": (
        "w.requires_grad", "w.is_leaf", "x.requires_grad_().requires_grad", "loss.backward()",
        "loss.backward(retain_graph=True)", "(w * w).backward(gradient=y)",
        "torch.no_grad()(lambda: (w + 1).requires_grad)()", "torch.no_grad(lambda: (w + 1).requires_grad)()",
    ),
    "Functions": (
        "F.relu(x)", "F.tanh(x)", "F.sigmoid(x)", "F.silu(x)", "F.softplus(x)", "F.gelu(x, approximate='tanh')",
        "F.embedding(ids, weight)", "F.layer_norm(x, (3,), y[0], y[1])", "F.cross_entropy(x, targets)",
        "F.cross_entropy(x, targets, ignore_index=0)", "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
    ),
    "Modules and optimizers": (
        "torch.manual_seed(0)", "nn.Linear(3, 4)(x).shape", "nn.Embedding(10, 3)(ids).shape", "nn.LayerNorm(3)(x)",
        "nn.Sequential(nn.LayerNorm(3), nn.ReLU())(x)", "nn.Softmax(dim=-1)(x)", "nn.Tanh()(x)", "nn.Flatten()(q)",
        "optim.AdamW([w], lr=0.1)",
    ),
}

DIFFERS = (  # what runs as it is typed, and gives something else
    Row("F.linear(x, square, y[0])", "F.linear(x, square.T, y[0])",
        "a weight is (inputs, outputs), as GPT-2 stores it; a shape that fits only transposed is an error"),
    Row("nn.Linear(3, 4).weight.shape", "nn.Linear(3, 4).weight.T.shape", "(inputs, outputs), too"),
    Row("F.gelu(x)", "", "the form with tanh, GPT-2's; PyTorch's default has erf, and differs by up to 5e-4"),
    Row("optim.AdamW([bias], lr=0.1, weight_decay=0.5)",
        "optim.AdamW([{'params': [bias], 'weight_decay': 0.5}], lr=0.1)",
        "biases and norms are not decayed, unless a group says so"),
)

WRITE: dict[str, tuple[Row, ...]] = {  # what is an error that says what to write
    "Tensors: device and dtype": (
        Row("x.cuda()", "x", ON_CPU),
        Row("x.to('cuda')", "x", ON_CPU),
        Row("x.pin_memory()", "x", ON_CPU),
        Row("x.is_cuda", "False", ON_CPU),
        Row("x.half()", "x.float()", FLOATS),
        Row("x.bfloat16()", "x.float()", FLOATS),
        Row("x.type(torch.float64)", "x.astype(np.float64)"),
        Row("x.type_as(y)", "x.astype(y.dtype)"),
        Row("x.is_floating_point()", "x.dtype.kind == 'f'"),
        Row("torch.device('cpu')", "'cpu'", ON_CPU),
        Row("torch.cuda.is_available()", "False", ON_CPU),
        Row("torch.float32", "np.float32"),
        Row("torch.float64", "np.float64"),
        Row("torch.float", "np.float32"),
        Row("torch.double", "np.float64"),
        Row("torch.long", "np.int64"),
        Row("torch.int64", "np.int64"),
        Row("torch.int32", "np.int32"),
        Row("torch.bool", "np.bool_"),
        Row("torch.bfloat16", "np.float32", FLOATS),
        Row("torch.float16", "np.float32", FLOATS),
        Row("torch.finfo(torch.float32).max", "np.finfo(np.float32).max"),
    ),
    "Tensors: made": (
        Row("torch.tensor([1.0, 2.0])", "Tensor([1.0, 2.0])", "an array of NumPy is not copied"),
        Row("torch.as_tensor([1, 2])", "Tensor([1, 2])"),
        Row("torch.from_numpy(array)", "Tensor(array)"),
        Row("torch.FloatTensor([1.0, 2.0])", "Tensor([1.0, 2.0])"),
        Row("torch.LongTensor([1, 2])", "Tensor([1, 2])"),
        Row("torch.zeros(2, 3)", "Tensor(np.zeros((2, 3), np.float32))"),
        Row("torch.ones(2, 3)", "Tensor(np.ones((2, 3), np.float32))"),
        Row("torch.full((2, 3), 7.0)", "Tensor(np.full((2, 3), 7.0, np.float32))"),
        Row("torch.empty(2, 3)", "Tensor(np.empty((2, 3), np.float32))"),
        Row("torch.eye(3)", "Tensor(np.eye(3, dtype=np.float32))"),
        Row("torch.arange(5)", "Tensor(np.arange(5))"),
        Row("torch.linspace(0, 1, 5)", "Tensor(np.linspace(0, 1, 5, dtype=np.float32))"),
        Row("torch.zeros_like(x)", "Tensor(np.zeros_like(x.data))"),
        Row("torch.ones_like(x)", "Tensor(np.ones_like(x.data))"),
        Row("torch.full_like(x, 7.0)", "Tensor(np.full_like(x.data, 7.0))"),
        Row("torch.Generator()", "np.random.default_rng()", GENERATOR),
        Row("torch.rand(2, 3)", "Tensor(rng.random((2, 3), np.float32))", GENERATOR),
        Row("torch.randn(2, 3)", "Tensor(rng.standard_normal((2, 3), np.float32))", GENERATOR),
        Row("torch.rand_like(x)", "Tensor(rng.random(x.shape, x.dtype))", GENERATOR),
        Row("torch.randn_like(x)", "Tensor(rng.standard_normal(x.shape, x.dtype))", GENERATOR),
        Row("torch.normal(0.0, 1.0, (2, 3))", "Tensor(rng.standard_normal((2, 3), np.float32))", GENERATOR),
        Row("torch.randint(0, 5, (2, 3))", "Tensor(rng.integers(0, 5, (2, 3)))", GENERATOR),
        Row("torch.randperm(5)", "Tensor(rng.permutation(5))", GENERATOR),
        Row("torch.multinomial(p, 1)", "Tensor(rng.choice(len(p), size=1, p=p.numpy()))", GENERATOR),
    ),
    "Tensors: shapes and elements": (
        Row("x.numel()", "x.data.size"),
        Row("x.nelement()", "x.data.size"),
        Row("x.dim()", "x.ndim"),
        Row("x.is_contiguous()", "x.data.flags.c_contiguous"),
        Row("x.t()", "x.T"),
        Row("x.mT", "x.swapaxes(-1, -2)"),
        Row("x.unsqueeze(0)", "x.expand_dims(0)"),
        Row("x.movedim(0, 1)", "x.swapaxes(0, 1)", "or x.permute with all axes in their new order"),
        Row("x.view_as(y)", "x.reshape(y.shape)"),
        Row("x.expand(2, 2, 3)", "x.broadcast_to((2, 2, 3))"),
        Row("x.expand_as(y)", "x.broadcast_to(y.shape)"),
        Row("x.repeat(2, 1)", "F.concatenate([x, x], axis=0)"),
        Row("x.repeat_interleave(2, dim=0)", "x[np.repeat(np.arange(len(x)), 2)]"),
        Row("x.split(1, dim=1)", "[x[:, i : i + 1] for i in range(x.shape[1])]"),
        Row("x.chunk(3, dim=1)", "[x[:, i : i + 1] for i in range(3)]"),
        Row("x.unbind(0)", "list(x)"),
        Row("x.select(1, 0)", "x[:, 0]"),
        Row("x.narrow(1, 0, 2)", "x[:, 0:2]"),
        Row("x.index_select(1, targets)", "x[:, targets]"),
        Row("x.gather(1, targets[:, None])", "x[np.arange(2)[:, None], targets[:, None]]"),
        Row("x.masked_fill(mask, 0.0)", "F.where(mask, 0.0, x)"),
        Row("x.masked_select(mask)", "x[mask]"),
        Row("x.tril()", "x * np.tril(np.ones((2, 3), np.float32))"),
        Row("x.triu()", "x * np.triu(np.ones((2, 3), np.float32))"),
        Row("torch.cat([x, y], dim=1)", "F.concatenate([x, y], axis=1)"),
        Row("torch.stack([x, y])", "F.stack([x, y])"),
        Row("torch.where(mask, x, y)", "F.where(mask, x, y)"),
        Row("torch.flatten(x)", "x.reshape(-1)"),
        Row("torch.transpose(x, 0, 1)", "x.swapaxes(0, 1)"),
        Row("torch.tril(x)", "x * np.tril(np.ones((2, 3), np.float32))"),
        Row("torch.triu(x)", "x * np.triu(np.ones((2, 3), np.float32))"),
        Row("torch.numel(x)", "x.data.size"),
        Row("torch.is_tensor(x)", "isinstance(x, Tensor)"),
    ),
    "Tensors: computed": (
        Row("y.rsqrt()", "1 / y.sqrt()"),
        Row("q.bmm(k)", "q @ k"),
        Row("x[0].dot(y[0])", "x[0] @ y[0]"),
        Row("x.std(dim=1)", "x.var(axis=1, ddof=1).sqrt()"),
        Row("x.amax(dim=1)", "x.max(axis=1)"),
        Row("x.amin(dim=1)", "x.min(axis=1)"),
        Row("x.argmax(dim=1)", "Tensor(np.argmax(x, axis=1))"),
        Row("x.argmin(dim=1)", "Tensor(np.argmin(x, axis=1))"),
        Row("x.argsort(dim=1)", "Tensor(np.argsort(x, axis=1))"),
        Row("x.logsumexp(dim=1)", "(x[:, 0] - x.log_softmax(axis=1)[:, 0])", "log_softmax is x minus it"),
        Row("x.all()", "Tensor(np.all(x))"),
        Row("x.any()", "Tensor(np.any(x))"),
        Row("x.nonzero()", "Tensor(np.argwhere(x))"),
        Row("x.isnan()", "Tensor(np.isnan(x))"),
        Row("x.isfinite()", "Tensor(np.isfinite(x))"),
        Row("x.eq(y)", "x == y"),
        Row("x.ne(y)", "x != y"),
        Row("x.lt(y)", "x < y"),
        Row("x.gt(y)", "x > y"),
        Row("torch.matmul(x, y.T)", "x @ y.T"),
        Row("torch.mm(x, y.T)", "x @ y.T"),
        Row("torch.bmm(q, k)", "q @ k"),
        Row("torch.exp(x)", "F.exp(x)"),
        Row("torch.log(y)", "F.log(y)"),
        Row("torch.sqrt(y)", "F.sqrt(y)"),
        Row("torch.tanh(x)", "F.tanh(x)"),
        Row("torch.relu(x)", "F.relu(x)"),
        Row("torch.sigmoid(x)", "F.sigmoid(x)"),
        Row("torch.abs(x)", "abs(x)"),
        Row("torch.pow(x, 2)", "x ** 2"),
        Row("torch.clamp(x, -1, 1)", "F.clip(x, -1, 1)"),
        Row("torch.maximum(x, y)", "F.maximum(x, y)"),
        Row("torch.softmax(x, dim=-1)", "F.softmax(x, axis=-1)"),
        Row("torch.sum(x, dim=1)", "x.sum(axis=1)"),
        Row("torch.mean(x)", "x.mean()"),
        Row("torch.max(x)", "x.max()"),
        Row("torch.argmax(x, dim=1)", "Tensor(np.argmax(x, axis=1))"),
        Row("torch.allclose(x, x)", "np.allclose(x, x)"),
        Row("torch.equal(x, y)", "np.array_equal(x, y)"),
        Row("torch.isnan(x)", "Tensor(np.isnan(x))"),
    ),
    "In place, and gradients": (
        Row("x.add_(y)", "x = x + y", IN_PLACE),
        Row("x.sub_(y)", "x = x - y", IN_PLACE),
        Row("x.mul_(2)", "x = x * 2", IN_PLACE),
        Row("x.div_(2)", "x = x / 2", IN_PLACE),
        Row("x.zero_()", "x.data.fill(0)", IN_PLACE),
        Row("x.fill_(2.0)", "x.data.fill(2.0)", IN_PLACE),
        Row("x.copy_(y)", "x.data[...] = y", IN_PLACE),
        Row("x.clamp_(-1, 1)", "x = x.clamp(-1, 1)", IN_PLACE),
        Row("x.masked_fill_(mask, 0.0)", "x = F.where(mask, 0.0, x)", IN_PLACE),
        Row("x.normal_(0.0, 0.02)", "x.data[...] = 0.02 * rng.standard_normal(x.shape)", GENERATOR),
        Row("x.uniform_(-1, 1)", "x.data[...] = rng.uniform(-1, 1, x.shape)", GENERATOR),
        Row("w.grad_fn", "None if w.is_leaf else w.node.op"),
        Row("loss.backward(create_graph=True)", "loss.backward()", "gradients of gradients are not computed"),
        Row("loss.backward(inputs=[w])", "loss.backward()", "every leaf that requires gradients gets its own"),
        Row("torch.autograd.grad(loss, [w])[0]", "loss.backward(); Tensor(w.grad)"),
        Row("torch.inference_mode()", "no_grad()"),
        Row("torch.set_grad_enabled(False)", "no_grad()"),
    ),
    "Functions": (
        Row("F.dropout(x, 0.5, training=False)", "x", "in training write F.dropout(x, 0.5, seed)"),
        Row("F.one_hot(ids, 5)", "Tensor(np.eye(5, dtype=np.int64)[ids.numpy()])"),
        Row("F.mse_loss(x, y)", "((x - y) ** 2).mean()"),
        Row("F.l1_loss(x, y)", "abs(x - y).mean()"),
        Row("F.nll_loss(x, targets)", "-x[np.arange(len(x)), targets].mean()"),
        Row("F.binary_cross_entropy(p, target)", "-(target * F.log(p) + (1 - target) * F.log(1 - p)).mean()"),
        Row("F.cross_entropy(x, targets, reduction='none')", "-x.log_softmax()[np.arange(len(x)), targets]"),
        Row("F.cross_entropy(x, targets, label_smoothing=0.1)",
            "0.9 * F.cross_entropy(x, targets) - 0.1 * x.log_softmax().mean()"),
        Row("F.normalize(x, dim=1)", "x / (x * x).sum(axis=1, keepdims=True).sqrt()"),
        Row("F.logsigmoid(x)", "-F.log(1 + F.exp(-x))"),
        Row("F.leaky_relu(x)", "F.where(x > 0, x, 0.01 * x)"),
        Row("nn.functional.relu(x)", "F.relu(x)", "import tinygpt.functional as F"),
    ),
    "Modules and optimizers": (
        Row("nn.CrossEntropyLoss()(x, targets)", "F.cross_entropy(x, targets)"),
        Row("nn.MSELoss()(x, y)", "((x - y) ** 2).mean()"),
        Row("nn.BCELoss()(p, target)", "-(target * F.log(p) + (1 - target) * F.log(1 - p)).mean()"),
        Row("nn.Sigmoid()(x)", "F.sigmoid(x)"),
        Row("nn.init.zeros_(w)", "w.data.fill(0); w"),
        Row("nn.utils.clip_grad_norm_([w], 1.0)", "tinygpt.clip_grad_norm([w], 1.0)"),
        Row("model.cuda()", "model", ON_CPU),
        Row("model.to('cuda')", "model", ON_CPU),
        Row("model.half()", "GPT.from_pretrained(folder, weights='bfloat16')", "for generation"),
        Row("model.get_num_params()", "model.num_parameters()"),
        Row("model.configure_optimizers(0.1, 1e-3)", "optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)"),
        Row("model(ids).logits", "model(ids)"),
        Row("model(ids, labels=ids).loss", "model.loss(ids[:, :-1], ids[:, 1:])", "the caller shifts the targets"),
        Row("model(ids, attention_mask=ids)", "model(ids)", "texts of one batch have one length"),
        Row("model.transformer.h[0]", "model.h[0]", "the names are GPT-2's, without the prefix"),
        Row("model.lm_head.weight", "model.wte.weight", "the head shares the table of embeddings"),
    ),
    "Generation, models and tokenizers of other programs": (
        Row("model.generate(ids, do_sample=False)", "model.generate(ids[0], temperature=0)", "it samples by default"),
        Row("model.generate(ids, num_return_sequences=2)", "generate_batch(model, [ids[0], ids[0]])"),
        Row("model.generate(ids, eos_token_id=3)", "model.generate(ids[0], stop_ids=[3])"),
        Row("model.generate(ids, num_beams=4)", "model.generate(ids[0])", "there is no beam search"),
        Row("transformers.GPT2LMHeadModel.from_pretrained(folder)", "GPT.from_pretrained(folder)"),
        Row("transformers.AutoModelForCausalLM.from_pretrained(folder)", "GPT.from_pretrained(folder)"),
        Row("transformers.GPT2Config()", "GPTConfig()"),
        Row("transformers.AutoTokenizer.from_pretrained(folder)", "Tokenizer.from_pretrained(folder)"),
        Row("transformers.GPT2Tokenizer.from_pretrained(folder)", "Tokenizer.from_pretrained(folder)"),
        Row("GPT.from_pretrained(folder, torch_dtype='auto')", "GPT.from_pretrained(folder)", FLOATS),
        Row("GPT.from_pretrained(folder, device_map='auto')", "GPT.from_pretrained(folder)", ON_CPU),
    ),
}
# fmt: on

ABSENT = (  # what nothing here does, and why
    Row("x.erf()", "", "GPT-2 has no erf; docs/own_operations.md shows how to write it"),
    Row("torch.autocast('cpu')", "", "everything computes in float32; leave it out"),
    Row("torch.amp.GradScaler()", "", "everything computes in float32; leave it out"),
    Row("torch.backends.mps.is_available()", "", ON_CPU),
    Row("torch.compile(model)", "", "kernels are compiled when they first run; leave it out"),
    Row("torch.jit.script(model)", "", "kernels are compiled when they first run; leave it out"),
    Row("torch.distributed.init_process_group()", "", "one process trains; its kernels use all cores"),
    Row("torch.utils.data.DataLoader(dataset)", "", "a batch is rows of an array: x[rng.integers(0, len(x), 8)]"),
    Row(
        "torch.save(model.state_dict(), folder)",
        "",
        "write model.save_pretrained(folder): it saves safetensors",
    ),
    Row("torch.enable_grad()", "", "gradients are recorded wherever no_grad() does not hold; leave it out"),
    Row("torch.vmap(function)", "", "operations take any leading axes"),
    Row("nn.Conv1d(3, 4, 1)", "", OF_GPT),
    Row("nn.Conv2d(3, 4, 1)", "", OF_GPT),
    Row("nn.BatchNorm1d(3)", "", OF_GPT),
    Row("nn.MultiheadAttention(4, 2)", "", "F.attention(qkv, n_head) between two nn.Linear does it"),
    Row("nn.LSTM(3, 4)", "", OF_GPT),
    Row("nn.GRU(3, 4)", "", OF_GPT),
    Row("nn.RNN(3, 4)", "", OF_GPT),
    Row("nn.TransformerEncoderLayer(4, 2)", "", "tinygpt.gpt2.model.Block is GPT-2's layer"),
    Row("nn.Transformer()", "", "tinygpt.GPT is the whole model"),
    Row("nn.DataParallel(model)", "", "one process trains; its kernels use all cores"),
    Row("F.conv2d(q, k)", "", OF_GPT),
    Row("F.max_pool2d(q, 2)", "", OF_GPT),
    Row("optim.RMSprop([w])", "", "write optim.Adam(parameters, betas=(0.0, 0.99))"),
    Row("optim.Adagrad([w])", "", "write optim.Adam(parameters)"),
    Row("optim.LBFGS([w])", "", "write optim.Adam(parameters)"),
)

_OWNERS = {  # the object, or the module of ours, that has the attributes of a name in the table
    "torch": "tinygpt",
    "torch.autograd": "tinygpt.autograd",
    "transformers": "tinygpt",
    "F": "tinygpt.functional",
    "nn": "tinygpt.nn",
    "optim": "tinygpt.optim",
    "model": "Module",
    "tokenizer": "Tokenizer",
}
_CALLED = {"forward": "model", "generate_batch": "generate"}  # as the table calls these functions


def missing(module: str, name: str) -> AttributeError:
    """
    The error for an attribute that a module lacks.

    Examples
    --------
    >>> print(missing("tinygpt", "cuda"))
    module 'tinygpt' has no attribute 'cuda': for torch.cuda.is_available() write False; everything computes on the CPU
    """
    remedy = instead_of(module, name)
    text = f"module {module!r} has no attribute {name!r}{remedy}"
    return AttributeError(text) if remedy else AttributeError(text, name=name, obj=sys.modules[module])


def instead_of(owner: str, name: str) -> str:
    """
    What to write for an attribute that is missing, to be put behind the words of the error; empty if nobody knows.

    Parameters
    ----------
    owner : str
        "Tensor", "Module", or the full name of a module.
    name : str

    Examples
    --------
    >>> instead_of("Tensor", "cuda")
    ': for x.cuda() write x; everything computes on the CPU'
    >>> instead_of("Tensor", "shapee")
    ''
    """
    return _sentence(_attributes().get((owner, name)))


def instead_of_argument(function: str, name: str) -> str:
    """
    What to write for a keyword argument that is missing, as `instead_of` does.

    Examples
    --------
    >>> instead_of_argument("backward", "create_graph")
    ': for loss.backward(create_graph=True) write loss.backward(); gradients of gradients are not computed'
    """
    return _sentence(_arguments().get((_CALLED.get(function, function), name)))


def _sentence(row: Row | None) -> str:
    if row is None:
        return ""
    write = f"for {row.torch} write {row.here}" if row.here else ""
    return ": " + "; ".join(part for part in (write, row.note) if part)


@cache
def _attributes() -> dict[tuple[str, str], Row]:
    """The row of each attribute that the table's expressions have; the first one, if there are several."""
    found: dict[tuple[str, str], Row] = {}
    for row, node in _nodes():
        if isinstance(node, ast.Attribute):
            found.setdefault((_OWNERS.get(ast.unparse(node.value), "Tensor"), node.attr), row)
    return found


@cache
def _arguments() -> dict[tuple[str, str], Row]:
    """The row of each keyword argument, by the function's name and its own."""
    found: dict[tuple[str, str], Row] = {}
    for row, node in _nodes():
        if isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            for keyword in node.keywords:
                found.setdefault((function, keyword.arg or ""), row)
    return found


def _nodes() -> Iterator[tuple[Row, ast.AST]]:
    """The attributes and calls of each expression, the last one first; not those inside the arguments."""
    for row in (*(row for rows in WRITE.values() for row in rows), *ABSENT, *DIFFERS):
        node: ast.AST | None = ast.parse(row.torch, mode="eval").body
        while node is not None:
            yield row, node
            node = getattr(node, "func", getattr(node, "value", None))
