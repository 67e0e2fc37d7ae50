"""Optimizers of embedding rows; each file has the formulas of one family."""

from .adagrad import Adagrad, AdagradMomentum, RowWiseAdagrad
from .adam import Adam
from .base import LearningRate, Optimizer
from .ftrl import FTRL
from .sgd import SGD

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "AdagradMomentum",
    "Adam",
    "LearningRate",
    "Optimizer",
    "RowWiseAdagrad",
]


def __dir__() -> list[str]:
    """The public names, without what they are made of."""
    return sorted(__all__)
