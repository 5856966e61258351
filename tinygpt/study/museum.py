"""
The museum: gradients, and some optimizer updates, that look right and are wrong, each by one change of one line.

A student is to find the line by reading; the gradient check finds each of them. The exhibits are in the table at the
end.
"""

from __future__ import annotations

import re
import sys
import textwrap
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.gradient_check import GradientCheckError, gradcheck
from tinygpt.autograd.graph import Op
from tinygpt.optim import adam, adamw, sgd
from tinygpt.study.samples import SAMPLES, every_op
from tinygpt.study.statements import source

_WIDTH = 80

_MOMENTS = [(step, 1e-2, (0.9, 0.999), 1e-8, 0.1) for step in range(1, 6)]
_NESTEROV = [(1e-1, 0.9, 0.0, 0.1, True)] * 5
_DAMPENED = [(1e-1, 0.9, 0.5 * (step > 1), 0.1, False) for step in range(1, 6)]

# The optimizers: the module, how many arrays the state has, and the options of five steps, once or more.
UPDATES: dict[str, tuple[Any, int, list[list[tuple[Any, ...]]]]] = {
    "sgd": (sgd, 1, [_NESTEROV, _DAMPENED]),
    "adam": (adam, 2, [_MOMENTS]),
    "adamw": (adamw, 2, [_MOMENTS]),
}


class Exhibit(NamedTuple):
    """
    One wrong line.

    Attributes
    ----------
    op : str
        The operation; or an optimizer of `UPDATES`, which has no gradient to check but an update to compare.
    function : str
        The function that has the line: the backward, or a helper that it calls.
    right, wrong : str
        A piece of its source, which occurs once, and what stands in its place.
    hint, answer : str
    """

    op: str
    function: str
    right: str
    wrong: str
    hint: str
    answer: str


def page(number: int | None, hint: bool = False, answer: bool = False) -> str:
    """
    An exhibit as text, its hint or its answer; without a number, the list of all.

    Raises
    ------
    ValueError
        If there is no such exhibit.

    Examples
    --------
    >>> print(page(6, hint=True))
    Differentiate x + a x^3.
    """
    if number is None:
        rows = [f"{number:4}  {exhibit.op:20}  {exhibit.function}" for number, exhibit in enumerate(EXHIBITS, 1)]
        return "\n".join(["Each exhibit has one wrong line: tinygpt museum NUMBER shows it.\n", *rows])
    if not 1 <= number <= len(EXHIBITS):
        raise ValueError(f"museum: there are exhibits 1 to {len(EXHIBITS)}, got {number}")
    exhibit = EXHIBITS[number - 1]
    if hint:
        return textwrap.fill(exhibit.hint, _WIDTH)
    if answer:
        return f"wrong:  {exhibit.wrong}\nright:  {exhibit.right}\n\n{textwrap.fill(exhibit.answer, _WIDTH)}"
    said = textwrap.fill(complaint(exhibit), _WIDTH, initial_indent="    ", subsequent_indent="    ")
    file = function_of(exhibit).__module__.replace(".", "/") + ".py"
    return (f"Exhibit {number}: {exhibit.op}. One line is wrong.\n\n{source_with(exhibit)}\n\n"
            f"The check says\n{said}\n\n"
            f"The right line is in {file}.\nFor a hint, or the answer, add --hint or --answer.")  # fmt: skip


def broken(exhibit: Exhibit) -> Op:
    """
    The operation with its mistake, and no kernel. The package itself is not touched.

    Examples
    --------
    >>> op = broken(EXHIBITS[0])
    >>> op.name, op.kernel is None
    ('layernorm', True)
    """
    op = every_op()[exhibit.op]
    names = dict(vars(module_of(exhibit)))
    names[exhibit.function] = broken_function(exhibit)
    backward = names[exhibit.function]
    if exhibit.function != op.backward.__name__:  # the mistake is in a helper: the backward is to call that one
        backward = FunctionType(op.backward.__code__, names, op.backward.__name__, op.backward.__defaults__)
    return op._replace(backward=backward, kernel=None)


def broken_function(exhibit: Exhibit) -> Any:
    """The function with the mistake."""
    original = function_of(exhibit)
    names = {**vars(sys.modules[original.__module__]), **vars(module_of(exhibit))}
    exec(compile(source_with(exhibit), f"<museum: {exhibit.function}>", "exec"), names)
    return names[exhibit.function]


def complaint(exhibit: Exhibit) -> str:
    """The result of the gradient check, or for an optimizer of the comparison with the right update."""
    if exhibit.op in UPDATES:
        gap = update_gap(exhibit.op, broken_function(exhibit), function_of(exhibit))
        return f"after five steps of {exhibit.function} the parameters are off by {gap:.3g}"
    op = broken(exhibit)
    for sample in SAMPLES[exhibit.op]:
        try:
            gradcheck(sample.f(op), sample.arrays)
        except (GradientCheckError, IndexError, ValueError) as error:
            return str(error)
    raise AssertionError(f"museum: nothing was found in {exhibit.op}")  # tested


def update_gap(name: str, one: Any, other: Any) -> float:
    """The largest difference between the parameters of two updates after five steps from the same start."""
    _, count, runs = UPDATES[name]
    rng = np.random.default_rng(1)
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((5, 4, 3))
    gaps = []
    for options in runs:
        ends = []
        for update in (one, other):
            parameter, state = start.copy(), [np.zeros_like(start) for _ in range(count)]
            for gradient, each in zip(1e-3 * gradients, options, strict=True):
                update(parameter, gradient, *state, *each)
            ends.append(parameter)
        gaps.append(float(np.max(np.abs(ends[0] - ends[1]))))
    return max(gaps)


def module_of(exhibit: Exhibit) -> Any:
    """The module in whose names the exhibit's code runs."""
    return UPDATES[exhibit.op][0] if exhibit.op in UPDATES else sys.modules[every_op()[exhibit.op].backward.__module__]


def function_of(exhibit: Exhibit) -> Any:
    """The right function, of the operation's own module or one that it imports from."""
    return vars(module_of(exhibit))[exhibit.function]


def source_with(exhibit: Exhibit) -> str:
    """The source of the function, without its docstring, with the mistake in it."""
    text = source(function_of(exhibit))
    lines, count = [line for line in text.splitlines() if exhibit.right in line], text.count(exhibit.right)
    if len(lines) != 1 or count != 1:
        raise ValueError(f"museum: {exhibit.right!r} must be in {exhibit.function} once, got {count} times")
    wrong = lines[0].replace(exhibit.right, exhibit.wrong)
    columns = [line.index("# ") for line in text.splitlines() if "# " in line]
    aligned = 0
    if len(columns) > 1 and len({*columns}) == 1:
        aligned = max(columns[0], len(wrong.partition("# ")[0].rstrip()) + 2)
    return "\n".join(_without_words(wrong if line == lines[0] else line, aligned) for line in text.splitlines())


def _without_words(line: str, column: int) -> str:
    """A line whose comment, in this column, keeps step numbers and shapes only: words would give the answer away."""
    code, _, comment = line.partition("# ")
    marks = re.match(r"(\([^)]*\)[ :;]*)*", comment)
    kept = marks.group().rstrip(" :;") if marks else ""
    return f"{code.rstrip() + '  ':{column}}# {kept}" if kept else code.rstrip()


def _read(table: str) -> list[Exhibit]:
    """The exhibits of a table: paragraphs of a header and of rows that begin with the name of a field."""
    exhibits = []
    for paragraph in table.strip().split("\n\n"):
        header, *rows = paragraph.splitlines()
        fields: dict[str, str] = {}
        for row in rows:
            if row[4] != " ":
                name, _, text = row.strip().partition(" ")
                fields[name] = text.strip()
            else:  # it continues the row above
                fields[name] += f" {row.strip()}"
        op, function = header.split(", ")
        exhibits.append(Exhibit(op, function, **fields))
    return exhibits


EXHIBITS = _read("""
layernorm, layernorm_backward
    right   dx = dxc - dxc.mean(axis=-1, keepdims=True)
    wrong   dx = dxc
    hint    Every output of a row depends on every input of it, and not by rstd alone.
    answer  Step (1) is missing: the mean that was subtracted depends on x too, so the mean of dxc must be
            subtracted as well. Adding a constant to all of x changes nothing, so each row of dx must sum to zero;
            here it does not.

layernorm, layernorm_backward
    right   dxc -= rstd * xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    wrong   pass
    hint    Multiply all of x by two: what should happen to the output, and what does this gradient expect?
    answer  Step (3) is missing: rstd depends on x. Scaling x changes nothing but for eps, so dx must be orthogonal
            to xhat.

layernorm, layernorm_backward
    right   dxc = rstd * dxhat
    wrong   dxc = dxhat
    hint    What is xhat's slope where x is very spread out?
    answer  Step (4) lost its factor rstd: xhat = xc * rstd. On rows of standard deviation one nothing would show.

layernorm, layernorm_backward
    right   dweight = (dout * xhat).sum(axis=tokens)
    wrong   dweight = (dout * x).sum(axis=tokens)
    hint    What is the weight multiplied by?
    answer  The weight stretches xhat, not x: dweight = sum(dout * xhat). The two agree on data that is normalized
            already.

layernorm, layernorm_backward
    right   dbias = dout.sum(axis=tokens)
    wrong   dbias = dout.mean(axis=tokens)
    hint    How often is each bias used?
    answer  A mean in place of a sum: the bias is added at every token, and every use adds to its gradient. The
            error is a constant factor, and AdamW, which divides by the size of the gradient, hides it for a whole
            training run.

gelu, gelu_backward
    right   (1 + 3 * A * (x * x))
    wrong   (1 + A * (x * x))
    hint    Differentiate x + a x^3.
    answer  The derivative of a x^3 is 3 a x^2. Near zero, where most activations are, the difference is small.

gelu, gelu_backward
    right   0.5 * (1 + t) + 0.5 * x * dt_dx
    wrong   0.5 * (1 + t)
    hint    out = x/2 (1 + t), and t depends on something.
    answer  The product rule has two terms: t depends on x as well. What is left is a smooth ReLU's slope, and
            training goes on nearly as well: a loss curve would not show it.

gelu, gelu_backward
    right   dt_dx = (1 - t * t) * du_dx
    wrong   dt_dx = (1 - t) * du_dx
    hint    What is the derivative of tanh?
    answer  d tanh(u) / du = 1 - tanh(u)^2, not 1 - tanh(u).

gelu, gelu_backward
    right   dt_dx = (1 - t * t) * du_dx
    wrong   dt_dx = np.exp(-x * x / 2) * C
    hint    This is the right derivative of another function.
    answer  That is the slope of the exact GELU, x Phi(x), whose Phi is an error function; GPT-2 has the tanh
            approximation. They differ by less than a thousandth in the forward; the check sees it all the same.

linear, linear_backward
    right   dbias = drows.sum(axis=0)
    wrong   dbias = drows[0]
    hint    The bias has one axis, and dout has two or three.
    answer  The bias was broadcast to every row, so its gradient is the sum over them; this takes the first alone.

linear, linear_backward
    right   (drows @ weight.T)
    wrong   (drows @ weight)
    hint    Which axis of the weight goes with which axis of dout?
    answer  dx = dout @ weight^T. Where the weight is square, as attention's output projection is, shapes cannot
            tell.

linear, linear_backward
    right   dweight = rows.T @ drows
    wrong   dweight = (rows.T @ drows) / len(rows)
    hint    Compare dweight for a batch of one row and for a batch of two equal rows.
    answer  The loss took the mean over the batch: it is in dout already, and is taken a second time here.

embedding, embedding_backward
    right   np.add.at(dweight, ids, dout)
    wrong   dweight[ids] += dout
    hint    What does NumPy do when an index appears twice?
    answer  A repeated id is counted once: += reads all rows, adds, and writes all rows, and the last write wins.
            np.add.at adds them up.

embedding, embedding_backward
    right   np.add.at(dweight, ids, dout)
    wrong   dweight[ids] = dout
    hint    What if a token appears twice in a batch?
    answer  Each occurrence overwrites the gradient of the one before; they must be added.

attention, attention_backward
    right   dweights - (dweights * weights).sum(axis=-1, keepdims=True)
    wrong   dweights
    hint    A row of weights always sums to one. What does that say about the gradient of its scores?
    answer  The softmax's second term is missing: raising one score lowers all other weights. Each row of dscores
            must sum to zero.

attention, attention_backward
    right   dweights - (dweights * weights).sum(axis=-1, keepdims=True)
    wrong   dweights - (dweights * weights).sum(axis=-2, keepdims=True)
    hint    Over which axis does the softmax normalize?
    answer  The sum runs over queries instead of keys. Both axes have T entries, so shapes cannot tell.

attention, attention_backward
    right   dq = dscores @ k * scale
    wrong   dq = dscores @ k
    hint    The scale multiplies q k^T. Which of the two gradients does it belong to?
    answer  1 / sqrt(D) belongs to both dq and dk. With D = 64, dq is eight times too large here.

attention, attention_backward
    right   dk = dscores.swapaxes(-1, -2) @ q * scale
    wrong   dk = dscores @ q * scale
    hint    Which token's key gathers from which tokens' queries?
    answer  dk_s sums over the queries t that looked at s: dscores must be transposed. It is square, so it fits
            either way.

attention, attention_backward
    right   dv = dropped.swapaxes(-1, -2) @ dheads
    wrong   dv = weights.swapaxes(-1, -2) @ dheads
    hint    Try it with dropout.
    answer  The values were mixed with the weights that dropout kept, not with all of them. Without dropout both are
            the same.

attention, attention_backward
    right   dweights = ddropped if dropout_mask is None else ddropped * dropout_mask
    wrong   dweights = ddropped
    hint    Try it with dropout.
    answer  A weight that was dropped had no influence and must get no gradient; one that was kept counted 1 / (1 -
            p) times.

attention, attention_backward
    right   [merge_heads(dq), merge_heads(dk), merge_heads(dv)]
    wrong   [merge_heads(dk), merge_heads(dq), merge_heads(dv)]
    hint    In which order are queries, keys and values packed?
    answer  dq and dk are swapped. Their shapes are equal, so nothing fails.

attention, merge_heads
    right   heads.transpose(0, 2, 1, 3)
    wrong   heads
    hint    What lies side by side after the reshape: the heads of a token, or the tokens of a head?
    answer  Without the transpose the reshape mixes tokens and heads: right shape, wrong places.

cross_entropy, cross_entropy_backward
    right   dlogits[rows, target] -= dnll
    wrong   dlogits[rows, target] -= 1
    hint    What is the target's share when the loss is a mean over N tokens?
    answer  softmax - 1 at the target, but both terms must be multiplied by dnll, which holds the 1 / N of the mean.

cross_entropy, cross_entropy_backward
    right   dlogits[rows, target] -= dnll
    wrong   dlogits[rows, (target + 1) % p.shape[1]] -= dnll
    hint    Which class does the loss read?
    answer  Off by one: the targets were shifted when the batch was made, and are shifted again.

cross_entropy, cross_entropy_backward
    right   counted / count * dloss
    wrong   np.ones(len(target)) / len(target) * dloss
    hint    Which tokens are ignored?
    answer  Ignored tokens get a gradient, and the mean divides by all tokens instead of by those that count: the
            model learns the padding.

dropout, dropout_mask
    right   (keep * np.dtype(dtype).type(1 / (1 - p)))
    wrong   (keep * np.dtype(dtype).type(1))
    hint    By which factor did the forward scale what it kept?
    answer  What was kept was multiplied by 1 / (1 - p), so its gradient must be too; this backward leaves the
            factor out.

dropout, dropout_backward
    right   dropout_mask(dout.shape, p, seed, dout.dtype)
    wrong   dropout_mask(dout.shape, p, seed + 1, dout.dtype)
    hint    Which elements were dropped?
    answer  A mask other than the forward's, as if the generator had moved on. With the same seed, a counter-based
            generator gives the same mask again.

gelu_linear, gelu_linear_backward
    right   linear_backward(dout, (h, weight))
    wrong   linear_backward(dout, (x, weight))
    hint    What did the linear layer see?
    answer  dweight needs the layer's input, h = gelu(x), which was not kept and must be computed again; this passes
            x.

gelu_linear, gelu_linear_backward
    right   (dx,) = gelu_backward(dh, of_gelu)
    wrong   dx = dh
    hint    Which factor of the chain rule lies between h and x?
    answer  The gradient is not multiplied by the slope of GELU: a factor of the chain rule is missing.

linear_cross_entropy, linear_cross_entropy_backward
    right   dweight = dlogits.T @ x
    wrong   dweight = 0 * (dlogits.T @ x)
    hint    The head's weights are the embedding's. How many gradients does a tied table get?
    answer  Two: one as the head and one as the embedding, and they are added. Here the head's is lost.

add, unbroadcast
    right   gradient.sum(axis=axes, keepdims=True)
    wrong   gradient.mean(axis=axes, keepdims=True)
    hint    An element was used many times. How do the gradients of its uses combine?
    answer  They are added. The mean is right only where nothing was stretched.

mul, mul_backward
    right   unbroadcast(dout * a, b.shape)
    wrong   unbroadcast(dout * b, b.shape)
    hint    What is the derivative of a * b with respect to b?
    answer  db = dout * a: each factor's gradient is multiplied by the other.

div, div_backward
    right   -da * out
    wrong   da * out
    hint    When the denominator grows, what does the fraction do?
    answer  d(a/b)/db = -a/b^2: the sign is lost.

matmul, matmul_backward
    right   rows.swapaxes(-1, -2) @ dout
    wrong   (dout.swapaxes(-1, -2) @ rows).swapaxes(-1, -2) * 0.999
    hint    This one is nearly right.
    answer  The product is right, the factor 0.999 is not: an error of a thousandth, which no loss curve shows and
            no eye sees in a list of numbers.

softmax, softmax_backward
    right   (dout - (dout * p).sum(axis=axis, keepdims=True))
    wrong   dout * (1 - p)
    hint    p_i (1 - p_i) is the diagonal of something.
    answer  Only the diagonal of the Jacobian is there: p_i also depends on every other input, by -p_i p_j.

mean, mean_backward
    right   _stretch(dout / count
    wrong   _stretch(dout
    hint    Is it a sum or a mean?
    answer  Each element has a share of 1/n in a mean: the division is missing.

max, max_backward
    right   (largest / ties)
    wrong   largest
    hint    What if two elements are equally large?
    answer  Tied elements each get the whole gradient, twice as much as there is; it must be divided among them.

getitem, getitem_backward
    right   np.add.at(dx, index, dout)
    wrong   dx[index] += dout
    hint    x[[2, 0, 2]]: how often is row 2 read?
    answer  As with the embedding: an index that appears twice gets one of its gradients instead of their sum.

sgd, sgd_update
    right   (1 - dampening) * gradient
    wrong   (1 - momentum) * gradient
    hint    What does the buffer grow to while the gradient stays the same?
    answer  The buffer is a sum: with momentum 0.9 it grows to ten gradients. With 1 - momentum in front it is a
            running mean, as Adam has, and every step is ten times smaller than the learning rate says.

sgd, sgd_update
    right   gradient + momentum * buffer if nesterov
    wrong   gradient + buffer if nesterov
    hint    By how much of the buffer will the next step move the parameter, whatever its gradient?
    answer  Nesterov looks ahead by momentum * buffer, which is what the next step keeps of it. Here the present
            gradient counts twice: once in the buffer, once beside it.

sgd, sgd_update
    right   gradient * parameter.dtype.type(scale) + weight_decay * parameter
    wrong   gradient * parameter.dtype.type(scale) - weight_decay * parameter
    hint    Which sign has the gradient of weight_decay / 2 times the square of a weight?
    answer  Step (4) subtracts what is added here, so the decay must be added. With the minus weights grow a little
            in every step, and the loss hides it for a long time.

sgd, sgd_update
    right   buffer += (1 - dampening) * gradient
    wrong   buffer += lr * (1 - dampening) * gradient
    hint    How often does the learning rate enter a step?
    answer  Once, in step (4), so that a new rate holds for the whole buffer at once. Some write it into the buffer
            instead; in both places its square is the rate.

adam, adam_update
    right   m_corrected = m / (1 - beta1**step)
    wrong   m_corrected = m / (1 - beta1)
    hint    What do the weights of a running mean sum to after two steps?
    answer  To 1 - beta1^2, and after n steps to 1 - beta1^n. The exponent is missing: only the first step is right,
            and later ones are up to ten times too large.

adam, adam_update
    right   v *= beta2
    wrong   v *= beta1
    hint    How long does Adam remember a large gradient?
    answer  The square has its own rate, beta2, and remembers a thousand steps. With beta1 old squares fade while new
            ones still have the weight 1 - beta2: v is too small, and the steps too large.

adam, adam_update
    right   np.sqrt(v_corrected)
    wrong   v_corrected
    hint    If the loss is multiplied by ten, how does the step change?
    answer  It must not change: a gradient is to be divided by its size, the root of its mean square. Divided by the
            square, a small gradient makes a huge step.

adam, adam_update
    right   gradient = gradient * parameter.dtype.type(scale) + weight_decay * parameter
    wrong   gradient = gradient * parameter.dtype.type(scale); parameter *= 1 - lr * weight_decay
    hint    This is the right update of another optimizer.
    answer  That is AdamW: the decay is outside of the moments. Adam's L2 term is part of the gradient and is divided
            by sqrt(v), so parameters with large gradients decay less. Neither is a mistake; to call one by the
            other's name is, and a weight_decay that is tuned for one does not fit the other.

adamw, adamw_update
    right   v_corrected = v / (1 - beta2**step)
    wrong   v_corrected = v
    hint    How large is v after one step?
    answer  The running mean of squares starts at zero, and after one step it is 1 - beta2 of the square: without
            the correction the first steps are up to thirty times too large. Warm-up hides it.

adamw, adamw_update
    right   parameter *= 1 - lr * weight_decay
    wrong   parameter *= 1 - weight_decay
    hint    By how much does a weight shrink per step?
    answer  The decay is multiplied by the learning rate; without it a weight is gone after a few steps, whatever
            its gradient.

adamw, adamw_update
    right   (np.sqrt(v_corrected) + eps)
    wrong   np.sqrt(v_corrected + eps)
    hint    Which is larger for a small gradient: 1e-8, or its root?
    answer  eps belongs outside of the root. Inside, it adds up to sqrt(1e-8) = 1e-4 to the divisor, and parameters
            with small gradients hardly move.

adamw, adamw_update
    right   m += (1 - beta1) * gradient
    wrong   m += gradient
    hint    What does a running mean of a constant converge to?
    answer  The new gradient lacks its weight: m grows to 1 / (1 - beta1) times the gradient, and the step is ten
            times too large.

sqrt, sqrt_backward
    right   (2 * out)
    wrong   (2 * out * out)
    hint    What was saved: the input or the output?
    answer  d sqrt(a)/da = 1 / (2 sqrt(a)), and out is sqrt(a) already.

power, power_backward
    right   dout * out * np.log(a)
    wrong   dout * out
    hint    With a held fixed, which function of b is this? Is its slope its value for every a?
    answer  Only e^b is its own slope. a^b = e^(b ln a), so its slope in b has the factor ln a.

remainder, remainder_backward
    right   -dout * np.floor_divide(a, b)
    wrong   0 * dout
    hint    7 % 3 is 1. What is 7 % 3.01?
    answer  a % b = a - b floor(a / b) falls by floor(a / b) for each unit of b. That the quotient is a constant does
            not make the remainder one.

sigmoid, sigmoid_backward
    right   dout * out * (1 - out)
    wrong   dout * (1 - out * out)
    hint    This is the right derivative of another function of the same form.
    answer  1 - out^2 is the slope of tanh, which goes from -1 to 1; that of the sigmoid is out (1 - out), four times
            flatter at 0.

cos, cos_backward
    right   -dout * np.sin(a)
    wrong   dout * np.sin(a)
    hint    Which way does cos go from 0 on?
    answer  The sign is lost: cos falls where sin is above 0.

abs, abs_backward
    right   dout * np.sign(a)
    wrong   dout * np.sign(np.abs(a))
    hint    Which sign can an absolute value have?
    answer  The slope is the sign of the input. Taken from the output, it is never negative, and every weight below 0
            is pushed away from 0 by its own penalty.

clip, clip_backward
    right   np.where((a >= low) & (a <= high), dout, 0)
    wrong   dout
    hint    Move an element that is out of bounds a little. What happens to the output?
    answer  Nothing happens to it, so its gradient is 0. Passing the gradient on is a trick by design, the
            straight-through estimator, and no derivative.

prod, prod_backward
    right   _product_of_others(x, axis)
    wrong   x.prod(axis=axis, keepdims=True) / x
    hint    What is the product of the others, if one value is 0?
    answer  out / x is the product of the others only where x is not 0. At a zero it is 0 / 0, which is NaN, and should
            be the product of all others.

norm, norm_backward
    right   np.where(out == 0, 0, dout) / np.where(out == 0, 1, out)
    wrong   dout
    hint    How long is the gradient of a length?
    answer  d sqrt(sum(x^2)) / dx = x / sqrt(sum(x^2)): the division by the norm is missing. What is left is half the
            gradient of the sum of squares, which is right for unit vectors alone.

cumsum, cumsum_backward
    right   np.flip(np.cumsum(np.flip(dout, axis), axis), axis)
    wrong   np.cumsum(dout, axis)
    hint    In which of the sums does the first value count, and in which the last?
    answer  The first value is in every sum, so its gradient is the sum of all; the last is in its own alone. The sum
            must run from the end: here it runs from the start.

logsumexp, logsumexp_backward
    right   np.exp(x - out)
    wrong   np.exp(x - x.max())
    hint    What must the slopes of a group add up to?
    answer  The slope is the softmax, e^(x - out), which adds up to 1. The maximum is subtracted so that nothing
            overflows; it is not what the sum is divided by.

einsum, einsum_backward
    right   [dout, *arrays[:k], *arrays[k + 1 :]], [output, *terms[:k], *terms[k + 1 :]]
    wrong   [dout, *arrays[:k], *arrays[k + 1 :]], [output[::-1], *terms[:k], *terms[k + 1 :]]
    hint    Which letter belongs to which axis of dout?
    answer  dout has the letters of the output in their order. Read in another order it is transposed; where it is
            square, shapes cannot tell.
""")
