"""
The exhibits of the museum: gradients, and some updates, that look right and are not, each one change of one line.

`function` is where the change is: the backward of the operation, or a helper that it calls.
"""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """
    One wrong line.

    Attributes
    ----------
    op : str
        The operation; or "adamw", which has no gradient to check but an update to compare.
    function : str
        The function in whose source it is.
    right, wrong : str
        A piece of the source, which is there once, and what stands in its place.
    hint, answer : str
    """

    op: str
    function: str
    right: str
    wrong: str
    hint: str
    answer: str


BUGS = [
    Bug("layernorm", "layernorm_backward", "dx = dxc - dxc.mean(axis=-1, keepdims=True)", "dx = dxc",
        "Every output of a row depends on every input of it, and not by rstd alone.",
        "Step (1) is missing: the mean that was subtracted depends on x too, which takes the mean of dxc away again. "
        "Adding a number to all of x changes nothing, so each row of dx must sum to zero; here it does not."),
    Bug("layernorm", "layernorm_backward", "dxc -= rstd * xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)", "pass",
        "Multiply all of x by two: what should happen to the output, and what does this gradient expect?",
        "Step (3) is missing: rstd depends on x. Scaling x changes (almost) nothing, so dx must be orthogonal to "
        "xhat."),
    Bug("layernorm", "layernorm_backward", "dxc = rstd * dxhat", "dxc = dxhat",
        "What is xhat's slope where x is very spread out?",
        "Step (4) lost its factor rstd: xhat = xc * rstd. On rows of standard deviation one nobody would notice."),
    Bug("layernorm", "layernorm_backward", "dweight = (dout * xhat).sum(axis=tokens)",
        "dweight = (dout * x).sum(axis=tokens)",
        "What is the weight multiplied by?",
        "The weight stretches xhat, not x: dweight = sum(dout * xhat). The two agree on data that is normalized "
        "already."),
    Bug("layernorm", "layernorm_backward", "dbias = dout.sum(axis=tokens)", "dbias = dout.mean(axis=tokens)",
        "How often is each bias used?",
        "A mean for a sum: the bias is added at every token, and every use adds to its gradient. The mistake is a "
        "factor, "
        "which AdamW, dividing by the gradient's own size, hides for a whole training run."),
    Bug("gelu", "gelu_backward", "(1 + 3 * A * (x * x))", "(1 + A * (x * x))",
        "Differentiate x + a x^3.",
        "The derivative of a x^3 is 3 a x^2. Near zero, where most activations are, the difference is small."),
    Bug("gelu", "gelu_backward", "0.5 * (1 + t) + 0.5 * x * dt_dx", "0.5 * (1 + t)",
        "out = x/2 (1 + t), and t depends on something.",
        "The product rule has two terms: t depends on x as well. What is left is a smooth ReLU's slope, and "
        "training goes "
        "on nearly as well: a loss curve would not tell."),
    Bug("gelu", "gelu_backward", "dt_dx = (1 - t * t) * du_dx", "dt_dx = (1 - t) * du_dx",
        "What is the derivative of tanh?",
        "d tanh(u) / du = 1 - tanh(u)^2, not 1 - tanh(u)."),
    Bug("gelu", "gelu_backward", "dt_dx = (1 - t * t) * du_dx", "dt_dx = np.exp(-x * x / 2) * C",
        "This is the right derivative of another function.",
        "That is the slope of the exact GELU, x Phi(x), whose Phi is an error function; GPT-2 has the tanh "
        "approximation. "
        "They differ by less than a thousandth in the forward; the check sees it all the same."),
    Bug("linear", "linear_backward", "dbias = drows.sum(axis=0)", "dbias = drows[0]",
        "The bias has one axis, and dout has two or three.",
        "The bias was broadcast to every row, so its gradient is the sum over them; this takes the first alone."),
    Bug("linear", "linear_backward", "(drows @ weight.T)", "(drows @ weight)",
        "Which axis of the weight goes with which axis of dout?",
        "dx = dout @ weight^T. Where the weight is square, as attention's output projection is, shapes cannot tell."),
    Bug("linear", "linear_backward", "dweight = rows.T @ drows", "dweight = (rows.T @ drows) / len(rows)",
        "Compare the size of dweight for a batch of one and of two equal rows.",
        "The mean over the batch is the loss's business: it is in dout already, and is taken a second time here."),
    Bug("embedding", "embedding_backward", "np.add.at(dweight, ids, dout)", "dweight[ids] += dout",
        "What does NumPy do when an index appears twice?",
        "A repeated id is counted once: += reads all, adds, and writes all, the last one winning. np.add.at adds "
        "them up."),
    Bug("embedding", "embedding_backward", "np.add.at(dweight, ids, dout)", "dweight[ids] = dout",
        "What if a token appears twice in a batch?",
        "Each occurrence overwrites the one before, where their gradients should be added."),
    Bug("attention", "attention_backward", "dweights - (dweights * weights).sum(axis=-1, keepdims=True)", "dweights",
        "A row of weights always sums to one. What does that say about the gradient of its scores?",
        "The softmax's second term is missing: raising one score lowers all other weights. Each row of dscores "
        "must sum "
        "to zero."),
    Bug("attention", "attention_backward", "dweights - (dweights * weights).sum(axis=-1, keepdims=True)",
        "dweights - (dweights * weights).sum(axis=-2, keepdims=True)",
        "Over which axis does the softmax normalize?",
        "The sum runs over queries instead of keys. Both axes have T entries, so shapes cannot tell."),
    Bug("attention", "attention_backward", "dq = dscores @ k * scale", "dq = dscores @ k",
        "Is the scale in the forward's way on just one of the two paths?",
        "1 / sqrt(D) belongs to both dq and dk. With D = 64 the queries would learn eight times too fast."),
    Bug("attention", "attention_backward", "dk = dscores.swapaxes(-1, -2) @ q * scale", "dk = dscores @ q * scale",
        "Which token's key gathers from which tokens' queries?",
        "dk_s sums over the queries t that looked at s: dscores must be transposed. It is square, so it fits "
        "either way."),
    Bug("attention", "attention_backward", "dv = dropped.swapaxes(-1, -2) @ dheads",
        "dv = weights.swapaxes(-1, -2) @ dheads",
        "Try it with dropout.",
        "The values were mixed with the weights that dropout kept, not with all of them. Without dropout both are "
        "the same."),
    Bug("attention", "attention_backward", "dweights = ddropped if dropout_mask is None else ddropped * dropout_mask",
        "dweights = ddropped",
        "Try it with dropout.",
        "A weight that was dropped had no influence, and must get no gradient; one that stayed counted 1 / (1 - "
        "p) times."),
    Bug("attention", "attention_backward", "[merge_heads(dq), merge_heads(dk), merge_heads(dv)]",
        "[merge_heads(dk), merge_heads(dq), merge_heads(dv)]",
        "In which order are queries, keys and values packed?",
        "dq and dk changed places. Shapes are equal, and with symmetric data so are the sums."),
    Bug("attention", "merge_heads", "heads.transpose(0, 2, 1, 3)", "heads",
        "What lies side by side after the reshape: the heads of a token, or the tokens of a head?",
        "Without the transpose the reshape mixes tokens and heads: right shape, wrong places."),
    Bug("cross_entropy", "cross_entropy_backward", "dlogits[rows, target] -= dnll", "dlogits[rows, target] -= 1",
        "What is the target's share when the loss is a mean over N tokens?",
        "softmax - 1 at the target, but both are to be multiplied by dnll, which holds the 1 / N of the mean."),
    Bug("cross_entropy", "cross_entropy_backward", "dlogits[rows, target] -= dnll",
        "dlogits[rows, (target + 1) % p.shape[1]] -= dnll",
        "Which class does the loss speak of?",
        "Off by one: the targets were shifted when the batch was made, and are shifted again."),
    Bug("cross_entropy", "cross_entropy_backward", "counted / count * dloss",
        "np.ones(len(target)) / len(target) * dloss",
        "What of tokens that are to be ignored?",
        "Ignored tokens get a gradient, and the mean divides by all tokens instead of those that count: padding "
        "is learned."),
    Bug("dropout", "dropout_mask", "(keep * np.dtype(dtype).type(1 / (1 - p)))", "(keep * np.dtype(dtype).type(1))",
        "By how much was what stayed scaled in the forward?",
        "What stays was multiplied by 1 / (1 - p), so its gradient is too; here the backward forgets."),
    Bug("dropout", "dropout_backward", "dropout_mask(dout.shape, p, seed, dout.dtype)",
        "dropout_mask(dout.shape, p, seed + 1, dout.dtype)",
        "Which elements were dropped?",
        "Another mask than the forward's: the generator went on in between. A counter-based one, asked with the "
        "same seed, "
        "gives the same mask again."),
    Bug("gelu_linear", "gelu_linear_backward", "linear_backward(dout, (h, weight))",
        "linear_backward(dout, (x, weight))",
        "What did the linear layer see?",
        "dweight needs the layer's input, h = gelu(x), which was not kept and must be computed again; this hands "
        "over x."),
    Bug("gelu_linear", "gelu_linear_backward", "(dx,) = gelu_backward(dh, of_gelu)", "dx = dh",
        "Which part of the chain rule is between h and x?",
        "The gradient stops being multiplied by gelu's slope: the chain rule skipped a link."),
    Bug("linear_cross_entropy", "linear_cross_entropy_backward", "dweight = dlogits.T @ x",
        "dweight = 0 * (dlogits.T @ x)",
        "The head's weights are the embedding's. How many gradients does a tied table get?",
        "Two, one as the head and one as the embedding, and they are added. Here the head's is forgotten, as if "
        "untied."),
    Bug("add", "unbroadcast", "gradient.sum(axis=axes, keepdims=True)", "gradient.mean(axis=axes, keepdims=True)",
        "A number was used many times. How do the gradients of its uses combine?",
        "They are added. The mean is right only where nothing was stretched."),
    Bug("mul", "mul_backward", "unbroadcast(dout * a, b.shape)", "unbroadcast(dout * b, b.shape)",
        "The derivative of a b by b is not b.",
        "db = dout * a: each factor's gradient is multiplied by the other."),
    Bug("div", "div_backward", "-da * out", "da * out",
        "When the denominator grows, what does the fraction do?",
        "d(a/b)/db = -a/b^2: the sign is lost."),
    Bug("matmul", "matmul_backward", "rows.swapaxes(-1, -2) @ dout",
        "(dout.swapaxes(-1, -2) @ rows).swapaxes(-1, -2) * 0.999",
        "This one is nearly right.",
        "The product is right, the factor 0.999 is not: an error of a thousandth, which no loss curve shows and no "
        "eye sees in a list of numbers."),
    Bug("softmax", "softmax_backward", "(dout - (dout * p).sum(axis=axis, keepdims=True))", "dout * (1 - p)",
        "p_i (1 - p_i) is the diagonal of something.",
        "Only the diagonal of the Jacobian is there: p_i also depends on every other input, by -p_i p_j."),
    Bug("mean", "mean_backward", "_stretch(dout / count", "_stretch(dout",
        "Is it a sum or a mean?",
        "Each element has a share of 1/n in a mean: the division is missing."),
    Bug("max", "max_backward", "(largest / ties)", "largest",
        "What if two elements are equally large?",
        "Tied elements each get the whole gradient, twice as much as there is; it is to be divided among them."),
    Bug("getitem", "getitem_backward", "np.add.at(dx, index, dout)", "dx[index] += dout",
        "x[[2, 0, 2]]: how often is row 2 read?",
        "As with the embedding: an index that appears twice gets one gradient instead of the sum."),
    Bug("adamw", "adamw_update", "v_corrected = v / (1 - beta2**step)", "v_corrected = v",
        "How large is v after one step?",
        "The running mean of squares starts at zero and has seen a share of 1 - beta2 only: without the correction the "
        "first steps are up to thirty times too large. Warm-up hides it."),
    Bug("adamw", "adamw_update", "parameter *= 1 - lr * weight_decay", "parameter *= 1 - weight_decay",
        "By how much does a weight shrink a step?",
        "The decay is multiplied by the learning rate; without it a weight is gone after some steps, gradient or not."),
    Bug("adamw", "adamw_update", "(np.sqrt(v_corrected) + eps)", "np.sqrt(v_corrected + eps)",
        "Which is larger for a small gradient: 1e-8, or its root?",
        "eps belongs outside of the root. Inside it is a hundred-thousandth, 1e-4, and parameters with small gradients "
        "hardly move."),
    Bug("adamw", "adamw_update", "m += (1 - beta1) * gradient", "m += gradient",
        "A running mean of a constant should become that constant.",
        "The new gradient has no weight of its own: m grows to 1 / (1 - beta1) of the gradient, ten times the step."),
    Bug("sqrt", "sqrt_backward", "(2 * out)", "(2 * out * out)",
        "What was saved: the input or the output?",
        "d sqrt(a)/da = 1 / (2 sqrt(a)), and out is sqrt(a) already."),
]  # fmt: skip
