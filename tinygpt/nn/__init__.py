"""
Modules: parameters with names, layers, and what holds them. To be read in this order:

    placement     `to` and `cpu`: a module stays where it is
    module        `Parameter` and `Module`: names, modes, state, hooks, and one array for all parameters
    initial       the initial values of parameters
    layers        `Linear`, `Embedding`, `LayerNorm`, `Dropout`, which GPT-2 is built from; `Flatten`, `Identity`
    activations   `ReLU`, `GELU` and others: functions as modules
    containers    `Sequential`, `ModuleList`, `ModuleDict`
"""

from typing import TYPE_CHECKING

from tinygpt.nn.activations import GELU, LogSoftmax, ReLU, Softmax, Tanh
from tinygpt.nn.containers import ModuleDict, ModuleList, Sequential
from tinygpt.nn.layers import Dropout, Embedding, Flatten, Identity, LayerNorm, Linear, no_dropout
from tinygpt.nn.module import Module, Parameter

__all__ = [
    "GELU",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Softmax",
    "Tanh",
    "no_dropout",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name):
        from tinygpt.runtime.torch_names import missing

        raise missing(__name__, name)
