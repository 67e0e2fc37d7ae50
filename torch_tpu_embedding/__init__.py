"""Large embedding tables for PyTorch on TPU: TensorFlow's TPUEmbedding, ported to PyTorch/XLA.

Public are the names of this module and of `checkpoint`, `dense_optimizers`, `distributed`, `optimizers` and
`runtime`, as tests/public_surface.txt lists them; every other module and name may move in any release.
"""

from . import checkpoint, dense_optimizers, distributed, optimizers, runtime
from .config.declared import FeatureConfig, TableConfig
from .config.initializers import RowIdInitializer
from .config.quantization import QuantizationConfig
from .config.serialization import config_from_dict, config_to_dict
from .config.vocabulary import DynamicVocabulary, HashedVocabulary
from .embedding import TPUEmbedding
from .embedding_optimizer import EmbeddingOptimizer
from .inputs.ragged import Ragged
from .loader import EmbeddingLoader
from .monitoring.host_trace import profile
from .monitoring.writers import JsonLinesWriter, TensorBoardWriter
from .optimizers import FTRL, SGD, Adagrad, AdagradMomentum, Adam, RowWiseAdagrad
from .program.plain_lookup import serving_embedding_lookup
from .replay import Replay, replay
from .replaying.kept import ReplayError
from .serving.export import export_serving
from .serving.module import TPUEmbeddingForServing
from .serving.program import export_program
from .vocabularies.hash_ids import hash_ids

__version__ = "0.1.0"

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "AdagradMomentum",
    "Adam",
    "DynamicVocabulary",
    "EmbeddingLoader",
    "EmbeddingOptimizer",
    "FeatureConfig",
    "HashedVocabulary",
    "JsonLinesWriter",
    "QuantizationConfig",
    "Ragged",
    "Replay",
    "ReplayError",
    "RowIdInitializer",
    "RowWiseAdagrad",
    "TPUEmbedding",
    "TPUEmbeddingForServing",
    "TableConfig",
    "TensorBoardWriter",
    "checkpoint",
    "config_from_dict",
    "config_to_dict",
    "dense_optimizers",
    "distributed",
    "export_program",
    "export_serving",
    "hash_ids",
    "optimizers",
    "profile",
    "replay",
    "runtime",
    "serving_embedding_lookup",
]


def __dir__() -> list[str]:
    """The public names, without what they are made of."""
    return sorted([*__all__, "__version__"])
