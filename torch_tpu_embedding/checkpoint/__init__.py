"""Checkpoints: crash-safe, verified, of any number of processes in and out.

`save` and `load` work on an embedding; `open` and `write_tables` need neither embedding nor device.
`python -m torch_tpu_embedding.checkpoint --help` looks inside.
"""

from .background import SaveHandle, wait
from .errors import CheckpointError
from .load import Loaded, load
from .offline import RowSource, TableSource, write_tables
from .reader import Reader
from .reader import open_checkpoint as open
from .run_directory import complete_steps
from .save import save
from .shard import HasShard, Shard
from .torch_io import export_table, import_modules, import_state_dict

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
