"""
PyTorch's names, and what to write for them here: a table.

Errors about a missing name or argument are made from it (`instead_of`, `instead_of_argument`), and so is the page
docs/coming_from_pytorch.md; tests run both sides of each row. It is imported when a name is missing, not before.

Throughout the table
    x, y        tensors (2, 3) of float32      w        another one, which requires gradients
    q, k, v     tensors (2, 3, 3)              loss     a scalar that is computed from w
    p           probabilities                  mask     a tensor of bool, of the shape of x
    array       an array of NumPy              ids, targets      tensors of int64
    weight, square, bias     parameters        model, folder, path     a GPT, and where to save
    rng         np.random.default_rng(seed)    torch, F, nn, optim      torch, torch.nn.functional, torch.nn and
                                               torch.optim; here tinygpt and its modules
"""

from __future__ import annotations

import ast
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
GENERATOR = "`rng` is a generator, np.random.default_rng(seed)"
IN_PLACE = "operations do not write into tensors; what changes a parameter writes into its array, x.data"
OPTIMIZERS = "the optimizers are SGD, Adam and AdamW"
LAMBDA = "LambdaLR takes the rate as a function of the step"
OF_GPT = "the layers are those that GPT-2 needs; docs/own_operations.md shows how to write another one"

# fmt: off
SAME = {  # what is typed as in PyTorch: the same values, and the same gradients
    "Tensors: arithmetic and elements": (
        "x + 2 * y", "x @ y.T", "x ** 2", "2 ** x", "x % 2", "abs(x)", "x > 0", "x[:, 1:]", "x[mask]", "len(x)",
        "float(x.sum())", "x.add(y)", "x.sub(y)", "x.mul(y)", "x.div(y)", "x.pow(2)", "x.neg()", "x.matmul(y.T)",
        "x.mm(y.T)", "x.exp()", "y.log()", "y.sqrt()", "x.square()", "y.reciprocal()", "x.abs()", "x.cos()",
        "x.tanh()", "x.sigmoid()", "x.relu()", "x.clamp(-1, 1)", "x.clip(min=0)", "x[0].dot(y[0])",
        "x.masked_fill(mask, 0.0)", "x.index_select(1, targets)", "x.gather(1, targets[:, None])",
    ),
    "Tensors: shapes": (
        "x.shape", "x.ndim", "x.size()", "x.size(-1)", "x.reshape(3, 2)", "x.view(3, 2)", "x.view(-1)", "x.flatten()",
        "x.permute(1, 0)", "q.transpose(1, 2)", "q.transpose(-2, -1)", "x.T",
        "x.contiguous()", "x.mT", "x.unsqueeze(0)", "x.expand(2, 2, 3)",
        "x.repeat_interleave(2, dim=0)", "x.split(1, dim=1)", "x.chunk(3, dim=1)", "x.unbind(0)", "x.tril()",
        "x.triu()", "x.numel()", "x.dim()", "x.flip(0)", "x.unsqueeze(dim=1)", "x.permute((1, 0))", "x.squeeze()",
        "square.trace()",
    ),
    "Tensors: along axes": (
        "x.sum()", "x.sum(dim=1, keepdim=True)", "x.mean(dim=-1)", "x.softmax(dim=-1)", "x.log_softmax(dim=-1)",
        "x.norm()", "x.amax(dim=1)", "x.amin(dim=1)", "x.argmax(dim=1)", "x.argsort(dim=1)", "x.topk(2)[0]",
        "x.sort(dim=1)[0]", "x.cumsum(dim=1)", "x.prod(dim=1)", "x.logsumexp(dim=1)", "x.var(dim=1, correction=1)",
        "x.std(dim=1, correction=1)", "x.all()", "x.any()", "x.mean((0, 1))", "x.max()", "x.var(unbiased=False)",
    ),
    "Tensors: values, dtype and device": (
        "x.sum().item()", "x.tolist()", "x.numpy()", "x.clone()", "x.detach().cpu().numpy()", "x.cpu()", "x.to('cpu')",
        "x.to(y)",
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
        "F.leaky_relu(x)", "F.leaky_relu(x, negative_slope=0.2)", "F.relu6(x)",
        "F.softmax(x, dim=-1)", "F.log_softmax(x, dim=-1)", "F.embedding(ids, weight)",
        "F.layer_norm(x, (3,), y[0], y[1])", "F.cross_entropy(x, targets)",
        "F.cross_entropy(x, targets, ignore_index=0)", "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        "F.cross_entropy(x, targets, reduction='none')", "F.mse_loss(x, y)", "F.l1_loss(x, y)",
        "F.nll_loss(x, targets)",
    ),
    "Modules and optimizers": (
        "torch.manual_seed(0)", "nn.Linear(3, 4)(x).shape", "nn.Embedding(10, 3)(ids).shape", "nn.LayerNorm(3)(x)",
        "nn.Sequential(nn.LayerNorm(3), nn.ReLU())(x)", "nn.Softmax(dim=-1)(x)", "nn.Tanh()(x)", "nn.Flatten()(q)",
        "nn.functional.relu(x)", "nn.Sigmoid()(x)", "nn.CrossEntropyLoss()(x, targets)", "nn.MSELoss()(x, y)",
        "nn.Linear(3, 4).zero_grad(set_to_none=True)", "nn.Linear(3, 4).in_features",
        "nn.GELU(approximate='tanh')(x)", "nn.Dropout(0.1).eval()(x)",
        "optim.SGD([w], lr=0.1, momentum=0.9, nesterov=True)", "optim.Adam([w], lr=0.1)", "optim.AdamW([w], lr=0.1)",
        "optim.AdamW([w]).zero_grad(set_to_none=True)", "optim.AdamW([w]).param_groups[0]['lr']",
        "nn.init.zeros_(w)", "nn.init.ones_(w)", "nn.init.constant_(w, 0.5)", "nn.init.normal_(w, std=0.02).shape",
        "nn.init.uniform_(w, -1, 1).shape", "nn.init.xavier_uniform_(weight).shape",
        "nn.init.kaiming_normal_(weight, nonlinearity='relu').shape", "next(nn.Linear(3, 4).parameters()).dtype",
        "optim.lr_scheduler.StepLR(optim.SGD([w], lr=0.1), 2).get_last_lr()",
        "optim.lr_scheduler.CosineAnnealingLR(optim.SGD([w], lr=0.1), 9).get_last_lr()",
    ),
}

REFUSED = (  # what is typed as in PyTorch where NumPy means something else: errors of the functions themselves
    Row("x.max(dim=1)[0]", "x.amax(dim=1)", "`max` returns the values alone"),
    Row("x.max(dim=1)[1]", "x.argmax(dim=1)", "`max` returns the values alone"),
    Row("x.min(dim=1)[0]", "x.amin(dim=1)", "`min` returns the values alone"),
    Row("x.var(dim=1)", "x.var(dim=1, correction=1)", "NumPy divides by n, PyTorch by n - 1"),
    Row("x.std(dim=1)", "x.std(dim=1, correction=1)", "NumPy divides by n, PyTorch by n - 1"),
    Row("x.std(0, keepdim=True)", "x.std(0, keepdim=True, correction=1)", "NumPy divides by n, PyTorch by n - 1"),
    Row("x.max(1, keepdim=True)[0]", "x.amax(1, keepdim=True)", "`max` returns the values alone"),
    Row("x.transpose(0, 1)", "x.swapaxes(0, 1)", "of a matrix, it is NumPy's order of all axes, which changes nothing"),
    Row("x.repeat(2, 1)", "x.tile((2, 1))", "NumPy repeats each value"),
    Row("F.pad(x, (1, 1))", "F.pad(x, ((0, 0), (1, 1)))", "a pair for each axis, as in NumPy"),
    Row("F.linear(x, weight)", "F.linear(x, weight.T)", "a weight is (inputs, outputs), as GPT-2 stores it"),
)

DIFFERS = (  # what runs as it is typed, and gives something else
    Row("x.var()", "x.var(correction=1)", "NumPy divides by n, PyTorch by n - 1"),
    Row("x.std()", "x.std(correction=1)", "NumPy divides by n, PyTorch by n - 1"),
    Row("x.var(0)", "x.var(0, correction=1)", "without `dim` and `keepdim` it is NumPy's"),
    Row("x.max(1)[1]", "x.argmax(1)", "`max` returns the values alone: `values, indices = x.max(1)` does not unpack"),
    Row("F.linear(x, square)", "F.linear(x, square.T)", "a square weight fits both ways"),
    Row("nn.Linear(3, 4).weight.shape", "nn.Linear(3, 4).weight.T.shape", "(inputs, outputs), too"),
    Row("F.gelu(x)", "", "the form with tanh, GPT-2's; PyTorch's default has erf, and differs by up to 5e-4"),
    Row("optim.AdamW([bias], lr=0.1, weight_decay=0.5)",
        "optim.AdamW([bias], lr=0.1, weight_decay=0.5, decay_vectors=True)",
        "biases and norms are not decayed by default"),
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
        Row("torch.uint8", "np.uint8"),
        Row("torch.int", "np.int32"),
        Row("torch.half", "np.float32", FLOATS),
        Row("torch.bfloat16", "np.float32", FLOATS),
        Row("torch.float16", "np.float32", FLOATS),
        Row("torch.finfo(torch.float32).max", "np.finfo(np.float32).max"),
    ),
    "Tensors: made": (
        Row("torch.tensor([1.0, 2.0])", "Tensor([1.0, 2.0])", "an array of NumPy is not copied"),
        Row("torch.Tensor([1.0, 2.0], device='cpu')", "Tensor([1.0, 2.0])", ON_CPU),
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
        Row("torch.empty_like(x)", "Tensor(np.empty_like(x.data))"),
        Row("x.new_zeros(2, 3)", "Tensor(np.zeros((2, 3), x.dtype))"),
        Row("torch.Generator()", "np.random.default_rng()", GENERATOR),
        Row("torch.rand(2, 3)", "Tensor(rng.random((2, 3), np.float32))", GENERATOR),
        Row("torch.randn(2, 3)", "Tensor(rng.standard_normal((2, 3), np.float32))", GENERATOR),
        Row("torch.rand_like(x)", "Tensor(rng.random(x.shape, x.dtype))", GENERATOR),
        Row("torch.randn_like(x)", "Tensor(rng.standard_normal(x.shape, x.dtype))", GENERATOR),
        Row("torch.normal(0.0, 1.0, (2, 3))", "Tensor(rng.standard_normal((2, 3), np.float32))", GENERATOR),
        Row("torch.randint(0, 5, (2, 3))", "Tensor(rng.integers(0, 5, size=(2, 3)))", GENERATOR),
        Row("torch.randperm(5)", "Tensor(rng.permutation(5))", GENERATOR),
        Row("torch.multinomial(p, 1)", "Tensor((np.log(p.data) + rng.gumbel(size=p.shape)).argmax(-1, keepdims=True))",
            GENERATOR),
        Row("p.multinomial(1)", "Tensor((np.log(p.data) + rng.gumbel(size=p.shape)).argmax(-1, keepdims=True))",
            GENERATOR),
        Row("torch.bernoulli(p)", "Tensor((rng.random(p.shape) < p.data).astype(p.dtype))", GENERATOR),
    ),
    "Tensors: shapes and elements": (
        Row("x.is_contiguous()", "x.data.flags.c_contiguous"),
        Row("x.t()", "x.T"),
        Row("x.movedim(0, 1)", "x.swapaxes(0, 1)", "or x.permute with all axes in their new order"),
        Row("x.view_as(y)", "x.reshape(y.shape)"),
        Row("x.expand_as(y)", "x.expand(y.shape)"),
        Row("x.select(1, 0)", "x[:, 0]"),
        Row("x.narrow(1, 0, 2)", "x[:, 0:2]"),
        Row("x.masked_select(mask)", "x[mask]"),
        Row("x.scatter_(1, targets[:, None], 1.0)",
            "np.put_along_axis(x.data, targets.data[:, None], 1.0, axis=1)", IN_PLACE),
        Row("square.diag()", "square.diagonal()"),
        Row("torch.cat([x, y], dim=1)", "F.concatenate([x, y], axis=1)"),
        Row("torch.concat([x, y])", "F.concatenate([x, y])"),
        Row("torch.hstack([x, y])", "F.concatenate([x, y], axis=1)"),
        Row("torch.vstack([x, y])", "F.concatenate([x, y], axis=0)"),
        Row("torch.transpose(x, 0, 1)", "x.swapaxes(0, 1)"),
        Row("torch.numel(x)", "x.data.size"),
        Row("x.nelement()", "x.numel()"),
        Row("torch.is_tensor(x)", "isinstance(x, Tensor)"),
    ),
    "Tensors: computed": (
        Row("torch.max(x, dim=1)[1]", "x.argmax(dim=1)", "F.max returns the values alone"),
        Row("torch.min(x, dim=1)[1]", "x.argmin(dim=1)", "F.min returns the values alone"),
        Row("y.rsqrt()", "1 / y.sqrt()"),
        Row("q.bmm(k)", "q @ k"),
        Row("x.nonzero()", "Tensor(np.argwhere(x))"),
        Row("x.isnan()", "Tensor(np.isnan(x))"),
        Row("x.isfinite()", "Tensor(np.isfinite(x))"),
        Row("x.eq(y)", "x == y"),
        Row("x.ne(y)", "x != y"),
        Row("x.lt(y)", "x < y"),
        Row("x.gt(y)", "x > y"),
        Row("x.le(y)", "x <= y"),
        Row("x.ge(y)", "x >= y"),
        Row("mask.logical_and(mask)", "mask & mask"),
        Row("mask.logical_not()", "~mask"),
        Row("x.maximum(y)", "F.maximum(x, y)"),
        Row("x.minimum(y)", "F.minimum(x, y)"),
        Row("x.remainder(2)", "x % 2"),
        Row("x.floor_divide(2)", "x // 2"),
        Row("x.clamp_min(0)", "x.clamp(min=0)"),
        Row("x.round()", "Tensor(np.round(x))", "its gradient is 0"),
        Row("x.floor()", "Tensor(np.floor(x))", "its gradient is 0"),
        Row("x.ceil()", "Tensor(np.ceil(x))", "its gradient is 0"),
        Row("x.isinf()", "Tensor(np.isinf(x))"),
        Row("x.unique()", "Tensor(np.unique(x))"),
        Row("x.count_nonzero()", "np.count_nonzero(x)"),
        Row("targets.bincount()", "Tensor(np.bincount(targets))"),
        Row("torch.mm(x, y.T)", "x @ y.T"),
        Row("torch.bmm(q, k)", "q @ k"),
        Row("torch.allclose(x, x)", "np.allclose(x, x)"),
        Row("torch.equal(x, y)", "np.array_equal(x, y)"),
        Row("torch.round(x)", "Tensor(np.round(x))"),
        Row("torch.floor(x)", "Tensor(np.floor(x))"),
        Row("torch.unique(x)", "Tensor(np.unique(x))"),
        Row("torch.bincount(targets)", "Tensor(np.bincount(targets))"),
        Row("torch.linalg.norm(x)", "x.norm()"),
        Row("torch.inf", "math.inf"),
        Row("torch.pi", "math.pi"),
        Row("torch.Size([2, 3])", "(2, 3)"),
        Row("torch.isnan(x)", "Tensor(np.isnan(x))"),
        Row("x.lerp(y, 0.1)", "x + 0.1 * (y - x)"),
        Row("torch.addmm(x, x, square)", "x + x @ square"),
        Row("torch.set_printoptions(precision=4)", "np.set_printoptions(precision=4)"),
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
        Row("x.masked_fill_(mask, 0.0)", "x = x.masked_fill(mask, 0.0)", IN_PLACE),
        Row("x.normal_(0.0, 0.02)", "nn.init.normal_(x, 0.0, 0.02)"),
        Row("x.uniform_(-1, 1)", "nn.init.uniform_(x, -1, 1)"),
        Row("w.grad_fn", "None if w.is_leaf else w.node.op"),
        Row("loss.backward(create_graph=True)", "loss.backward()", "gradients of gradients are not computed"),
        Row("loss.backward(inputs=[w])", "loss.backward()", "every leaf that requires gradients gets its own"),
        Row("torch.autograd.grad(loss, [w])[0]", "loss.backward(); Tensor(w.grad)"),
        Row("torch.autograd.gradcheck(torch.tanh, x.double().requires_grad_(), eps=1e-6, atol=1e-4)",
            "tinygpt.gradcheck(F.tanh, [x], step=1e-6, tolerance=1e-4)"),
        Row("torch.autograd.Variable(x)", "x"),
        Row("torch.inference_mode()", "no_grad()"),
        Row("torch.set_grad_enabled(False)", "no_grad()"),
    ),
    "Functions": (
        Row("F.dropout(x, 0.5, training=False)", "x", "in training write F.dropout(x, 0.5, seed)"),
        Row("F.one_hot(ids, 5)", "Tensor(np.eye(5, dtype=np.int64)[ids.numpy()])"),
        Row("F.binary_cross_entropy(p, target)", "-(target * F.log(p) + (1 - target) * F.log(1 - p)).mean()"),
        Row("F.cross_entropy(x, targets, label_smoothing=0.1)",
            "0.9 * F.cross_entropy(x, targets) - 0.1 * x.log_softmax().mean()"),
        Row("F.normalize(x, dim=1)", "x / x.norm(dim=1, keepdim=True)"),
        Row("F.logsigmoid(x)", "-F.softplus(-x)"),
        Row("F.elu(x)", "F.where(x > 0, x, F.exp(x) - 1)"),
        Row("F.cosine_similarity(x, y)", "(x * y).sum(axis=1) / (x.norm(dim=1) * y.norm(dim=1))"),
    ),
    "Modules and optimizers": (
        Row("nn.BCELoss()(p, target)", "-(target * F.log(p) + (1 - target) * F.log(1 - p)).mean()"),
        Row("nn.LeakyReLU()(x)", "F.leaky_relu(x)"),
        Row("nn.Softplus()(x)", "F.softplus(x)"),
        Row("nn.CrossEntropyLoss(label_smoothing=0.1)(x, targets)",
            "0.9 * F.cross_entropy(x, targets) - 0.1 * x.log_softmax().mean()"),
        Row("nn.Linear(3, 4, device='cpu')(x).shape", "nn.Linear(3, 4)(x).shape", ON_CPU),
        Row("nn.LayerNorm(3, elementwise_affine=False)(x)", "nn.LayerNorm(3).requires_grad_(False)(x)"),
        Row("nn.LayerNorm(3, bias=False)(x)", "nn.LayerNorm(3)(x)", "layer.bias.requires_grad_(False) leaves it at 0"),
        Row("nn.Dropout(0.1, inplace=True).eval()(x)", "nn.Dropout(0.1).eval()(x)", IN_PLACE.partition(";")[0]),
        Row("nn.parameter.Parameter(x)", "nn.Parameter(x)"),
        Row("nn.utils.clip_grad_norm_([w], 1.0)", "tinygpt.clip_grad_norm([w], 1.0)",
            "to clip each value, np.clip(w.grad, -1, 1, out=w.grad)"),
        Row("model.cuda()", "model", ON_CPU),
        Row("model.to('cuda')", "model", ON_CPU),
        Row("model.float()", "model", "a layer is float32 unless it was made with dtype=np.float64"),
        Row("model.half()", "GPT.from_pretrained(folder, weights='bfloat16')", "for generation"),
        Row("torch.save(model.state_dict(), path)", "tinygpt.save_state(model.state_dict(), path)",
            "safetensors; nothing is pickled"),
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
        Row("model.generate(ids, max_length=5)", "model.generate(ids[0], max_tokens=3)", "the prompt does not count"),
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

# fmt: off
ABSENT = (  # what nothing here does, and why
    Row("x.erf()", "", "GPT-2 has no erf; docs/own_operations.md shows how to write it"),
    Row("torch.autocast('cpu')", "", "everything computes in float32; leave it out"),
    Row("torch.amp.GradScaler()", "", "everything computes in float32; leave it out"),
    Row("torch.backends.mps.is_available()", "", ON_CPU),
    Row("torch.compile(model)", "", "kernels are compiled when they first run; leave it out"),
    Row("torch.jit.script(model)", "", "kernels are compiled when they first run; leave it out"),
    Row("torch.distributed.init_process_group()", "", "one process trains; its kernels use all cores"),
    Row("torch.utils.data.DataLoader(dataset)", "", "a batch is rows of an array: x[rng.integers(0, len(x), 8)]"),
    Row("x.roll(1, 0)", "", "write F.concatenate([x[-1:], x[:-1]])"),
    Row("x.median()", "", "write np.median(x), which has no gradient"),
    Row("torch.enable_grad()", "", "gradients are recorded wherever no_grad() does not hold; leave it out"),
    Row("torch.set_default_dtype(torch.float64)", "", "each tensor has its dtype; float32 is that of Python's floats"),
    Row("torch.get_rng_state()", "", "a generator of NumPy has its state in rng.bit_generator.state"),
    Row("torch.set_rng_state(state)", "", "a generator of NumPy has its state in rng.bit_generator.state"),
    Row("torch.distributions.Normal(0.0, 1.0)", "", "draw with a generator of NumPy, np.random.default_rng(seed)"),
    Row("tinygpt.load_state(path, map_location='cpu', weights_only=True)", "",
        "leave it out; arrays are read, and nothing is ever unpickled"),
    Row("model.double()", "", "make each layer with dtype=np.float64"),
    Row("model.register_full_backward_hook(function)", "", "x.register_hook(function) gets the gradient of a tensor"),
    Row("torch.autograd.Function", "", "an operation is an Op; docs/own_operations.md shows how to write one"),
    Row("torch.vmap(function)", "", "operations take any leading axes"),
    Row("nn.Conv1d(3, 4, 1)", "", OF_GPT), Row("nn.Conv2d(3, 4, 1)", "", OF_GPT), Row("nn.MaxPool2d(2)", "", OF_GPT),
    Row("nn.BatchNorm1d(3)", "", OF_GPT), Row("nn.BatchNorm2d(3)", "", OF_GPT), Row("nn.RMSNorm(3)", "", OF_GPT),
    Row("nn.GroupNorm(1, 3)", "", OF_GPT), Row("nn.RNN(3, 4)", "", OF_GPT), Row("nn.LSTM(3, 4)", "", OF_GPT),
    Row("nn.GRU(3, 4)", "", OF_GPT), Row("nn.ELU()", "", OF_GPT), Row("nn.PReLU()", "", OF_GPT),
    Row("nn.Mish()", "", OF_GPT), Row("nn.Hardtanh()", "", OF_GPT), Row("nn.SmoothL1Loss()", "", OF_GPT),
    Row("nn.HuberLoss()", "", OF_GPT), Row("nn.KLDivLoss()", "", OF_GPT), Row("F.conv2d(q, k)", "", OF_GPT),
    Row("F.max_pool2d(q, 2)", "", OF_GPT), Row("F.batch_norm(x, None, None)", "", OF_GPT),
    Row("F.rms_norm(x, (3,))", "", OF_GPT), Row("F.smooth_l1_loss(x, y)", "", OF_GPT),
    Row("F.kl_div(x, y)", "", OF_GPT),
    Row("nn.Embedding(10, 3, padding_idx=0)", "", "every row is learned; ignore_index of the loss leaves out targets"),
    Row("nn.ParameterList([w])", "", "write self.register_parameter(name, parameter) for each"),
    Row("nn.CrossEntropyLoss(weight=y[0])", "",
        "write weight[targets] * F.cross_entropy(x, targets, reduction='none')"),
    Row("nn.MultiheadAttention(4, 2)", "", "F.attention(qkv, n_head) between two nn.Linear does it"),
    Row("nn.TransformerEncoder(None, 2)", "", "tinygpt.gpt2.model.Block is GPT-2's layer"),
    Row("nn.TransformerEncoderLayer(4, 2)", "", "tinygpt.gpt2.model.Block is GPT-2's layer"),
    Row("nn.Transformer()", "", "tinygpt.GPT is the whole model"),
    Row("nn.parallel.DistributedDataParallel(model)", "", "one process trains; its kernels use all cores"),
    Row("nn.DataParallel(model)", "", "one process trains; its kernels use all cores"),
    Row(
        "F.cross_entropy(x, targets, weight=y[0])",
        "",
        "write weight[targets] * F.cross_entropy(x, targets, reduction='none')",
    ),
    Row("optim.RMSprop([w])", "", OPTIMIZERS), Row("optim.Adagrad([w])", "", OPTIMIZERS),
    Row("optim.LBFGS([w])", "", OPTIMIZERS), Row("optim.Adadelta([w])", "", OPTIMIZERS),
    Row("optim.NAdam([w])", "", OPTIMIZERS), Row("optim.RAdam([w])", "", OPTIMIZERS),
    Row("optim.Muon([w])", "", OPTIMIZERS),
    Row("optim.lr_scheduler.OneCycleLR(optim.SGD([w]), 1.0, 9)", "", "WarmupCosineLR has a warm-up and a cosine"),
    Row("optim.lr_scheduler.ConstantLR(optim.SGD([w]))", "", LAMBDA),
    Row("optim.lr_scheduler.PolynomialLR(optim.SGD([w]))", "", LAMBDA),
    Row("optim.lr_scheduler.MultiplicativeLR(optim.SGD([w]), abs)", "", LAMBDA),
    Row("optim.lr_scheduler.CosineAnnealingWarmRestarts(optim.SGD([w]), 9)", "", LAMBDA),
    Row("optim.lr_scheduler.CyclicLR(optim.SGD([w]), 0.1, 1.0)", "", LAMBDA),
    Row("optim.lr_scheduler.ReduceLROnPlateau(optim.SGD([w]))", "", "set group['lr'] of optimizer.param_groups"),
)

SCRIPT = (  # the lines of a script for PyTorch that change here, tests/pytorch_script.py
    Row("import torch", "import tinygpt as torch"),
    Row("import torch.nn as nn", "from tinygpt import Tensor, nn"),
    Row("import torch.nn.functional as F", "import tinygpt.functional as F"),
    Row("from torch.nn.utils import clip_grad_norm_", "from tinygpt import clip_grad_norm as clip_grad_norm_"),
    Row("from torch.optim import SGD", "from tinygpt.optim import SGD"),
    Row("from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR",
        "from tinygpt.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR"),
    Row("self.register_buffer(\"tril\", torch.tril(torch.ones(block_size, block_size)))",
        "self.register_buffer(\"tril\", F.tril(Tensor(np.ones((block_size, block_size), np.float32))))"),
    Row("x = x + self.proj(torch.cat(heads, dim=-1))", "x = x + self.proj(F.concatenate(heads, axis=-1))"),
    Row("pos = torch.arange(T)", "pos = Tensor(np.arange(T))"),
    Row("idx = torch.tensor([ids])", "idx = Tensor([ids])"),
    Row("x = torch.zeros((size, block_size), dtype=torch.long)", "x = Tensor(np.zeros((size, block_size), np.int64))"),
    Row("y = torch.full((size, block_size), -1, dtype=torch.long)",
        "y = Tensor(np.full((size, block_size), -1, np.int64))"),
    Row("x[row, column], y[row, column] = ids[column], ids[column + 1]",
        "x.data[row, column], y.data[row, column] = ids[column], ids[column + 1]"),
    Row("checkpoint = torch.load(checkpoint_path)", "checkpoint = torch.load_state(checkpoint_path)"),
    Row("torch.save(state, checkpoint_path)", "torch.save_state(state, checkpoint_path)"),
    Row("device = \"cuda\" if torch.cuda.is_available() else \"cpu\"", "device = \"cpu\""),
)
# fmt: on

_OWNERS = {  # the object, or the module of ours, that has the attributes of a name in the table
    "torch": "tinygpt",
    "torch.autograd": "tinygpt.autograd",
    "optim.lr_scheduler": "tinygpt.optim.lr_scheduler",
    "transformers": "tinygpt",
    "F": "tinygpt.functional",
    "nn": "tinygpt.nn",
    "optim": "tinygpt.optim",
    "model": "Module",
    "tinygpt": "tinygpt",
}
_CALLED = {"forward": "model", "generate_batch": "generate"}  # as the table calls these functions


def instead_of(owner: str, name: str) -> str:
    """
    What to write for an attribute that is missing, as the end of an error; empty if the table does not have it.

    Parameters
    ----------
    owner : str
        "Tensor", "Module", or the full name of a module.
    name : str

    Examples
    --------
    >>> instead_of("Tensor", "cuda")
    ': for x.cuda() write x; everything computes on the CPU'
    >>> instead_of("Tensor", "exp_")
    ': operations do not write into tensors; write x = x.exp(...)'
    >>> instead_of("Tensor", "shapee")
    ''
    """
    row = _attributes().get((owner, name))
    if row is None and owner == "Tensor" and name.endswith("_"):
        known = name[:-1] in _methods()
        return f": {IN_PLACE.partition(';')[0]}; write x = x.{name[:-1]}(...)" if known else f": {IN_PLACE}"
    return _sentence(row)


def as_method(owner: str, name: str) -> str:
    """
    What to write for a function of PyTorch's that is a method here, as `instead_of` does.

    Examples
    --------
    >>> as_method("tinygpt", "unsqueeze"), as_method("tinygpt", "eq")
    (': write x.unsqueeze(0)', ': for x.eq(y) write x == y')
    """
    if owner not in ("tinygpt", "tinygpt.functional"):
        return ""
    if row := _attributes().get(("tinygpt", name)) or _attributes().get(("Tensor", name)):
        return _sentence(row)
    return f": write {_methods()[name]}" if name in _methods() else ""


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
def _methods() -> dict[str, str]:
    """How a method of a tensor is called, by its name: the first expression of those that are as in PyTorch."""
    found: dict[str, str] = {}
    for text in (text for texts in SAME.values() for text in texts):
        owner, _, call = text.partition(".")
        if "(" in call and owner not in _OWNERS:
            found.setdefault(call.partition("(")[0], text)
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
    for row in (*(row for rows in WRITE.values() for row in rows), *ABSENT):
        node: ast.AST | None = ast.parse(row.torch, mode="eval").body
        while node is not None:
            yield row, node
            node = getattr(node, "func", getattr(node, "value", None))
