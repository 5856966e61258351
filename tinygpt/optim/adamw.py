"""
AdamW: how a gradient becomes a step, by running means of the gradient and of its square.

m and v are zero at first; `step` counts from 1:

    (1) m           = beta1 m + (1 - beta1) gradient          running mean of the gradient
    (2) v           = beta2 v + (1 - beta2) gradient^2        running mean of its square, element by element
    (3) m_corrected = m / (1 - beta1^step)                    the means without the zeros that they began with
    (4) v_corrected = v / (1 - beta2^step)
    (5) parameter   = (1 - lr weight_decay) parameter         decay
    (6) parameter   = parameter - lr m_corrected / (sqrt(v_corrected) + eps)

Steps (3) and (4). After n steps, (1) has added up to m = (1 - beta1) sum_i beta1^(n-i) gradient_i, i from 1 to n. The
weights (1 - beta1) beta1^(n-i) are a geometric series with the sum 1 - beta1^n, less than 1. Divided by it, they sum to
1, and m_corrected is a weighted mean of the gradients. The same holds for v and their squares.

Step (6). If all gradients are multiplied by one number, m_corrected and sqrt(v_corrected) are too: their ratio stays.
It is about 1 where gradients agree in sign and size, and near 0 where they cancel. So lr is roughly the size of a step,
in units of the parameter, for any scale of the loss.

Step (5). Adam with L2 regularization adds weight_decay * parameter to the gradient instead. Step (6) then divides it by
sqrt(v_corrected), too, and parameters with large gradients decay less. Here all decay at the same rate.

Source: Kingma & Ba 2014, arXiv:1412.6980, algorithm 1; Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.
Cost:   one pass that reads four arrays and writes three: bound by memory.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.dispatch import in_place
from tinygpt.autograd.watch import observable
from tinygpt.optim.merge_contiguous import merge_contiguous


def adamw_update(parameter, gradient, m, v, step, lr, betas, eps, weight_decay, scale=1.0):
    """
    One AdamW step, in place: `parameter`, `m` and `v` change, `gradient` does not.

    Parameters
    ----------
    parameter, gradient, m, v : float arrays of one shape
    step : int
        The number of this step, from 1.
    lr, betas, eps, weight_decay
        As `AdamW` takes them.
    scale : float
        What the gradient is multiplied by first, to clip its norm.
    """
    beta1, beta2 = betas
    gradient = gradient * parameter.dtype.type(scale)
    m *= beta1  # (1)
    m += (1 - beta1) * gradient
    v *= beta2  # (2)
    v += (1 - beta2) * (gradient * gradient)
    m_corrected = m / (1 - beta1**step)  # (3)
    v_corrected = v / (1 - beta2**step)  # (4)
    parameter *= 1 - lr * weight_decay  # (5)
    parameter -= lr * m_corrected / (np.sqrt(v_corrected) + eps)  # (6)


def _check_row(row: list[np.ndarray]) -> None:
    """Raise unless a parameter, its gradient and its moments still fit together, and the parameter can be written."""
    data, gradient, m, _ = row
    shape, dtype = data.shape, data.dtype
    if not (gradient.shape == m.shape == shape and gradient.dtype == m.dtype == dtype):
        found = ", ".join(f"{array.dtype} {array.shape}" for array in (data, gradient, m))
        raise ValueError(
            f"AdamW.step: a parameter, its gradient and its moments must have one shape and dtype, got {found}; "
            "after replacing its data, make a new Tensor and a new optimizer"
        )
    if not data.flags.writeable:
        raise ValueError(
            f"AdamW.step: a parameter of shape {data.shape} must be writable, got a read-only one; copy it"
        )


def _update(rows: list[list[np.ndarray]], *options: Any) -> None:
    """One AdamW step for each row of parameter, gradient, m and v; rows contiguous in memory in one pass."""
    for arrays in merge_contiguous(rows):
        if np.may_share_memory(arrays[0], arrays[1]):
            arrays[1] = arrays[1].copy()  # a parameter that is its own gradient, shifted perhaps
        in_place("AdamW.step", "tinygpt.kernels.adamw", adamw_update, arrays, options)


class AdamW:
    """
    Adam with decoupled weight decay.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Parameters; or groups as PyTorch takes them, each a dict with "params" and any of the options below. Frozen
        ones, which do not require gradients, stay as they are.
    lr : float
        Learning rate: roughly the size of a step, in the units of the parameters.
    betas : (float, float)
        How much of the running means of gradient and square is kept each step.
    eps : float
        Added to the root of the second moment.
    weight_decay : float
        Times lr, the share of a weight that each step takes away. It applies to parameters with two or more axes only
        (matrices, not biases or norms), unless a group names its own "weight_decay": that applies to all of the group.

    Attributes
    ----------
    param_groups : list of dict
        One or two for each group given; change ``group["lr"]`` to follow a schedule.

    Raises
    ------
    TypeError, ValueError
        If there are no parameters, one is given twice or is no leaf of floats, or an option is out of range.

    Examples
    --------
    >>> w = Tensor([1.0], requires_grad=True)
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.data.round(4)
    array([0.9], dtype=float32)
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01) -> None:  # fmt: skip
        params = _listed(params)
        groups = params if params and isinstance(params[0], dict) else [{"params": params}]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.param_groups: list[dict[str, Any]] = []
        for group in groups:
            if not isinstance(group, dict) or "params" not in group:
                raise TypeError(
                    f"AdamW: a group must be a dict with 'params', got {group!r}; do not mix groups and tensors"
                )
            members = [group["params"]] if isinstance(group["params"], Tensor) else _listed(group["params"])
            for p in members:
                if not (isinstance(p, Tensor) and p.is_leaf and p.dtype.kind == "f"):
                    raise TypeError(f"AdamW: parameters must be leaf tensors of floats, got {p!r}")
            options = defaults | {key: value for key, value in group.items() if key != "params"}
            _check_options(options)
            if "weight_decay" in group:
                parts = [(members, group["weight_decay"])]
            else:
                parts = [([p for p in members if p.ndim >= 2], weight_decay), ([p for p in members if p.ndim < 2], 0.0)]
            self.param_groups += [options | {"params": p, "weight_decay": decay} for p, decay in parts if p]
        self._check_parameters()
        self._state: dict[Tensor, dict[str, Any]] = {}

    def __copy__(self) -> AdamW:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_state": [(parameter, dict(state)) for parameter, state in self._state.items()]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For `copy.deepcopy` and pickle: the moments are contiguous again, those of the copied parameters."""
        vars(self).update(state)
        self._state = {}
        for parameter, copied in state["_state"]:
            mine = self._state_of(parameter)
            np.copyto(mine["m"], copied["m"])
            np.copyto(mine["v"], copied["v"])
            mine["step"] = copied["step"]

    @observable
    def step(self, scale: float = 1.0) -> None:
        """
        Update every parameter that has a gradient; the others, and their moments, stay as they are.

        Parameters
        ----------
        scale : float
            What the gradients are multiplied by as they are read, for instance ``min(1, max_norm / norm)``: the same
            as `clip_grad_norm` before the step, without reading and writing them once more.

        Raises
        ------
        ValueError
            If the data of a parameter was replaced by a read-only array, or one of another shape or dtype. No
            parameter has changed then.
        """
        due = [
            [(self._state_of(p), self._row_of(p)) for p in group["params"] if p.grad is not None]
            for group in self.param_groups
        ]
        for parts in due:
            for _, row in parts:
                _check_row(row)
        for group, parts in zip(self.param_groups, due, strict=True):
            rows: dict[tuple[int, np.dtype], list[list[np.ndarray]]] = defaultdict(list)
            for state, row in parts:
                state["step"] += 1
                rows[state["step"], row[0].dtype].append(row)
            for (step, _), arrays in rows.items():
                _update(arrays, step, group["lr"], group["betas"], group["eps"], group["weight_decay"], scale)

    @observable
    def zero_grad(self) -> None:
        """Forget all gradients: the next backward overwrites them."""
        for parameter in self._parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Moments and step counts by the parameters' numbers: "0.m", "0.v", "0.step", ... (arrays are not copied)."""
        state = {}
        for index, parameter in enumerate(self._parameters()):
            for key, value in self._state_of(parameter).items():
                state[f"{index}.{key}"] = np.asarray(value)
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """
        Restore what `state_dict` returned, for the same parameters in the same order.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape differs.
        TypeError
            If an array does not hold real numbers.
        """
        parameters = list(self._parameters())
        shapes = {f"{i}.{key}": p.shape for i, p in enumerate(parameters) for key in ("m", "v")}
        shapes |= {f"{i}.step": () for i in range(len(parameters))}
        for name in shapes.keys() ^ state.keys():
            raise ValueError(f"AdamW.load_state_dict: {name} is {'missing' if name in shapes else 'unknown'}; "
                             "the state is of other parameters")  # fmt: skip
        for name, shape in shapes.items():
            array = np.asarray(state[name])
            if array.shape != shape:
                raise ValueError(f"AdamW.load_state_dict: {name} must have shape {shape}, got {array.shape}")
            if array.dtype.kind not in "fiu":
                raise TypeError(f"AdamW.load_state_dict: {name} must hold real numbers, got {array.dtype}")
        for index, parameter in enumerate(parameters):
            mine = self._state_of(parameter)
            np.copyto(mine["m"], state[f"{index}.m"])
            np.copyto(mine["v"], state[f"{index}.v"])
            mine["step"] = int(state[f"{index}.step"])

    def _parameters(self) -> Iterable[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _row_of(self, parameter: Tensor) -> list[np.ndarray]:
        """What a step of this parameter reads and writes."""
        state = self._state_of(parameter)
        return [parameter.data, parameter.grad, state["m"], state["v"]]

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        if parameter not in self._state:
            self._begin(next(group["params"] for group in self.param_groups if parameter in set(group["params"])))
        return self._state[parameter]

    def _begin(self, parameters: list[Tensor]) -> None:
        """Moments of zero for those that have none, contiguous in their order: one array per dtype and moment."""
        parameters = [parameter for parameter in parameters if parameter not in self._state]
        sizes: Counter[np.dtype] = Counter()
        for parameter in parameters:
            sizes[parameter.dtype] += parameter.size
        moments = {dtype: np.zeros((2, size), dtype) for dtype, size in sizes.items()}
        for parameter in parameters:
            here = moments[parameter.dtype][:, : parameter.size]
            moments[parameter.dtype] = moments[parameter.dtype][:, parameter.size :]
            m, v = (moment.reshape(parameter.shape) for moment in here)
            self._state[parameter] = {"m": m, "v": v, "step": 0}

    def _check_parameters(self) -> None:
        seen: set[Tensor] = set()
        for parameter in self._parameters():
            if parameter in seen:
                raise ValueError(f"AdamW: a parameter of shape {parameter.shape} is given twice")
            seen.add(parameter)
        if not seen:
            raise ValueError("AdamW: needs at least one parameter, got none")


def _listed(params: Any) -> list[Any]:
    """The parameters as a list. A tensor or a dict, which are iterable too, is refused."""
    if isinstance(params, (Tensor, np.ndarray, Mapping, str, bytes)) or not isinstance(params, Iterable):
        remedy = "write model.parameters()" if hasattr(params, "parameters") else "write [tensor], or dict.values()"
        raise TypeError(
            f"AdamW: parameters must be a list of tensors or of dicts, got {type(params).__name__}; {remedy}"
        )
    return list(params)


def _check_options(options: Mapping[str, Any]) -> None:
    ranges = {"lr": options["lr"], "eps": options["eps"], "weight_decay": options["weight_decay"]}
    for name, value in ranges.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"AdamW: {name} must be at least 0, got {value}")
    if not all(0 <= beta < 1 for beta in options["betas"]):
        raise ValueError(f"AdamW: betas must be at least 0 and below 1, got {options['betas']}")
