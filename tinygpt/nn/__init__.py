"""
Modules: parameters with names, and the layers that GPT-2 is built from. To be read in this order:

    placement   `to` and `cpu`: a module stays where it is
    module      `Parameter` and `Module`: names, modes, state, and one array for all parameters
    initial     the initial values of parameters
    layers      `Linear`, `Embedding`, `LayerNorm`, `Dropout`
"""

from typing import TYPE_CHECKING

from tinygpt.nn.layers import Dropout, Embedding, LayerNorm, Linear, no_dropout
from tinygpt.nn.module import Module, Parameter

__all__ = ["Dropout", "Embedding", "LayerNorm", "Linear", "Module", "Parameter", "no_dropout"]

if not TYPE_CHECKING:

    def __getattr__(name):
        from tinygpt.runtime.torch_names import missing

        raise missing(__name__, name)
