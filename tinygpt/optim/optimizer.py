"""
What every optimizer has: groups of parameters with their options, a state for each parameter, and the loop of a step.

An optimizer of your own is an update, which is a function that changes arrays in place, and the names of its options:

    class SignSGD(Optimizer):
        def __init__(self, params, lr=1e-3):
            super().__init__(params, {"lr": lr})

        @staticmethod
        def update(parameter, gradient, lr, scale=1.0):
            parameter -= lr * np.sign(scale * gradient)

`step` calls `update` with one flat array for all parameters that are contiguous in memory and have equal options, so it
works element by element. An optimizer that needs each parameter with its shape overrides `step`, as in PyTorch, with
`self.param_groups` and `self.state[parameter]`, a dict that is empty at first.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.dispatch import in_place
from tinygpt.autograd.gradients import SCALE_LOCK
from tinygpt.autograd.watch import current_watch, observable
from tinygpt.optim.merge_contiguous import merge_contiguous
from tinygpt.runtime.plain_array import plain_array

_AT_LEAST_ZERO = ("lr", "eps", "weight_decay", "momentum", "dampening")
_SWITCHES = ("nesterov", "decay_vectors", "decoupled_weight_decay")
# PyTorch's options that are not here: those that leave results as they are, and what to write in place of the others.
_WITHOUT_EFFECT = {"foreach", "fused", "capturable", "param_names"}
_UNSUPPORTED = {"amsgrad": "leave it out", "maximize": "negate the loss", "differentiable": "leave it out"}
_OTHERS = {*_WITHOUT_EFFECT, *_UNSUPPORTED}


class Optimizer:
    """
    The base class of optimizers.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor), or of dict
        Parameters; or pairs with their names, which are not kept; or groups as PyTorch takes them, each a dict with
        "params" and any of the options. Frozen ones, which do not require gradients, stay as they are.
    defaults : dict
        The options of a group that does not name its own.
    others : dict, optional
        Further options that the optimizer was called with. Those of PyTorch's that would change nothing are dropped.

    Attributes
    ----------
    param_groups : list of dict
        As given; change ``group["lr"]`` to follow a schedule.
    state : dict of Tensor to dict
        What is kept of each parameter from step to step.
    state_names : tuple of str
        What `step` keeps: "step", the number of its steps, and arrays like the parameter, which are zero at first.
    kernel : module or str, optional
        The module that has the fast `update`, or its name.

    Raises
    ------
    TypeError, ValueError
        If there are no parameters, one is given twice or is no leaf of floats, or an option is out of range.

    Examples
    --------
    >>> class SignSGD(Optimizer):
    ...     def __init__(self, params, lr=1e-3):
    ...         super().__init__(params, {"lr": lr})
    ...
    ...     @staticmethod
    ...     def update(parameter, gradient, lr, scale=1.0):
    ...         parameter -= lr * np.sign(scale * gradient)
    >>> w = Tensor([1.0, -2.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> optimizer = SignSGD([w], lr=0.5)
    >>> optimizer.step()
    >>> w.data
    array([ 0.5, -1.5], dtype=float32)
    """

    state_names: tuple[str, ...] = ()
    kernel: Any = None
    # The class's own kernel and update, which leave gradients as they are; those of a subclass may not.
    _reads_gradients_in: tuple[Any, Any] = None, None

    def __init__(
        self, params: Iterable[Any], defaults: Mapping[str, Any], others: Mapping[str, Any] | None = None
    ) -> None:
        who = type(self).__name__
        self.defaults = dict(defaults)
        for name in (others or {}).keys() - _OTHERS - defaults.keys():
            raise TypeError(f"{who}: got an unexpected option {name!r}; its options are {', '.join(defaults)}")
        self._complete(others or {}, who)
        self.param_groups: list[dict[str, Any]] = []
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        listed = self._listed(params)
        for group in listed if listed and isinstance(listed[0], dict) else [{"params": listed}]:
            self.add_param_group(group)
        if not any(group["params"] for group in self.param_groups):
            raise ValueError(f"{who}: needs at least one parameter, got none")

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for number, group in enumerate(self.param_groups):
            text += f"\nParameter Group {number}\n"
            text += "".join(f"    {name}: {group[name]}\n" for name in sorted(group) if name != "params")
        return text + ")"

    def __copy__(self) -> Optimizer:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "state": [(parameter, dict(state)) for parameter, state in self.state.items()]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For `copy.deepcopy` and pickle: the state's arrays are contiguous again."""
        vars(self).update(state)
        self._restore(dict(state["state"]))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """
        Add a group of parameters, such as layers that are unfrozen while a model trains.

        Parameters
        ----------
        param_group : dict
            "params", and any of the options; the others are those that the optimizer was made with.

        Examples
        --------
        >>> from tinygpt.optim import SGD
        >>> head, body = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
        >>> optimizer = SGD([head], lr=0.1)
        >>> optimizer.add_param_group({"params": [body], "lr": 0.01})
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.01]
        """
        who = type(self).__name__
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(
                f"{who}: a group must be a dict with 'params', got {param_group!r}; do not mix groups and tensors"
            )
        given = param_group["params"]
        members = [given] if isinstance(given, Tensor) else self._listed(given)
        members = [p[1] if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) else p for p in members]
        seen = set(self._parameters())
        for p in members:
            if not (isinstance(p, Tensor) and p.is_leaf and p.dtype.kind == "f"):
                raise TypeError(f"{who}: parameters must be leaf tensors of floats, got {self._described(p)}")
            if p in seen:
                raise ValueError(f"{who}: a parameter of shape {p.shape} is given twice")
            seen.add(p)
        self.param_groups.append({"params": members} | self._complete(param_group, who))

    @observable
    def step(self, closure: Callable[[], Any] | None = None, scale: float = 1.0) -> Any:
        """
        Update every parameter that has a gradient; the others, and their state, stay as they are.

        Parameters
        ----------
        closure : callable, optional
            Called first: it computes the loss and its gradients, as PyTorch's optimizers take it.
        scale : float
            What the gradients are multiplied by as they are read. ``min(1, max_norm / norm)`` clips them as
            `clip_grad_norm` does, and never takes a pass over them.

        Returns
        -------
        what `closure` returned, or None

        Raises
        ------
        ValueError
            If the data of a parameter was replaced by a read-only array, or one of another shape or dtype, or an option
            was set to one that is out of range. No parameter has changed then.
        TypeError
            If `closure` is no function, or `scale` no number.
        """
        who = f"{type(self).__name__}.step"
        if closure is not None and not callable(closure):
            raise TypeError(f"{who}: closure must be a function that computes the loss, got {closure!r}; "
                            "write step(scale=...) to multiply the gradients")  # fmt: skip
        if not isinstance(scale, Real):
            raise TypeError(f"{who}: scale must be a number, got {scale!r}")
        loss = None if closure is None else closure()
        groups = [(group, _having_gradients(group["params"])) for group in self.param_groups]
        for group, parameters in groups:
            self._check_group(group, parameters, who)
        # A thread that reads `Tensor.grad` meanwhile waits: it would multiply what the update is reading.
        with SCALE_LOCK if self._only_reads_gradients() else contextlib.nullcontext():
            for group, parameters in groups:
                self._update_group(group, parameters, who, scale)
        return loss

    def _check_group(self, group: dict[str, Any], parameters: list[Tensor], who: str) -> None:
        """Raise unless the options and arrays are as a step needs them; a user's update is handed whole gradients."""
        if not self._only_reads_gradients():
            for parameter in parameters:
                parameter.node.publish()  # type: ignore[union-attr]
        self._check_options(group, who)  # a schedule may have changed them
        for parameter in parameters:
            self._check_step_arrays(self._step_arrays(group, parameter))

    def _update_group(self, group: dict[str, Any], parameters: list[Tensor], who: str, scale: float) -> None:
        if current_watch() is not None:  # a watch may read gradients at any time
            for parameter in parameters:
                parameter.node.apply_pending_scale()  # type: ignore[union-attr]
        by_options = self._by_options(group, parameters)
        self._begin_state(self._array_names(group), [p for members in by_options.values() for p in members])
        for (options, _, pending_scale), members in by_options.items():
            for arrays in merge_contiguous([self._step_arrays(group, parameter) for parameter in members]):
                if np.may_share_memory(arrays[0], arrays[1]):
                    arrays[1] = arrays[1].copy()  # the update must not change the gradient that it still reads
                in_place(who, self.kernel, self.update, arrays, (*options, scale * pending_scale))
            if "step" in self.state_names:
                for parameter in members:
                    self.state[parameter]["step"] += 1

    def _only_reads_gradients(self) -> bool:
        """Whether a step gives the gradients to the class's own kernel and update alone, not to a user's."""
        return (self.kernel, self.update) == self._reads_gradients_in

    @staticmethod
    def update(*arrays_and_options: Any) -> None:
        """
        Change parameters in place: ``update(parameter, gradient, *arrays of the state, *options, scale)``.

        `options` are those that `update_options` returns; the gradient is to be multiplied by `scale`.
        """
        raise NotImplementedError("define update(), or override step(): see tinygpt/optim/optimizer.py")

    def update_options(self, group: dict[str, Any], parameter: Tensor) -> tuple[Any, ...]:
        """The options that `update` takes for the next step of a parameter; all of its group, if not overridden."""
        return tuple(group[name] for name in self.defaults)

    @observable
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients: the next backward overwrites them. Without `set_to_none`, fill them with zeros."""
        for parameter in self._parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad[...] = 0

    def state_dict(self) -> dict[str, Any]:
        """
        The state and the options, laid out as PyTorch's: its optimizers load it once arrays are tensors.

        Returns
        -------
        dict
            "state", by the numbers of the parameters: arrays, not copied. "param_groups": the options of each group,
            and under "params" its parameters' numbers.

        Examples
        --------
        >>> from tinygpt.optim import SGD
        >>> w = Tensor([1.0], requires_grad=True)
        >>> optimizer = SGD([w], lr=0.1, momentum=0.9)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state_dict()["state"]
        {0: {'momentum_buffer': array([2.], dtype=float32)}}
        """
        numbers = {parameter: number for number, parameter in enumerate(self._parameters())}
        state = {number: {name: np.array(float(value)) if isinstance(value, int) else value
                          for name, value in self.state[parameter].items()}
                 for parameter, number in numbers.items() if self.state.get(parameter)}  # fmt: skip
        groups = [group | {"params": [numbers[parameter] for parameter in group["params"]]}
                  for group in self.param_groups]  # fmt: skip
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Restore what `state_dict` returned, ours or that of PyTorch's optimizer of this name.

        Parameters
        ----------
        state_dict : dict
            Of as many groups with as many parameters of the same shapes, in the same order. Arrays, or PyTorch's
            tensors in the memory of the processor, are copied. Its options replace those of the groups.

        Raises
        ------
        ValueError, TypeError
            If it is of other parameters or of another optimizer, or an option is out of range or not supported.
            Nothing has changed then.
        """
        who = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state_dict, Mapping) or not state_dict.keys() >= {"state", "param_groups"}:
            got = ", ".join(map(str, list(state_dict)[:3])) if isinstance(state_dict, Mapping) else type(state_dict)
            raise ValueError(f"{who}: needs 'state' and 'param_groups', got {got or 'neither'}; "
                             "give what state_dict() of an optimizer returned")  # fmt: skip
        _check_layout(who, state_dict)
        saved = state_dict["param_groups"]
        sizes = [[len(group.get("params", ())) for group in groups] for groups in (self.param_groups, saved)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{who}: the groups must have {sizes[0]} parameters, got {sizes[1]}; make the optimizer "
                             "with the groups that were saved")  # fmt: skip
        options = [self._complete(group, who) for group in saved]
        numbers = [number for group in saved for number in group.get("params", ())]
        parameters = dict(zip(numbers, self._parameters(), strict=True))
        for number in state_dict["state"].keys() - parameters.keys():
            raise ValueError(f"{who}: parameter {number!r} of the state is in none of its groups; save the state again")
        states = {parameters[number]: self._loaded(f"{who}: parameter {number}", parameters[number], state)
                  for number, state in state_dict["state"].items()}  # fmt: skip
        for group, each in zip(self.param_groups, options, strict=True):
            group.update(each)
        self._restore(states)

    def _loaded(self, who: str, parameter: Tensor, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The state of one parameter, checked; its arrays are not copied yet."""
        saved = {name: value for name, value in saved.items() if value is not None}
        if not self.state_names or not saved:  # not that of our `step`; or nothing is known of the parameter
            return {name: np.array(value) if hasattr(value, "__array__") else value for name, value in saved.items()}
        if saved.keys() != set(self.state_names):
            raise ValueError(f"{who} must have {' and '.join(self.state_names)}, got {' and '.join(saved)}; "
                             "the state is of another optimizer")  # fmt: skip
        state: dict[str, Any] = {}
        for name, value in saved.items():
            try:
                array = plain_array(value)
            except TypeError as error:
                raise TypeError(f"{who}: {name} must become an array, got {type(value).__name__}: {error}") from None
            shape = () if name == "step" else parameter.shape
            if array.shape != shape:
                raise ValueError(f"{who}: {name} must have shape {shape}, got {array.shape}")
            if array.dtype.kind not in "fiu":
                raise TypeError(f"{who}: {name} must hold real numbers, got {array.dtype}")
            if name == "step" and not (array >= 0 and array == np.floor(array) < math.inf):
                raise ValueError(f"{who}: step must be a whole number of at least 0, got {array}")
            state[name] = int(array) if name == "step" else array
        return state

    def _restore(self, states: Mapping[Tensor, dict[str, Any]]) -> None:
        """Take these states, with their arrays copied to where a step reaches them in one pass."""
        arrays = set(self.state_names) - {"step"}
        self.state = defaultdict(dict)
        for parameter, state in states.items():
            self.state[parameter] = {name: value for name, value in state.items() if name not in arrays}
        for group in self.param_groups:
            members = [p for p in group["params"] if arrays and arrays <= states.get(p, {}).keys()]
            ordered = [p for each in self._by_options(group, members).values() for p in each]
            self._begin_state(tuple(name for name in self.state_names if name in arrays), ordered)
            for parameter in members:
                for name in arrays:
                    np.copyto(self.state[parameter][name], states[parameter][name])

    def _complete(self, given: Mapping[str, Any], who: str) -> dict[str, Any]:
        """The options of a group with the defaults for those that it lacks, without PyTorch's others; checked."""
        options = self.defaults | {name: value for name, value in given.items() if name != "params"}
        for name in _UNSUPPORTED.keys() - self.defaults.keys():
            if options.get(name):
                raise ValueError(f"{who}: {name}={options[name]!r} is not supported; {_UNSUPPORTED[name]}")
        options = {name: options[name] for name in options if name in self.defaults or name not in _OTHERS}
        self._check_options(options, who)
        return options

    def _check_options(self, options: dict[str, Any], who: str) -> None:
        """Raise ValueError where an option is out of range."""
        for name in _AT_LEAST_ZERO:
            value = options.get(name, 0.0)
            if not (isinstance(value, Real) and 0 <= float(value) < math.inf):
                raise ValueError(f"{who}: {name} must be at least 0, got {value!r}")
        for name in _SWITCHES:
            value = options.get(name, False)
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"{who}: {name} must be True or False, got {value!r}")

    def _by_options(self, group: dict[str, Any], parameters: list[Tensor]) -> dict[Any, list[Tensor]]:
        """Parameters by what one call of `update` takes for all of them: options, dtype and pending scale."""
        found: dict[Any, list[Tensor]] = defaultdict(list)
        for parameter in sorted(parameters, key=lambda p: p.ndim < 2):  # the order of `Module.flatten_parameters`
            pending_scale = 1.0 if parameter.node is None else parameter.node.pending_scale
            found[self.update_options(group, parameter), parameter.dtype, pending_scale].append(parameter)
        return found

    def _array_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The names of the arrays that a step of this group needs in the state."""
        return tuple(name for name in self.state_names if name != "step")

    def _step_arrays(self, group: dict[str, Any], parameter: Tensor) -> list[np.ndarray]:
        """The arrays that a step of this parameter reads and writes; none of the state before the first step."""
        state, node = self.state[parameter], parameter.node
        arrays = [state[name] for name in self._array_names(group) if name in state]
        return [parameter.data, node.grad, *arrays]  # type: ignore[union-attr, list-item]

    def _check_step_arrays(self, arrays: list[np.ndarray]) -> None:
        """Raise unless a parameter, its gradient and its state still fit together, and the parameter can be written."""
        data, who = arrays[0], f"{type(self).__name__}.step"
        shape, dtype = data.shape, data.dtype
        if any(array.shape != shape or array.dtype != dtype for array in arrays):
            found = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
            raise ValueError(f"{who}: a parameter, its gradient and its state must have one shape and dtype, got "
                             f"{found}; after replacing its data, make a new Tensor and a new optimizer")  # fmt: skip
        if not data.flags.writeable:
            raise ValueError(f"{who}: a parameter of shape {data.shape} must be writable, got a read-only one; copy it")

    def _begin_state(self, names: tuple[str, ...], parameters: list[Tensor]) -> None:
        """Begin the state of parameters that have none: a count of 0, and zeros, contiguous in their order."""
        new: dict[np.dtype, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            if "step" in self.state_names:
                self.state[parameter].setdefault("step", 0)
            if not self.state[parameter].keys() >= set(names):
                new[parameter.dtype].append(parameter)
        for dtype, members in new.items():
            flat = np.zeros((len(names), sum(parameter.size for parameter in members)), dtype)
            start = 0
            for parameter in members:
                parts = flat[:, start : start + parameter.size]
                shaped = (part.reshape(parameter.shape) for part in parts)
                self.state[parameter] |= dict(zip(names, shaped, strict=True))
                start += parameter.size

    def _parameters(self) -> Iterable[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _described(self, given: Any) -> str:
        """How an error describes a value: a tensor by its shape and dtype, never by its elements."""
        if not isinstance(given, Tensor):
            return type(given).__name__
        if not given.is_leaf:
            return f"Tensor of shape {given.shape}, the result of an operation; give the tensors that it was made from"
        return f"Tensor of shape {given.shape} and {given.dtype}"

    def _listed(self, params: Any) -> list[Any]:
        """The parameters as a list. A tensor or a dict, which are iterable too, is refused."""
        if isinstance(params, (Tensor, np.ndarray, Mapping, str, bytes)) or not isinstance(params, Iterable):
            remedy = "write model.parameters()" if hasattr(params, "parameters") else "write [tensor], or dict.values()"
            raise TypeError(f"{type(self).__name__}: parameters must be a list of tensors or of dicts, got "
                            f"{type(params).__name__}; {remedy}")  # fmt: skip
        if isinstance(params, (set, frozenset)):
            raise TypeError(f"{type(self).__name__}: parameters must have an order, by which their state is saved, got "
                            f"a {type(params).__name__}; write a list")  # fmt: skip
        return list(params)


def _having_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter for parameter in parameters if parameter.node is not None and parameter.node.grad is not None]


def _check_layout(who: str, state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError unless "state" and "param_groups" are of the types that `state_dict` returns."""
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not (isinstance(state, Mapping) and all(isinstance(each, Mapping) for each in state.values())):
        raise ValueError(f"{who}: 'state' must have a dict for each number of a parameter; give what state_dict() of "
                         "an optimizer returned")  # fmt: skip
    if not (isinstance(groups, (list, tuple)) and all(isinstance(each, Mapping) for each in groups)):
        raise ValueError(f"{who}: 'param_groups' must be a list of dicts; give what state_dict() of an optimizer "
                         "returned")  # fmt: skip
    for params in (group.get("params", ()) for group in groups):
        if not (isinstance(params, (list, tuple)) and all(isinstance(number, (int, str)) for number in params)):
            raise ValueError(f"{who}: 'params' of a group must be a list of numbers, got {params!r}")
