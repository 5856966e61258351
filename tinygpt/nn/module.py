"""
Modules: parameters with names, and what computes with them.

A module's parameters are its attributes that are a `Parameter` or another tensor that requires gradients, and those of
the modules among its attributes, in the order in which they were set. Their names are the paths to them:
`h.0.attn.c_attn.weight`. A `Parameter` whose `requires_grad` is switched off is frozen: saved and loaded, but not
learned. A buffer is a tensor that is saved and loaded, and never learned, such as a mask or a running mean.

`flatten_parameters` moves all parameters into one array, and their gradients into another: each parameter becomes a
view. Backward then writes every gradient where it stays, nothing is allocated from the second step on, and an optimizer
that treats all parameters alike updates one array.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.conversion import device_and_dtype
from tinygpt.autograd.hooks import HookHandle, Hooks
from tinygpt.autograd.summary import parameter_table, table_as_html, table_as_text
from tinygpt.autograd.watch import current_watch
from tinygpt.runtime.memory import empty
from tinygpt.runtime.missing import missing_attribute
from tinygpt.runtime.plain_array import plain_array

Self = TypeVar("Self", bound="Module")
_Item = TypeVar("_Item")


class Parameter(Tensor):
    """
    A tensor that a module learns, and that is part of its state even while it is frozen.

    Parameters
    ----------
    data : array_like or Tensor
        float32 or float64, shared, not copied; a list of numbers becomes float32.
    requires_grad : bool
        False for a parameter that is frozen.

    Examples
    --------
    >>> from tinygpt.nn import LayerNorm
    >>> layer = LayerNorm(3)
    >>> layer.bias.requires_grad = False
    >>> sorted(layer.state_dict())
    ['bias', 'weight']
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad)


class Members(list[_Item]):
    """
    A list that `next` walks through, too, as it does through PyTorch's iterators.

    Examples
    --------
    >>> from tinygpt.nn import Linear
    >>> next(Linear(2, 3).parameters()).device
    'cpu'
    """

    _walk: Iterator[_Item] | None = None

    def __next__(self) -> _Item:
        self._walk = self._walk or iter(self)
        return next(self._walk)


class LoadResult(NamedTuple):
    """What `load_state_dict` did not load: names that the state lacked, and names that the module does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """
    A part of a model, with its parameters. Subclasses define `forward`; calling `super().__init__()` is optional.

    Attributes
    ----------
    training : bool
        Whether dropout drops. Set by `train` and `eval`.
    flat_parameters, flat_gradients : np.ndarray, shape (num_parameters,)
        Present after `flatten_parameters`; matrices first, so that those with weight decay are contiguous.

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
    _buffers: Mapping[str, bool] = {}  # the names of the buffers, and whether they are saved; replaced, never changed
    _hooks: tuple[Hooks, Hooks] | None = None  # before forward and after it
    _flat_gradients: tuple[np.ndarray, list[Any]]  # and the nodes of the parameters that have their gradients there
    _computes_in_turn = False  # whether its parts, in order, are all that it computes

    def __copy__(self) -> Module:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_flat_gradients"}
        if "flat_parameters" in state:
            state["flat_parameters"] = None  # built again from the parameters
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For `copy.deepcopy` and pickle: a copy's parameters are contiguous again, in an array of its own."""
        vars(self).update(state)
        if "flat_parameters" in state:
            self.flatten_parameters()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """What `forward` returns, or a hook in its place."""
        watch, hooks = current_watch(), self._hooks
        if watch is None and hooks is None:
            return self.forward(*args, **kwargs)
        with contextlib.nullcontext() if watch is None else watch.module(self):
            return self.forward(*args, **kwargs) if hooks is None else self._between_hooks(*hooks, args, kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__}: define forward()")

    # hooks

    def register_forward_pre_hook(self, hook: Callable[[Any, tuple[Any, ...]], Any]) -> HookHandle:
        """
        Call ``hook(module, inputs)`` each time before the module computes.

        Parameters
        ----------
        hook : callable
            `inputs` are the positional arguments, a tuple. What it returns, unless it is None, takes their place.

        Returns
        -------
        HookHandle
            `handle.remove()` removes the hook again.
        """
        return self._register(0, hook)

    def register_forward_hook(self, hook: Callable[[Any, tuple[Any, ...], Any], Any]) -> HookHandle:
        """
        Call ``hook(module, inputs, output)`` each time after the module has computed.

        A hook runs where the module is called, not where another module reads its parameters: generation with `GPT`
        calls the blocks, the modules inside them, and the last layer norm, and no other module.

        Parameters
        ----------
        hook : callable
            `inputs` are the positional arguments, a tuple. What it returns, unless it is None, is the output instead.

        Returns
        -------
        HookHandle
            `handle.remove()` removes the hook again.

        Examples
        --------
        >>> from tinygpt.nn import Linear
        >>> layer = Linear(2, 3)
        >>> handle = layer.register_forward_hook(lambda module, inputs, output: print(inputs[0].shape, output.shape))
        >>> out = layer(Tensor([[1.0, 2.0]]))
        (1, 2) (1, 3)
        >>> handle.remove()
        """
        return self._register(1, hook)

    def _register(self, place: int, hook: Callable[..., Any]) -> HookHandle:
        hooks = ({}, {}) if self._hooks is None else self._hooks
        handle = HookHandle(hooks[place], hook)
        self._hooks = hooks
        return handle

    def _between_hooks(self, before: Hooks, after: Hooks, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for hook in list(before.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook in list(after.values()):
            changed = hook(self, args, output)
            output = output if changed is None else changed
        return output

    # modules inside

    def _parts(self) -> Iterator[tuple[str, Module]]:
        """Every module directly inside, with its name; one that is in two places, twice."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module))

    def _module_paths(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Every path to a module, depth first, this module before those inside."""
        yield prefix, self
        for name, part in self._parts():
            yield from part._module_paths(_joined(prefix, name))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside, with their names; those of a list or tuple are numbered."""
        return _once(self._parts())

    def children(self) -> Iterator[Module]:
        """The modules directly inside."""
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and every module inside it with their paths, depth first; one that is in two places, once."""
        return _once(self._module_paths(prefix))

    def modules(self) -> Iterator[Module]:
        """This module and every module inside it, depth first."""
        return (module for _, module in self.named_modules())

    def get_submodule(self, target: str) -> Module:
        """The module at a path, such as "h.0.attn"; AttributeError if there is none."""
        return self._found("get_submodule", "named_modules", self._module_paths(), target)

    def add_module(self, name: str, module: Module | None) -> None:
        """
        Set an attribute to a module, or to None; for names that are made while the program runs.

        Raises
        ------
        TypeError, ValueError
            If it is no module, or the name contains a dot or is in use for something else.
        """
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}.add_module: {name} must be a Module, got {_kind(module)}")
        self._check_name("add_module", name, free=isinstance(getattr(self, str(name), None), Module))
        setattr(self, name, module)

    def apply(self: Self, function: Callable[[Module], Any]) -> Self:
        """
        Call ``function(module)`` for every module inside and then for this one. Returns the module.

        Examples
        --------
        >>> from tinygpt.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(2, 3), ReLU()).apply(lambda module: print(type(module).__name__))
        Linear
        ReLU
        Sequential
        """
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # parameters and buffers

    def _own_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter) or (
                isinstance(value, Tensor) and value.requires_grad and value.is_leaf and name not in self._buffers
            ):
                yield name, value

    def _own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        for name in self._buffers:
            value = vars(self).get(name)
            if value is None or isinstance(value, Parameter):
                continue
            if isinstance(value, Tensor):
                yield name, value
            else:
                raise TypeError(f"{type(self).__name__}.{name}: a buffer must be a Tensor or None, got {_kind(value)}; "
                                "write Tensor(...)")  # fmt: skip

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._own_parameters()
        yield from ((name, buffer) for name, buffer in self._own_buffers() if self._buffers[name])

    def _paths(self, own: Callable[[Any], Iterator[tuple[str, Tensor]]], prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every path to a tensor, of those that `own` finds in a module."""
        for path, module in self._module_paths(prefix):
            for name, tensor in own(module):
                yield _joined(path, name), tensor

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every parameter with its path, depth first; a tied one, in two places, once."""
        return _once(self._paths(Module._own_parameters, prefix))

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every buffer with its path, depth first; one that is in two places, once."""
        return _once(self._paths(Module._own_buffers, prefix))

    def parameters(self) -> Members[Tensor]:
        """Every parameter, in the order of `named_parameters`: a list."""
        return Members(parameter for _, parameter in self.named_parameters())

    def buffers(self) -> Members[Tensor]:
        """Every buffer, in the order of `named_buffers`: a list."""
        return Members(buffer for _, buffer in self.named_buffers())

    def get_parameter(self, target: str) -> Tensor:
        """The parameter at a path, such as "h.0.ln_1.weight"; AttributeError if there is none."""
        return self._found("get_parameter", "named_parameters", self._paths(Module._own_parameters), target)

    def _found(self, who: str, source: str, named: Iterator[tuple[str, Any]], target: str) -> Any:
        for name, item in named:
            if name == target:
                return item
        raise AttributeError(f"{type(self).__name__}.{who}: there is no {target!r}; {source}() has all names")

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """
        Set an attribute to a parameter, or to None; for names that are made while the program runs.

        Raises
        ------
        TypeError, ValueError
            If it is no `Parameter`, or the name contains a dot or is in use for something else.
        """
        if parameter is not None and not isinstance(parameter, Parameter):
            raise TypeError(f"{type(self).__name__}.register_parameter: {name} must be a Parameter, "
                            f"got {_kind(parameter)}; write Parameter(...)")  # fmt: skip
        self._check_name("register_parameter", name, free=isinstance(getattr(self, str(name), None), Parameter))
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """
        Set an attribute to a tensor that is saved and loaded with the parameters, and never learned.

        It stays a buffer when the attribute is set to another tensor.

        Parameters
        ----------
        name : str
        tensor : Tensor, array_like or None
        persistent : bool
            Whether it is part of `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If the tensor cannot be one, or the name contains a dot or is in use for something else.

        Examples
        --------
        >>> module = Module()
        >>> module.register_buffer("mean", [0.0, 0.0])
        >>> module.mean += 1.0
        >>> module.state_dict(), module.parameters()
        ({'mean': array([1., 1.], dtype=float32)}, [])
        """
        self._check_name("register_buffer", name, free=name in self._buffers)
        setattr(self, name, tensor if tensor is None or isinstance(tensor, Tensor) else Tensor(tensor))
        self._buffers = {**self._buffers, name: persistent}

    def _check_name(self, who: str, name: Any, free: bool) -> None:
        who = f"{type(self).__name__}.{who}"
        if not isinstance(name, str):
            raise TypeError(f"{who}: a name must be a str, got {_kind(name)}")
        if not name or "." in name:
            raise ValueError(
                f"{who}: a name must not be empty or contain a dot, got {name!r}; dots join the names of paths"
            )
        if hasattr(Module, name) or (hasattr(self, name) and not free and getattr(self, name) is not None):
            raise ValueError(f"{who}: {type(self).__name__} has an attribute {name!r} already; choose another name")

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Freeze all parameters (False), or let them be learned. Returns the module."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.size for parameter in self.parameters())

    def train(self: Self, mode: bool = True) -> Self:
        """Switch dropout on (or off). Returns the module."""
        if not isinstance(mode, (bool, np.bool_)):
            raise TypeError(f"Module.train: mode must be True or False, got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: Self) -> Self:
        """Switch dropout off. Returns the module."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients: the next backward overwrites them. With ``set_to_none=False`` they become zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad[...] = 0

    # PyTorch's methods that move a module, which stays where it is

    def to(self: Self, *args: Any, device: Any = "cpu", dtype: Any = None) -> Self:
        """
        The module itself: it computes on the CPU, in the dtype that it was made with.

        Parameters
        ----------
        *args
            "cpu", a dtype, or both.
        device, dtype
            The same by name.

        Raises
        ------
        ValueError
            If another device than the CPU is asked for, or another dtype than that of the parameters.

        Examples
        --------
        >>> from tinygpt.nn import LayerNorm
        >>> layer = LayerNorm(3)
        >>> layer.to("cpu") is layer
        True
        """
        wanted = device_and_dtype("model", args, device, dtype)
        found = {parameter.dtype for parameter in self.parameters()}
        if wanted is not None and found - {wanted}:
            raise ValueError(
                f"{type(self).__name__}.to: the parameters are {', '.join(sorted(map(str, found)))} and stay so, got "
                f"{wanted}; make the module with dtype= and load_state_dict into it"
            )
        return self

    def cpu(self: Self) -> Self:
        """The module itself."""
        return self

    if not TYPE_CHECKING:  # a type checker reports unknown names itself

        def __getattr__(self, name):
            raise missing_attribute(self, "Module", name)

    # state

    def state_dict(self) -> dict[str, np.ndarray]:
        """The arrays of parameters and buffers by name (not copies: they change as training goes on)."""
        return {name: tensor.data for name, tensor in self._paths(Module._own_state)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """
        Copy arrays into the parameters and buffers of the same names. Nothing is written unless everything fits.

        Quantized weights are forgotten: the layers hold what was loaded.

        Parameters
        ----------
        state : mapping of str to array
            The names and shapes of `state_dict`; arrays, lists, tensors of tinygpt or of PyTorch. They are converted to
            the dtype that is there. A weight of PyTorch's `Linear` has the shape (outputs, inputs), one of `nn.Linear`
            (inputs, outputs): transpose it, a square one too, which would fit either way.
        strict : bool
            Whether the names must be exactly those of `state_dict`. Else what both have is loaded.

        Returns
        -------
        LoadResult
            `missing_keys` and `unexpected_keys`, lists of names.

        Raises
        ------
        ValueError
            If names are missing or unknown and `strict` is set, a shape differs, or an array here is read-only.
        TypeError
            If an array does not hold real numbers.

        Examples
        --------
        >>> from tinygpt.nn import Linear
        >>> Linear(2, 3).load_state_dict({"weight": np.ones((2, 3))}, strict=False)
        LoadResult(missing_keys=['bias'], unexpected_keys=[])
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: state must map names to arrays, got {type(state).__name__}")
        tensors = dict(self._paths(Module._own_state))
        missing = [name for name in tensors if name not in state]
        unknown = [name for name in state if name not in tensors]
        if strict and (missing or unknown):
            problems = [
                f"{what} {_few(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names
            ]
            raise ValueError(f"load_state_dict: the names must be those of this {type(self).__name__}: "
                             + "; ".join(problems) + "; strict=False loads those that it has")  # fmt: skip
        arrays = {name: _fitting(name, state[name], tensor) for name, tensor in tensors.items() if name in state}
        for name in arrays:
            if not tensors[name].data.flags.writeable:
                raise ValueError(f"load_state_dict: {name} must be writable, and its array is read-only; copy it")
        for name, array in arrays.items():
            np.copyto(tensors[name].data, array)
        for module in self.modules():
            vars(module).pop("quantized", None)
        return LoadResult(missing, unknown)

    def flatten_parameters(self) -> None:
        """Move all parameters into `flat_parameters` and give their gradients a place in `flat_gradients`."""
        parameters = sorted(self.parameters(), key=lambda parameter: parameter.ndim < 2)
        if len({parameter.dtype for parameter in parameters}) > 1:
            raise TypeError("flatten_parameters: all parameters must have one dtype")
        dtype = parameters[0].dtype if parameters else np.float32
        self.flat_parameters = np.empty(sum(parameter.size for parameter in parameters), dtype)
        gradients, nodes = self._flat_gradients = empty(self.flat_parameters.size, dtype), []
        start = 0
        for parameter in parameters:
            here = slice(start, start + parameter.size)
            self.flat_parameters[here] = parameter.data.ravel()
            parameter.data = self.flat_parameters[here].reshape(parameter.shape)
            if parameter.requires_grad:
                parameter.keep_grad_in(gradients[here].reshape(parameter.shape))
                nodes.append(parameter.node)
            start = here.stop
        for node in nodes:
            node.private = True  # nobody has seen the new array yet

    @property
    def flat_gradients(self) -> np.ndarray:
        gradients, nodes = self._flat_gradients
        for node in nodes:
            node.publish()
        return gradients

    @flat_gradients.setter
    def flat_gradients(self, array: np.ndarray) -> None:
        np.copyto(self.flat_gradients, array)  # nothing after `*=`, which has written there already

    # what is shown

    def extra_repr(self) -> str:
        """What a module says of itself in its `repr`, such as "p=0.5"; for subclasses to define."""
        return ""

    def __repr__(self) -> str:
        rows = parameter_table(self._shown())
        return table_as_text(self._title(), rows) if rows else self._described()

    def _repr_html_(self) -> str:
        return table_as_html(self._title(), parameter_table(self._shown()))

    def _described(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _shown(self) -> Iterator[tuple[str, Tensor | str]]:
        """The rows of the table: each parameter, and each part of a `Sequential` that has none."""
        seen, parts = set(), set()
        for path, module in self._module_paths():
            if module._computes_in_turn:
                parts |= {_joined(path, name) for name, part in module._parts() if not part.parameters()}
            elif path in parts:
                yield path, module._described()
            for name, parameter in module._own_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield _joined(path, name), parameter

    def _title(self) -> str:
        kinds = ", ".join(sorted({str(parameter.dtype) for parameter in self.parameters()})) or "none"
        mode, count = "training" if self.training else "evaluating", self.num_parameters()
        name = self._described() if self.extra_repr() else type(self).__name__
        return f"{name}: {count:,} parameter{'s' * (count != 1)}, {kinds}, {mode}"


def _once(named: Iterator[tuple[str, _Item]]) -> Iterator[tuple[str, _Item]]:
    """Each item by the first of its names."""
    seen: set[int] = set()
    for name, item in named:
        if id(item) not in seen:
            seen.add(id(item))
            yield name, item


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _fitting(name: str, value: Any, tensor: Tensor) -> np.ndarray:
    """What a state has for a tensor, as an array of its shape; an error says why it does not fit."""
    try:
        array = plain_array(value)
    except TypeError as error:
        raise TypeError(f"load_state_dict: {name} must be an array, got {type(value).__name__}: {error}") from None
    if array.shape != tensor.shape:
        transposed = array.ndim == 2 and array.shape[::-1] == tensor.shape
        remedy = "; transpose it: the weight of nn.Linear is (inputs, outputs), PyTorch's (outputs, inputs)"
        raise ValueError(f"load_state_dict: {name} must have shape {tensor.shape}, got {array.shape}"
                         + (remedy if transposed else ""))  # fmt: skip
    if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
        raise TypeError(f"load_state_dict: {name} must be convertible to {tensor.dtype}, got {array.dtype}")
    return array


def _few(names: list[str]) -> str:
    more = f" ({len(names)} in all)" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
