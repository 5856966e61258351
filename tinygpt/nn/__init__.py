"""
Modules: parameters with names, layers, and what holds them. To be read in this order:

    module        `Parameter` and `Module`: names, modes, state, hooks, and one array for all parameters
    initial       the initial values of parameters
    init          the same by PyTorch's names, for `nn.init.normal_(layer.weight)`
    layers        `Linear`, `Embedding`, `LayerNorm`, `Dropout`, which GPT-2 is built from; `Flatten`, `Identity`
    activations   `ReLU`, `GELU` and others: functions as modules
    losses        `CrossEntropyLoss`, `MSELoss` and others
    containers    `Sequential`, `ModuleList`, `ModuleDict`
    module_snapshot   what a module was, to notice changes
    functional    `tinygpt.functional`, by PyTorch's path
"""

from typing import TYPE_CHECKING

from tinygpt.nn import functional, init
from tinygpt.nn.activations import GELU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from tinygpt.nn.containers import ModuleDict, ModuleList, Sequential
from tinygpt.nn.layers import Dropout, Embedding, Flatten, Identity, LayerNorm, Linear, no_dropout
from tinygpt.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from tinygpt.nn.module import Module, Parameter
from tinygpt.runtime.missing import missing_name

__all__ = [
    "GELU", "BCEWithLogitsLoss", "CrossEntropyLoss", "Dropout", "Embedding", "Flatten", "Identity", "L1Loss",
    "LayerNorm", "Linear", "LogSoftmax", "MSELoss", "Module", "ModuleDict", "ModuleList", "NLLLoss", "Parameter",
    "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Tanh", "functional", "init", "no_dropout",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name):
        raise missing_name(__name__, name)
