"""
Modules: tensors with names.

A module's parameters are its attributes that are a `Parameter` or another tensor that requires gradients, and those of
the modules among its attributes, in the order in which they were set. A `Parameter` whose `requires_grad` is switched
off is frozen: saved and loaded, but not learned. Their names are the paths to them: `h.0.attn.c_attn.weight`.

`flatten_parameters` moves all of them into one array, and their gradients into another: each parameter becomes a view.
Backward then writes every gradient where it stays, nothing is allocated from the second step on, and an optimizer that
treats all parameters alike has one array to go through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.summary import parameter_table, table_as_html, table_as_text
from tinygpt.autograd.watch import current_watch
from tinygpt.nn.placement import Placement
from tinygpt.runtime.memory import empty

Self = TypeVar("Self", bound="Module")


class Parameter(Tensor):
    """
    A tensor that a module learns, and that is part of its state even while it is frozen.

    Examples
    --------
    >>> from tinygpt.nn import LayerNorm
    >>> layer = LayerNorm(3)
    >>> layer.bias.requires_grad = False
    >>> sorted(layer.state_dict())
    ['bias', 'weight']
    """

    __slots__ = ()

    def __init__(self, data: np.ndarray) -> None:
        super().__init__(data, requires_grad=True)


class Module(Placement):
    """
    Something with parameters.

    Attributes
    ----------
    training : bool
        Whether dropout drops. Set by `train` and `eval`.
    flat_parameters, flat_gradients : np.ndarray, shape (num_parameters,)
        Present after `flatten_parameters`; matrices first, so that what is decayed lies together.

    Examples
    --------
    >>> from tinygpt.nn import Linear
    >>> layer = Linear(2, 3, np.random.default_rng(0))
    >>> [(name, parameter.shape) for name, parameter in layer.named_parameters()]
    [('weight', (2, 3)), ('bias', (3,))]
    >>> layer.num_parameters()
    9
    >>> layer
    Linear: 9 parameters, float32, training
      weight  (2, 3)  6  none
      bias    (3,)    3  none
    """

    training = True

    def __copy__(self) -> Module:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "flat_gradients"}
        if "flat_parameters" in state:
            state["flat_parameters"] = None  # built again from the parameters
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For `copy.deepcopy` and pickle: a copy's parameters are contiguous again, in an array of its own."""
        vars(self).update(state)
        if "flat_parameters" in state:
            self.flatten_parameters()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """What `forward` returns."""
        watch = current_watch()
        if watch is None:
            return self.forward(*args, **kwargs)
        with watch.module(self):
            return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__}: define forward()")

    def children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside, with their names; those of a list are numbered."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every parameter with its path, depth first; a tied one, in two places, once."""
        seen: set[int] = set()
        for name, parameter in self._paths(prefix):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _paths(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every path to a parameter."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter) or (isinstance(value, Tensor) and value.requires_grad):
                yield prefix + name, value
        for name, child in self.children():
            yield from child._paths(f"{prefix}{name}.")

    def modules(self) -> Iterator[Module]:
        """This module and every module inside it, depth first."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def parameters(self) -> list[Tensor]:
        """Every parameter, in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.size for parameter in self.parameters())

    def train(self: Self, mode: bool = True) -> Self:
        """Switch dropout on (or off). Returns the module."""
        if not isinstance(mode, (bool, np.bool_)):
            raise TypeError(f"Module.train: mode must be True or False, got {mode!r}")
        self.training = mode
        for _, child in self.children():
            child.train(mode)
        return self

    def eval(self: Self) -> Self:
        """Switch dropout off. Returns the module."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients: the next backward overwrites them."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name (not copies: they change as training goes on)."""
        return {name: parameter.data for name, parameter in self._paths()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """
        Copy arrays into the parameters of the same names. Nothing is written unless everything fits.

        Quantized weights are forgotten: the layers hold what was loaded.

        Parameters
        ----------
        state : mapping of str to array
            Exactly the names and shapes of `state_dict`; converted to each parameter's dtype.

        Raises
        ------
        ValueError
            If names are missing or unknown, or a shape differs.
        TypeError
            If an array does not hold real numbers.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: state must map names to arrays, got {type(state).__name__}")
        parameters = dict(self._paths())
        missing, unknown = sorted(parameters.keys() - state.keys()), sorted(state.keys() - parameters.keys())
        if missing or unknown:
            problems = [
                f"{what} {_few(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names
            ]
            raise ValueError(f"load_state_dict: the names must be those of this {type(self).__name__}: "
                             + "; ".join(problems))  # fmt: skip
        for name, parameter in parameters.items():
            array = np.asarray(state[name])
            if array.shape != parameter.shape:
                raise ValueError(f"load_state_dict: {name} must have shape {parameter.shape}, got {array.shape}")
            if not np.can_cast(array.dtype, parameter.dtype, "same_kind"):
                raise TypeError(f"load_state_dict: {name} must be convertible to {parameter.dtype}, got {array.dtype}")
        for name, parameter in parameters.items():
            np.copyto(parameter.data, state[name])
        for module in self.modules():
            vars(module).pop("quantized", None)

    def flatten_parameters(self) -> None:
        """Move all parameters into `flat_parameters` and give their gradients a place in `flat_gradients`."""
        parameters = sorted(self.parameters(), key=lambda parameter: parameter.ndim < 2)
        if len({parameter.dtype for parameter in parameters}) > 1:
            raise TypeError("flatten_parameters: all parameters must have one dtype")
        dtype = parameters[0].dtype if parameters else np.float32
        self.flat_parameters = np.empty(sum(parameter.size for parameter in parameters), dtype)
        self.flat_gradients = empty(self.flat_parameters.size, dtype)
        start = 0
        for parameter in parameters:
            here = slice(start, start + parameter.size)
            self.flat_parameters[here] = parameter.data.ravel()
            parameter.data = self.flat_parameters[here].reshape(parameter.shape)
            if parameter.requires_grad:
                parameter.keep_grad_in(self.flat_gradients[here].reshape(parameter.shape))
                parameter.grad = parameter.grad  # one that is there already moves: the next backward will add to it
            start = here.stop

    def __repr__(self) -> str:
        return table_as_text(self._title(), parameter_table(self.named_parameters()))

    def _repr_html_(self) -> str:
        return table_as_html(self._title(), parameter_table(self.named_parameters()))

    def _title(self) -> str:
        kinds = ", ".join(sorted({str(parameter.dtype) for parameter in self.parameters()})) or "none"
        mode, count = "training" if self.training else "evaluating", self.num_parameters()
        return f"{type(self).__name__}: {count:,} parameter{'s' * (count != 1)}, {kinds}, {mode}"


def _few(names: list[str]) -> str:
    more = f" ({len(names)} in all)" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "none") + more
