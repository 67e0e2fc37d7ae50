"""The objects in a TensorFlow checkpoint: which tensors are the tables and slots of an embedding.

`tf.train.Checkpoint` saves, beside the tensors, the graph of the objects that hold them. An embedding is an
object with an attribute `_variables`, table → 'parameters' and slots.

Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .tensorflow_bundle import Bundle, Rows
from .tensorflow_encoding import Message, message, read_varint

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
LAYOUTS = "_sparse_core_table_layouts"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
WEIGHT, TF_WEIGHT = "weight", "parameters"


@dataclass
class Node:
    """An object that TensorFlow saved."""

    children: dict[str, int] = field(default_factory=dict)
    """Attribute → number of a node."""
    key: str | None = None
    """The key of the object's tensor in the checkpoint, where the object is a variable."""

    @staticmethod
    def parse(data: bytes) -> Node:
        found = Message(data)
        node = Node()
        for child in map(Message, found.all_octets(1)):
            node.children[child.octets(2).decode()] = child.number(1)
        for attribute in map(Message, found.all_octets(2)):
            if attribute.octets(1) == b"VARIABLE_VALUE":
                node.key = attribute.octets(3).decode()
        return node

    def serialize(self) -> bytes:
        pairs = [(1, message((1, number), (2, name))) for name, number in self.children.items()]
        if self.key is not None:
            pairs.append((2, message((1, "VARIABLE_VALUE"), (2, self.key), (3, self.key))))
        return message(*pairs)


@dataclass(frozen=True)
class Layout:
    """Where SparseCore has a table: id i on core (i + rotation) mod cores, in row offset + i // cores."""

    table: str
    stack: str
    cores: int
    shape: tuple[int, ...]
    offset: int
    rotation: int

    @staticmethod
    def parse_all(data: bytes) -> list[Layout]:
        found = []
        for parts in map(Message, Message(data).all_octets(1)):
            packed = parts.octets(6)
            shape, at = [], 0
            while at < len(packed):
                size, at = read_varint(packed, at)
                shape.append(size)
            names = parts.octets(1).decode(), parts.octets(2).decode()
            cores, offset, rotation = parts.number(3, 1), parts.number(8), parts.number(9)
            found.append(Layout(*names, cores, (*shape,), offset, rotation))
        return found


class Unstacked:
    """The rows of one table of a SparseCore stack, in id order, without padding."""

    def __init__(self, rows: Rows, layout: Layout, key: str) -> None:
        self.shape, self._rows, self._layout = layout.shape, rows, layout
        self._per_core, rest = divmod(rows.shape[0], layout.cores)
        last = layout.offset + (layout.shape[0] - 1) // layout.cores
        if rest or last >= self._per_core or layout.shape[1] > rows.shape[1]:
            raise ValueError(f"{key!r} is {[*rows.shape]}, which does not hold {layout}")

    def __getitem__(self, rows: slice) -> np.ndarray:
        layout, ids = self._layout, np.arange(*rows.indices(self.shape[0]))
        core = (ids + layout.rotation) % layout.cores
        found = self._rows.take(core * self._per_core + layout.offset + ids // layout.cores)
        return found[:, : self.shape[1]]


@dataclass(frozen=True)
class Found:
    """A table in a TensorFlow checkpoint."""

    name: str
    owner: str
    """The path of attributes to its embedding object."""
    keys: Mapping[str, str]
    """'weight' and slots → keys of tensors."""
    layout: Layout | None = None

    @property
    def path(self) -> str:
        return f"{self.owner}/{self.name}" if self.owner else self.name


def find_tables(bundle: Bundle) -> list[Found]:
    """The tables of all embedding objects, which have an attribute `_variables`: table → 'parameters' and
    slots."""
    if GRAPH not in bundle.entries:
        return []
    nodes = [Node.parse(value) for value in Message(bundle.text(GRAPH)).all_octets(1)]
    paths = {0: ""}
    queue = [0]
    for number in queue:  # breadth first, so that the shortest path names an object
        for name, child in nodes[number].children.items():
            if child not in paths:
                paths[child] = f"{paths[number]}/{name}".lstrip("/")
                queue.append(child)
    found = []
    for number in queue:
        children = nodes[number].children
        tables = nodes[children["_variables"]].children if "_variables" in children else {}
        layouts = []
        if LAYOUTS in children and (key := nodes[children[LAYOUTS]].key):
            layouts = Layout.parse_all(bundle.text(key))
        for name, child in tables.items():
            slots = nodes[child].children
            keys = {slot: key for slot, each in slots.items() if (key := nodes[each].key)}
            if TF_WEIGHT not in keys:
                continue
            keys = {WEIGHT: keys.pop(TF_WEIGHT), **keys}
            # TPUEmbeddingForServing has layouts too, but tables that are unstacked already
            own = children.get(name) == slots[TF_WEIGHT]
            stacked = [each for each in layouts if each.stack == name] if own else []
            found += [Found(each.table, paths[number], keys, each) for each in stacked]
            if not stacked:
                found.append(Found(name, paths[number], keys))
    return found


class ObjectGraph:
    """The graph by which tf.train.Checkpoint matches objects: a root with an embedding below it.

    Args:
        attribute: the path to the embedding, attributes between slashes.
    """

    def __init__(self, attribute: str) -> None:
        if not all(attribute.split("/")):
            raise ValueError(f"--attribute: expected names between slashes, got {attribute!r}")
        self._nodes = [Node()]
        self._prefix = "/".join(map(self._escape, attribute.split("/")))
        at = 0
        for name in attribute.split("/"):
            at = self._child(at, name)
        self._embedding = at
        for name in ("_feature_config", "_output_shapes", "_table_config", "_variables"):
            self._variables = self._child(at, name)

    def add(self, table: str, slot: str) -> str:
        """A variable; its key."""
        name = table if slot == WEIGHT else f"{table}/{slot}"
        number = self._child(self._embedding, name)
        of_table = self._nodes[self._variables].children.get(table)
        if of_table is None:
            of_table = self._child(self._variables, table)
        self._nodes[of_table].children[TF_WEIGHT if slot == WEIGHT else slot] = number
        key = self._nodes[number].key = f"{self._prefix}/{self._escape(name)}{VALUE}"
        return key

    def add_counter(self) -> str:
        """The counter that tf.train.Checkpoint keeps; its key."""
        key = self._nodes[self._child(0, "save_counter")].key = "save_counter" + VALUE
        return key

    def serialize(self) -> bytes:
        return message(*[(1, node.serialize()) for node in self._nodes])

    def _child(self, parent: int, name: str) -> int:
        self._nodes.append(Node())
        self._nodes[parent].children[name] = len(self._nodes) - 1
        return len(self._nodes) - 1

    @staticmethod
    def _escape(name: str) -> str:
        return name.replace(".", "..").replace("/", ".S")
