"""Checkpoints from and to TensorFlow: the tables and slots of a tf.tpu.experimental.embedding object.

Rows pass in blocks, so tables may be larger than memory. Neither TensorFlow nor torch_xla is needed: the
files are read and written directly, and the checksums in them are verified and written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...config.resolved import WEIGHT
from ...io.paths import naming, path_option
from ..reading.reader import open_checkpoint
from ..write_tables import write_tables
from .rows_by_id import blocks_by_id, orders_by_id
from .tensorflow_bundle import Bundle, BundleWriter, find_prefix
from .tensorflow_objects import GRAPH, LAYOUTS, VALUE, Found, ObjectGraph, Unstacked, find_tables
from .tensorflow_state import record

AddCommand = Callable[[str, Callable[[argparse.Namespace], Any], str], argparse.ArgumentParser]
"""Takes a command's name, its function and one line about it."""

FROM = """\
Reads what tf.train.Checkpoint, CheckpointManager or SavedModel wrote with a TPUEmbedding,
TPUEmbeddingForServing or TPUEmbeddingV2 (SparseCore) object anywhere in it; tables in shards or stacked
are put together again. TensorFlow is not needed."""
FROM_EXAMPLES = """\
examples:
  %(prog)s tf_run run --step 1000
  %(prog)s tf_run/ckpt-7 run --step 1000 \\
      --tables user item=model/item"""
TO = """\
Writes what tf.train.Checkpoint(embedding=TPUEmbeddingForServing(…)).restore(…) reads, and the file by which
tf.train.latest_checkpoint finds it. TensorFlow is not needed."""
TO_EXAMPLES = """\
examples:
  %(prog)s run export/ckpt-1 --step 1000"""


def choose(bundle: Bundle, found: Sequence[Found], pairs: Sequence[str]) -> dict[str, Found]:
    """Name here → table there.

    Raises:
        ValueError: no table has the name, several have it, or no name is given where there must be one.
    """
    chosen: dict[str, Found] = {}
    for name, theirs in split(pairs) if pairs else [(each.name, each.name) for each in found]:
        fitting = [each for each in found if theirs in (each.name, each.path)]
        exact = [each for each in fitting if each.path == theirs]
        if len(exact or fitting) > 1 or name in chosen:
            several = [each.path for each in fitting]
            raise ValueError(
                f"several tables {name!r}: {several}; pass --tables NAME=PATH, a name of its own for each"
            )
        chosen[name] = (exact or fitting or [by_key(bundle, theirs, found)])[0]
    if not chosen:
        raise ValueError(
            f"{bundle.prefix}: no TPUEmbedding object in it; pass --tables NAME=KEY …, with keys of "
            f"these:{listed(bundle)}"
        )
    return chosen


def by_key(bundle: Bundle, key: str, found: Sequence[Found]) -> Found:
    """A table by the key of its weight; slots are the keys that continue it, as TensorFlow names them."""
    for end, slot in ((VALUE, ".S"), ("", "/")):
        if key + end in bundle.entries:
            slots = {
                each[len(key + slot) : len(each) - len(end)]: each
                for each in bundle.entries
                if each.startswith(key + slot) and each.endswith(end)
            }
            return Found(key, "", {WEIGHT: key + end, **slots})
    tables = [each.path for each in found]
    raise ValueError(
        f"--tables: {key!r} is neither a table of {bundle.prefix}, which has {tables}, nor one of its "
        f"keys:{listed(bundle)}"
    )


def listed(bundle: Bundle) -> str:
    """The keys that could be tables."""
    shapes = {
        name.removesuffix(VALUE): [*entry.shape]
        for name, entry in bundle.entries.items()
        if entry.type_name == "float32" and len(entry.shape) == 2
    }
    lines = [f"\n\t{name}  {shape}" for name, shape in sorted(shapes.items())]
    return "".join(lines) or " (there are no float32 tensors of two dimensions)"


def split(pairs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """NAME=THEIRS, or NAME for both."""
    for pair in pairs:
        name, _, theirs = pair.partition("=")
        yield name, theirs or name


def from_tensorflow(args: argparse.Namespace) -> dict[str, Any]:
    """Convert from TensorFlow; gives what was found and left out."""
    bundle = Bundle(find_prefix(args.source))
    found = find_tables(bundle)
    chosen = choose(bundle, found, args.tables)
    known = {
        key: f"of {each.path}, not in --tables" for each in found for key in each.keys.values()
    }
    left_out = {
        key: known.get(key, "of no table")
        for key in bundle.entries
        if key != GRAPH and not key.endswith(LAYOUTS + VALUE)
    }
    sources: dict[str, dict[str, Any]] = {}
    tables = {}
    for name, table in chosen.items():
        sources[name] = {}
        for slot, key in table.keys.items():
            shape = bundle.entries[key].shape
            weight = bundle.entries[table.keys[WEIGHT]].shape
            if slot != WEIGHT and (len(shape) != 2 or shape[0] != weight[0]):
                left_out[key] = f"a slot of {table.path} of shape {[*shape]}, not a row an id"
                continue
            rows = bundle.rows(key)
            sources[name][slot] = Unstacked(rows, table.layout, key) if table.layout else rows
            left_out.pop(key, None)
        shapes = {slot: [*rows.shape] for slot, rows in sources[name].items()}
        tables[name] = {
            "from": table.path,
            "sparse_core": table.layout is not None,
            "shapes": shapes,
        }
    if not args.no_verify:
        used = {chosen[name].keys[slot] for name, slots in sources.items() for slot in slots}
        for key in sorted(used):
            bundle.verify(key)
    write_tables(
        args.target,
        args.step,
        sources,
        num_shards=args.shards,
        strategy=args.strategy,
        overwrite=args.overwrite,
    )
    return {
        "from": str(bundle.prefix),
        "to": str(args.target / f"step-{args.step}"),
        "verified": not args.no_verify,
        "tables": tables,
        "left_out": left_out,
    }


def to_tensorflow(args: argparse.Namespace) -> dict[str, Any]:
    """Convert to TensorFlow; gives what was written and left out."""
    with open_checkpoint(args.source, args.step) as reader:
        pairs = [*split(args.tables or reader.tables)]
        if unknown := [name for name, _ in pairs if name not in reader.tables]:
            raise ValueError(f"--tables: no {unknown}; step {reader.step} has {[*reader.tables]}")
        by_id = orders_by_id(reader, [name for name, _ in pairs], args.rows)
        if len({theirs for _, theirs in pairs}) < len(pairs):
            raise ValueError("--tables: two tables would have one name; give each its own")
        tables, left_out = {}, {}
        graph = ObjectGraph(args.attribute)
        with naming(args.target), BundleWriter(args.target) as writer:
            for name, theirs in pairs:
                entry = reader.tables[name]
                order = by_id.get(name)
                count = entry.vocabulary_size if order is None else len(order)
                shapes = {slot: [count, width] for slot, width in entry.fields.items()}
                for slot, shape in shapes.items():
                    if shape[1] != entry.dim:
                        left_out[f"{name}.{slot}"] = f"of shape {shape}, which TensorFlow has not"
                        continue
                    blocks = blocks_by_id(reader, name, slot, order)
                    writer.rows(graph.add(theirs, slot), (shape[0], shape[1]), blocks)
                kept = {slot: shape for slot, shape in shapes.items() if shape[1] == entry.dim}
                tables[theirs] = {"from": name, "shapes": kept}
            writer.integer(graph.add_counter(), 1)
            writer.text(GRAPH, graph.serialize())
        record(args.target)
    return {
        "from": str(args.source / f"step-{reader.step}"),
        "to": str(args.target),
        "attribute": args.attribute,
        "tables": tables,
        "left_out": left_out,
    }


def report(result: Mapping[str, Any]) -> str:
    lines = [f"{result['from']} -> {result['to']}"]
    for name, table in result["tables"].items():
        rows, dim = table["shapes"][WEIGHT]
        slots = ", ".join(slot for slot in table["shapes"] if slot != WEIGHT) or "none"
        lines.append(f"  {name}: {rows:,} x {dim}, slots {slots}, from {table['from']}")
    lines += [f"  left out: {key} ({why})" for key, why in sorted(result["left_out"].items())]
    return "\n".join(lines)


def add_commands(add: AddCommand) -> None:
    """Add `from-tensorflow` and `to-tensorflow` to the command line."""
    made = add("from-tensorflow", _from, "convert TensorFlow's checkpoint to one of ours")
    made.description, made.epilog = f"{made.description}\n\n{FROM}", FROM_EXAMPLES
    made.add_argument(
        "source", type=path_option, metavar="TF_CHECKPOINT",
        help="its prefix (there is a file <prefix>.index), or the directory of a CheckpointManager (its "
        "newest) or of a SavedModel",
    )  # fmt: skip
    made.add_argument(
        "target", type=path_option, metavar="OUT_DIR", help="directory of the run to write to"
    )
    made.add_argument("--step", type=int, required=True, help="the step to write")
    made.add_argument(
        "--tables", nargs="+", default=[], metavar="NAME=TFNAME",
        help="the tables to convert, and their names here (default: all, by their names there); TFNAME is "
        "a table's name, its path where several embeddings have one of the name, or, where there is no "
        "embedding object, the key of any float32 matrix",
    )  # fmt: skip
    made.add_argument("--shards", type=int, default=1, help="how many shards to write (default 1)")
    made.add_argument("--strategy", choices=["mod", "div"], default="mod", help="default: mod")
    made.add_argument(
        "--overwrite", action="store_true", help="replace the step in OUT, and drop all later ones"
    )
    made.add_argument(
        "--no-verify", action="store_true", help="do not check TensorFlow's checksums"
    )
    made = add("to-tensorflow", _to, "convert one of our checkpoints to TensorFlow's")
    made.description, made.epilog = f"{made.description}\n\n{TO}", TO_EXAMPLES
    made.add_argument(
        "source", type=path_option, metavar="CHECKPOINT_DIR", help="which holds step-<n>/"
    )
    made.add_argument(
        "target", type=path_option, metavar="OUT", help="prefix to write, such as export/ckpt-1"
    )
    made.add_argument("--step", type=int, help="default: the newest complete one")
    made.add_argument(
        "--tables", nargs="+", default=[], metavar="NAME=TFNAME",
        help="the tables to convert, and their names there (default: all, by their names here)",
    )  # fmt: skip
    made.add_argument(
        "--rows", nargs="+", default=[], metavar="NAME=N",
        help="of a table with a DynamicVocabulary, the ids 0 … N-1 to write (default: as many as it has "
        "rows for ids); row i is the row that inference finds for id i",
    )  # fmt: skip
    made.add_argument(
        "--attribute", default="embedding",
        help="where the embedding is in the object that is restored: 'embedding' for "
        "tf.train.Checkpoint(embedding=…), the default; 'model/embedding' for model.embedding",
    )  # fmt: skip


def _from(args: argparse.Namespace) -> tuple[int, Any, str]:
    result = from_tensorflow(args)
    return 0, result, report(result)


def _to(args: argparse.Namespace) -> tuple[int, Any, str]:
    result = to_tensorflow(args)
    return 0, result, report(result)
