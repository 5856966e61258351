"""
Modules: parameters with names, layers, and what holds them. To be read in this order:

    module        `Parameter` and `Module`: names, modes, state, hooks, and one array for all parameters
    initial       the initial values of parameters
    layers        `Linear`, `Embedding`, `LayerNorm`, `Dropout`, which GPT-2 is built from; `Flatten`, `Identity`
    activations   `ReLU`, `GELU` and others: functions as modules
    containers    `Sequential`, `ModuleList`, `ModuleDict`
"""

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
