"""Checkpoints: crash-safe, verified, of any number of processes in and out.

`save` and `load` work on an embedding; `open` and `write_tables` need neither embedding nor device.
`python -m torch_tpu_embedding.checkpoint --help` looks inside.
"""

from .convert.torch_weights import export_table, import_modules, import_state_dict
from .errors import CheckpointError
from .format.run_directory import complete_steps
from .load import Loaded, load
from .reading.reader import Reader
from .reading.reader import open_checkpoint as open
from .rows import HasShard, Shard
from .save import save
from .write_tables import RowSource, TableSource, write_tables
from .writing.background import SaveHandle, wait

__all__ = [
    "CheckpointError",
    "HasShard",
    "Loaded",
    "Reader",
    "RowSource",
    "SaveHandle",
    "Shard",
    "TableSource",
    "complete_steps",
    "export_table",
    "import_modules",
    "import_state_dict",
    "load",
    "open",
    "save",
    "wait",
    "write_tables",
]


def __dir__() -> list[str]:
    """The public names, without what they are made of."""
    return sorted(__all__)
