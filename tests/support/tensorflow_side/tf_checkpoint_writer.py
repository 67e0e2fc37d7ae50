"""TensorFlow's side of the checkpoint conversions: writes checkpoints, and restores those written for it.

Run by the Python of a TensorFlow environment, not by that of this package, which it does not import:

    python tests/support/tensorflow_side/tf_checkpoint_writer.py write FOLDER
    python tests/support/tensorflow_side/tf_checkpoint_writer.py restore FOLDER

FOLDER/cases.json lists the cases: `name`, `kind`, and `tables`, each `[name, V, D, optimizer, features]`.
'write' makes a checkpoint FOLDER/<name>/… of each, and FOLDER/written.npz; 'restore' reads
FOLDER/<name>/ckpt and makes FOLDER/restored.npz. Both files hold arrays as '<case>/<table>.<field>'.
`test_convert_tf.py` does the rest. Letters: V vocabulary, D dim.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Case = dict[str, Any]
Arrays = dict[str, np.ndarray]
SPECIAL = np.array([-0.0, np.inf, 1e-42, np.nan], np.float32)


def features(tf: Any, case: Case) -> list[Any]:
    """A feature configuration; a table of several features is shared."""
    embedding = tf.tpu.experimental.embedding
    made = []
    for name, rows, dim, optimizer, count in case["tables"]:
        table = embedding.TableConfig(
            rows, dim, name=name, optimizer=getattr(embedding, optimizer)() if optimizer else None
        )
        made += [embedding.FeatureConfig(table) for _ in range(count)]
    return made


def make(tf: Any, case: Case, kind: str = "TPUEmbeddingForServing") -> Any:
    """An embedding, without variables so far."""
    return getattr(tf.tpu.experimental.embedding, kind)(features(tf, case), None)


def randomize(embedding: Any, seed: int) -> Arrays:
    """Give every weight and slot other values, some of them rare; what they are now."""
    rng = np.random.default_rng(seed)
    found = {}
    for table, variables in embedding._variables.items():
        for slot, variable in variables.items():
            shards = getattr(variable, "variables", [variable])  # of a sharded variable
            values = []
            for shard in shards:
                value = rng.standard_normal(shard.shape).astype(np.float32)
                value.flat[:4] = SPECIAL[: value.size]
                shard.assign(value)
                values.append(value)
            found[f"{table}.{'weight' if slot == 'parameters' else slot}"] = np.concatenate(values)
    return found


def built(tf: Any, case: Case, kind: str = "TPUEmbeddingForServing") -> tuple[Any, Arrays]:
    embedding = make(tf, case, kind)
    embedding.build()
    return embedding, randomize(embedding, 1)


def serving(tf: Any, case: Case, folder: Path) -> Arrays:
    """As the documentation has it."""
    embedding, found = built(tf, case)
    tf.train.Checkpoint(embedding=embedding).write(str(folder / "ckpt"))
    return found


def training(tf: Any, case: Case, folder: Path) -> Arrays:
    """The class that trains, deep in a model beside other variables, by the newest of a manager."""
    embedding, _ = built(tf, case, "TPUEmbedding")
    model = tf.Module()
    model.towers = [tf.Module()]
    model.towers[0].tables = embedding
    model.dense = tf.Variable(tf.ones((3, 2)))
    saved = tf.train.Checkpoint(model=model, step=tf.Variable(7))
    manager = tf.train.CheckpointManager(saved, str(folder), max_to_keep=3)
    manager.save()
    found = randomize(embedding, 2)
    manager.save()
    return found


def root(tf: Any, case: Case, folder: Path) -> Arrays:
    """The embedding is the root, and all is saved into files of at most 64 bytes, in slices."""
    embedding, found = built(tf, case)
    policy = tf.train.experimental.MaxShardSizePolicy(64)
    options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    tf.train.Checkpoint(embedding).write(str(folder / "ckpt"), options)
    return found


def sharded(tf: Any, case: Case, folder: Path) -> Arrays:
    """Variables as a TPUStrategy of three hosts has them."""
    from tensorflow.python.ops import variable_scope
    from tensorflow.python.tpu import tpu_embedding_v2

    creator = tpu_embedding_v2.make_sharded_variable_creator(["/cpu:0"] * 3)
    with variable_scope.variable_creator_scope(creator):
        embedding, found = built(tf, case, "TPUEmbedding")
    tf.train.Checkpoint(embedding=embedding).write(str(folder / "ckpt"))
    return found


def saved_model(tf: Any, case: Case, folder: Path) -> Arrays:
    """A SavedModel."""
    model = tf.Module()
    model.embedding, found = built(tf, case)
    tf.saved_model.save(model, str(folder))
    return found


def twice(tf: Any, case: Case, folder: Path) -> Arrays:
    """Two embeddings whose tables have the same names; the first is asked for."""
    embedding, found = built(tf, case)
    other, _ = built(tf, case)
    tf.train.Checkpoint(user=embedding, item=other).write(str(folder / "ckpt"))
    return found


def by_name(tf: Any, case: Case, folder: Path) -> Arrays:
    """Keys that are names, without objects, as the Saver of TensorFlow 1 wrote."""
    _, found = built(tf, case)
    names = [*found]
    tf.raw_ops.SaveV2(
        prefix=str(folder / "ckpt"),
        tensor_names=["tower/" + name.replace(".weight", "").replace(".", "/") for name in names],
        shape_and_slices=[""] * len(names),
        tensors=[found[name] for name in names],
    )
    return found


def sparse_core(tf: Any, case: Case, folder: Path, again: bool = False) -> Arrays:
    """All tables as one stack over four SparseCores, rotated, as TPUEmbeddingV2 saves it.

    That class needs a TPU; its objects are put together here, the stack by TensorFlow's own code. That it
    is a valid one shows in that TPUEmbeddingForServing restores it; `again` saves that one.
    """
    from tensorflow.core.tpu.kernels import sparse_core_layout_pb2
    from tensorflow.python.tpu import tpu_embedding_v3_checkpoint_adapter as adapter
    from tensorflow.python.tpu import tpu_embedding_v3_utils
    from tensorflow.python.trackable import autotrackable

    cores, stack = 4, "stack/of tables"
    width = -(-max(dim for _, _, dim, _, _ in case["tables"]) // 8) * 8
    layouts = sparse_core_layout_pb2.SparseCoreTableLayouts()
    offset = 0
    for number, (name, rows, dim, _, _) in enumerate(case["tables"]):
        padded = -(-rows // (8 * cores)) * 8 * cores
        layouts.tables.add(
            table_name=name, stacked_table_name=stack, num_sparse_cores=cores, num_partitions=1,
            unsharded_shape=[rows, dim], unsharded_padded_shape=[padded, width],
            sparse_core_shard_row_offset=offset, sparse_core_shard_rotation=number,
        )  # fmt: skip
        offset += padded // cores
    for layout in layouts.tables:
        layout.total_rows_per_sparse_core_shard = offset
    _, found = built(tf, case)
    slots = sorted({key.rpartition(".")[2] for key in found})
    holder = autotrackable.AutoTrackable()
    holder._variables = {stack: {}}
    whole = f"{cores * offset} {width} 0,{cores * offset}:0,{width}"
    for slot in slots:
        tables = [tf.constant(found[f"{layout.table_name}.{slot}"]) for layout in layouts.tables]
        stacked = tf.Variable(adapter._shard_from_cpu_to_sc(tables, whole, layouts.tables))
        holder._variables[stack]["parameters" if slot == "weight" else slot] = stacked
        holder._track_trackable(stacked, stack if slot == "weight" else f"{stack}/{slot}")
    layout_value = tf.constant(layouts.SerializeToString())
    holder._track_trackable(
        tpu_embedding_v3_utils.SparseCoreLayoutsTrackable(layout_value),
        tpu_embedding_v3_utils.SPARSECORE_LAYOUTS_CHECKPOINT_KEY,
    )
    target = str(folder / "ckpt")
    tf.train.Checkpoint(embedding=holder).write(target)
    restored = make(tf, case)
    tf.train.Checkpoint(embedding=restored).restore(target).expect_partial()
    restored.build()
    for table, variables in restored._variables.items():
        np.testing.assert_array_equal(variables["parameters"].numpy(), found[f"{table}.weight"])
    if again:
        for path in folder.iterdir():
            path.unlink()
        tf.train.Checkpoint(embedding=restored).write(target)
        found = {key: value for key, value in found.items() if key.endswith(".weight")}
    return found


KINDS: dict[str, Callable[[Any, Case, Path], Arrays]] = {
    "serving": serving,
    "training": training,
    "root": root,
    "sharded": sharded,
    "saved_model": saved_model,
    "twice": twice,
    "by_name": by_name,
    "sparse_core": sparse_core,
    "sparse_core_served": functools.partial(sparse_core, again=True),
}


def restore(tf: Any, case: Case, folder: Path) -> Arrays:
    """The arrays of an embedding of the case's class after restoring; built before or after alike."""
    answers = []
    for deferred in (False, True):
        embedding = make(tf, case, case["kind"])
        if not deferred:
            embedding.build()
        status = tf.train.Checkpoint(embedding=embedding).restore(str(folder / "ckpt"))
        if deferred:
            embedding.build()
        status.assert_consumed().assert_existing_objects_matched()
        answers.append(
            {
                f"{table}.{'weight' if slot == 'parameters' else slot}": variable.numpy()
                for table, variables in embedding._variables.items()
                for slot, variable in variables.items()
            }
        )
    for key, value in answers[0].items():
        np.testing.assert_array_equal(value, answers[1][key])
    return answers[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["write", "restore"])
    parser.add_argument("folder", type=Path, help="where cases.json is")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    import tensorflow as tf  # not at the top: --help, and pytest's collection, do without it

    answers: Arrays = {"version": np.array(tf.__version__)}
    for case in json.loads((args.folder / "cases.json").read_text()):
        folder = args.folder / case["name"]
        if args.action == "write":
            folder.mkdir()
            found = KINDS[case["kind"]](tf, case, folder)
        else:
            found = restore(tf, case, folder)
        answers |= {f"{case['name']}/{key}": value for key, value in found.items()}
    name = "written.npz" if args.action == "write" else "restored.npz"
    np.savez(args.folder / name, **answers)


if __name__ == "__main__":
    main()
