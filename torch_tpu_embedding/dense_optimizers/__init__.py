"""Optimizers of dense parameters: torch.optim's of the same names, in a form that XLA traces fast.

They take the same numbers, load each other's states, and work with every scheduler of torch. Their
arithmetic is written out of place, which torch_xla traces several times as fast as in place; XLA updates
parameters and states in place all the same. Their numbers lie in one vector on the device: a new learning
rate compiles nothing.
"""

from .adagrad import Adagrad
from .adam import Adam, AdamW
from .sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW"]


def __dir__() -> list[str]:
    """The public names, without what they are made of."""
    return sorted(__all__)
