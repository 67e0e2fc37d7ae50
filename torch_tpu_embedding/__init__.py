"""Large embedding tables for PyTorch on TPU: TensorFlow's TPUEmbedding, ported to PyTorch/XLA."""

from . import runtime
from .config import FeatureConfig, TableConfig
from .embedding import TPUEmbedding
from .embedding_optimizer import EmbeddingOptimizer
from .optimizers import FTRL, SGD, Adagrad, AdagradMomentum, Adam, RowWiseAdagrad
from .ragged import Ragged
from .serving import serving_embedding_lookup

__version__ = "0.1.0"

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "AdagradMomentum",
    "Adam",
    "EmbeddingOptimizer",
    "FeatureConfig",
    "Ragged",
    "RowWiseAdagrad",
    "TPUEmbedding",
    "TableConfig",
    "runtime",
    "serving_embedding_lookup",
]
