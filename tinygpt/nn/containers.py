"""
Modules that hold modules: `Sequential` computes them in turn, `ModuleList` and `ModuleDict` leave that to their owner.

Their items are attributes, named "0", "1" and so on in lists: so paths and state dicts are those of any module, and of
PyTorch's containers. The modules in a plain list have the same names, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from operator import index
from typing import Any, TypeVar

from tinygpt.nn.module import Module

Self = TypeVar("Self", bound="_Numbered")


class _Container(Module):
    """A module whose attributes are its items."""

    def _items(self) -> dict[str, Module]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Module)}

    def __len__(self) -> int:
        return len(self._items())

    def _set(self, name: str, module: Any) -> None:
        self._check_module(module)
        self.add_module(name, module)

    def _check_module(self, module: Any) -> None:
        """Raise TypeError for what people take for a module."""
        if not isinstance(module, Module):
            who = type(self).__name__
            if isinstance(module, type):
                raise TypeError(f"{who}: takes modules, got the class {module.__name__}; write {module.__name__}()")
            if callable(module):
                raise TypeError(f"{who}: takes modules, got a function; write its module, such as ReLU() for relu")
            if isinstance(module, (list, tuple, Iterator)):
                remedy = f"{who}(*modules)" if self._computes_in_turn else f"{who}(modules), without a list in the list"
                raise TypeError(f"{who}: takes modules, got {type(module).__name__}; write {remedy}")
            raise TypeError(f"{who}: takes modules, got {module!r}")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: call the modules in it; Sequential calls them in turn")


class _Numbered(_Container):
    """A container whose items have an order."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items().values())

    def append(self: Self, module: Module) -> Self:
        """Add a module at the end. Returns the container."""
        names = (str(number) for number in itertools.count(len(self)))
        self._set(next(name for name in names if not hasattr(self, name)), module)
        return self

    def extend(self: Self, modules: Iterable[Module]) -> Self:
        """Add modules at the end. Returns the container."""
        for module in modules:
            self.append(module)
        return self

    def __iadd__(self: Self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def insert(self, place: int, module: Module) -> None:
        """Put a module before the one at a place. The names are the numbers of the places then."""
        self._check_module(module)
        modules = list(self)
        modules.insert(place, module)
        self._renew(modules)

    def pop(self, place: int = -1) -> Module:
        """Take the module at a place out, and return it. The names are the numbers of the places then."""
        module = self._items()[self._name_at(place)]
        del self[place]
        return module

    def __delitem__(self, place: Any) -> None:
        names = list(self._items())
        gone = set(names[place] if isinstance(place, slice) else [self._name_at(place)])
        self._renew([module for name, module in self._items().items() if name not in gone])

    def _renew(self, modules: list[Module]) -> None:
        for name in self._items():
            delattr(self, name)
        vars(self).update({str(number): module for number, module in enumerate(modules)})

    def _name_at(self, place: Any) -> str:
        names = list(self._items())
        try:
            return names[index(place)]
        except TypeError:
            allowed = "an integer, to replace one module" if isinstance(place, slice) else "an integer or a slice"
            raise TypeError(f"{type(self).__name__}: an index must be {allowed}, got {place!r}") from None
        except IndexError:
            raise IndexError(f"{type(self).__name__}: index {place} of {len(names)} modules") from None

    def __setitem__(self, place: int, module: Module) -> None:
        self._set(self._name_at(place), module)


class Sequential(_Numbered):
    """
    Modules that compute in turn, each from what the one before returned.

    Parameters
    ----------
    *modules : Module
        Or a dict of modules by name.

    Raises
    ------
    TypeError
        If one of them is no module: a class without its parentheses, a function, a list.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.nn import Linear, ReLU
    >>> model = Sequential(Linear(2, 4), ReLU(), Linear(4, 1))
    >>> model(Tensor([[1.0, 2.0]])).shape
    (1, 1)
    >>> model[0].weight.shape, len(model[1:])
    ((2, 4), 2)
    >>> list(model.state_dict())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    _computes_in_turn = True

    def __init__(self, *modules: Any) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self._set(name, module)
        else:
            self.extend(modules)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x

    def __getitem__(self, place: Any) -> Any:
        """The module at a place, or a `Sequential` of those in a slice, which keep their names."""
        if isinstance(place, slice):
            return Sequential(dict(list(self._items().items())[place]))
        return self._items()[self._name_at(place)]


class ModuleList(_Numbered):
    """
    A list of modules.

    Parameters
    ----------
    modules : iterable of Module, optional

    Raises
    ------
    TypeError
        If one of them is no module.

    Examples
    --------
    >>> from tinygpt.nn import Linear
    >>> layers = ModuleList(Linear(2, 2) for _ in range(3))
    >>> len(layers), len(layers[1:]), layers[-1].weight.shape
    (3, 2, (2, 2))
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"ModuleList: takes a list of modules, got {type(modules).__name__}; write ModuleList([...])"
            )
        self.extend(modules)

    def __getitem__(self, place: Any) -> Any:
        """The module at a place, or a `ModuleList` of those in a slice."""
        return ModuleList(list(self)[place]) if isinstance(place, slice) else self._items()[self._name_at(place)]


class ModuleDict(_Container):
    """
    Modules by name.

    Parameters
    ----------
    modules : mapping of str to Module, or pairs, optional

    Raises
    ------
    TypeError, ValueError
        If one of them is no module, or a name is that of a method, such as "train".

    Examples
    --------
    >>> from tinygpt.nn import Linear
    >>> heads = ModuleDict({"price": Linear(4, 1), "kind": Linear(4, 7)})
    >>> heads["kind"].weight.shape, "price" in heads, list(heads.keys())
    ((4, 7), True, ['price', 'kind'])
    """

    def __init__(self, modules: Any = ()) -> None:
        self.update(modules)

    def update(self, modules: Any) -> None:
        """Add the modules of a mapping, or of pairs; those of the same names are replaced."""
        try:
            modules = dict(modules)
        except (TypeError, ValueError):
            raise TypeError(
                f"ModuleDict: takes a dict of modules, got {type(modules).__name__}; write ModuleDict({{name: module}})"
            ) from None
        for name, module in modules.items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        self._set(name, module)

    def __getitem__(self, name: str) -> Any:
        return self._items()[name]

    def __delitem__(self, name: str) -> None:
        del self._items()[name]  # KeyError for a name that is no module's
        delattr(self, name)

    def pop(self, name: str) -> Module:
        """Take the module of a name out, and return it; KeyError if there is none."""
        module = self[name]
        del self[name]
        return module

    def __contains__(self, name: object) -> bool:
        return name in self._items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._items().keys()

    def values(self) -> Iterable[Any]:
        """The modules."""
        return self._items().values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """The names with their modules."""
        return self._items().items()
