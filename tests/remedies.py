"""Errors that name a remedy: what provokes each, and the remedies done. `test_remedies.py` runs them.

Not here, for they need several processes or machines: errors of lost, dead or differing processes
(`test_torchrun.py`, `test_checkpoint_crash.py`), and of devices that are not there.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint, serving_embedding_lookup

Step = Callable[[], object]
Case = Callable[[Path], tuple[Step, ...]]

CASES: list[tuple[str, Case]] = []
"""A pattern of the message, and what makes (provoke, remedy, another remedy, …) from an empty folder."""


def says(message: str) -> Callable[[Case], Case]:
    def add(case: Case) -> Case:
        CASES.append((message, case))
        return case

    return add


def lists(*rows: list[Any], dtype: torch.dtype | None = None) -> tte.Ragged:
    return tte.Ragged.from_lists(rows, dtype=dtype)


IDS, BAGS = torch.tensor([1, 2]), lists([1, 2], [3])
WEIGHTS = lists([1.0, 2.0], [3.0])


def make(optimizer: Any = None, table: Any = None, feature: Any = None, **options: Any) -> Any:
    """An embedding of one feature 'f' on table 't'."""
    config = tte.TableConfig(9, 4, name="t", **(table or {}))
    features = {"f": tte.FeatureConfig(config, **(feature or {}))}
    return tte.TPUEmbedding(features, 2, optimizer or tte.SGD(0.1), seed=1, **options)


def serve(ids: Any, weights: Any = None, feature: Any = None, **table: Any) -> Any:
    """One feature looked up on the CPU."""
    held = tte.TableConfig(table.pop("vocabulary_size", 9), 4, name="t", **table)
    config = {"f": tte.FeatureConfig(held, **(feature or {}))}
    values = {held: torch.ones(held.vocabulary_size, 4)}
    given = None if weights is None else {"f": weights}
    return serving_embedding_lookup({"f": ids}, given, values, config)


def train(embedding: Any, apply: Step | None = None) -> None:
    embedding({"f": IDS})["f"].sum().backward()
    (apply or embedding.apply_gradients)()


# -- the order of calls --------------------------------------------------------------------------------


@says(
    r"enqueue: 2 batches already wait, which is all that enqueue_depth=2 allows; call dequeue first"
)
def full(_: Path) -> tuple[Step, ...]:
    embedding = make()
    for _ in range(2):
        embedding.enqueue({"f": IDS}, training=False)

    def after_dequeue() -> None:
        embedding.dequeue()
        embedding.enqueue({"f": IDS}, training=False)

    return lambda: embedding.enqueue({"f": IDS}), after_dequeue


@says(r"1 enqueued batches wait; dequeue them first, or use enqueue and dequeue throughout")
def waiting(_: Path) -> tuple[Step, ...]:
    embedding = make().eval()
    embedding.enqueue({"f": IDS}, training=False)

    def dequeue_first() -> None:
        embedding.dequeue()
        embedding({"f": IDS})

    def throughout() -> None:
        embedding.enqueue({"f": IDS}, training=False)
        embedding.dequeue()
        embedding.dequeue()

    return lambda: embedding({"f": IDS}), dequeue_first, throughout


@says(
    r"still awaits its gradients; call apply_gradients \(or the EmbeddingOptimizer's step\) for it, or"
)
def awaiting(_: Path) -> tuple[Step, ...]:
    embedding = make()
    embedding({"f": IDS})["f"].sum().backward()

    def then(first: Step) -> Step:
        return lambda: (first(), embedding({"f": IDS}))

    def evaluate() -> None:
        embedding.enqueue({"f": IDS}, training=False)
        embedding.dequeue()
        embedding.eval()({"f": IDS})

    optimizer = tte.EmbeddingOptimizer(embedding)
    remedies = [embedding.apply_gradients, optimizer.step, embedding.discard]
    return lambda: embedding({"f": IDS}), *map(then, remedies), evaluate


@says(r"dequeue: no batch waits; call enqueue first")
def empty(_: Path) -> tuple[Step, ...]:
    embedding = make()
    return embedding.dequeue, lambda: (embedding.enqueue({"f": IDS}), embedding.dequeue())


@says(r"no training batch was dequeued; call enqueue and dequeue first")
def nothing_to_apply(_: Path) -> tuple[Step, ...]:
    embedding = make()

    def follow() -> None:
        embedding.enqueue({"f": IDS})
        embedding.dequeue()["f"].sum().backward()
        embedding.apply_gradients()

    return embedding.apply_gradients, follow


@says(r"is an inference batch .*; enqueue with training=True to train")
def inference_batch(_: Path) -> tuple[Step, ...]:
    embedding = make()
    embedding.eval()({"f": IDS})

    def follow() -> None:
        embedding.enqueue({"f": IDS}, training=True)
        embedding.dequeue()["f"].sum().backward()
        embedding.apply_gradients()

    return embedding.apply_gradients, follow


@says(
    r"already called for the training batch dequeued last; enqueue and dequeue the next one first"
)
def applied_twice(_: Path) -> tuple[Step, ...]:
    embedding = make()
    train(embedding)
    return embedding.apply_gradients, lambda: train(embedding)


@says(r"no activation has a gradient; call loss.backward\(\) first, or pass the gradients")
def no_backward(_: Path) -> tuple[Step, ...]:
    embedding = make()
    rows = embedding({"f": IDS})["f"]

    def backward() -> None:
        rows.sum().backward()
        embedding.apply_gradients()

    def passed() -> None:
        embedding.apply_gradients({"f": torch.ones_like(rows)})

    return embedding.apply_gradients, backward, passed


@says(
    r"is on the CPU.*call it directly \(forward\) for a lookup, or create it without device='cpu' to"
)
def cpu_calls(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    return (
        lambda: embedding.enqueue({"f": IDS}),
        lambda: embedding({"f": IDS}),
        lambda: train(make()),
    )


@says(r"EmbeddingLoader: this TPUEmbedding is on the CPU.*; iterate over the batches themselves")
def cpu_loader(_: Path) -> tuple[Step, ...]:
    embedding, data = make(device="cpu"), [{"f": IDS}]
    return (
        lambda: next(iter(tte.EmbeddingLoader(data, embedding))),
        lambda: [embedding(each) for each in data],
    )


@says(r"nothing is counted; call enable_metrics\(\) before training")
def metrics(_: Path) -> tuple[Step, ...]:
    embedding = make()
    return embedding.metrics, lambda: (embedding.enable_metrics(), embedding.metrics())


@says(r"profile: a trace is being written already; end that one first")
def profile(folder: Path) -> tuple[Step, ...]:
    def nested() -> None:
        with tte.profile(folder / "outer"), tte.profile(folder / "inner"):
            pass

    def one_after_another() -> None:
        for name in ("first", "second"):
            with tte.profile(folder / name):
                pass

    return nested, one_after_another


@says(r"tensorboard is not installed; .*, or write lines of JSON with JsonLinesWriter")
def tensorboard(folder: Path) -> tuple[Step, ...]:
    def without() -> None:
        with mock.patch.dict(sys.modules, {"torch.utils.tensorboard": None}):
            tte.TensorBoardWriter(str(folder))

    def lines() -> None:
        embedding = make()
        embedding.enable_metrics(every=1, callback=tte.JsonLinesWriter(folder / "m.jsonl"))
        train(embedding)

    return without, lines


# -- rates and optimizers ------------------------------------------------------------------------------


@says(
    r"table 't': FTRL divides by the learning rate.*to keep the table as it is call embedding.freeze\('t'"
)
def ftrl_rate_0(_: Path) -> tuple[Step, ...]:
    embedding = make(tte.FTRL(0.1))
    optimizer = tte.EmbeddingOptimizer(embedding)
    optimizer.param_groups[0]["lr"] = 0.0

    def freeze() -> None:
        before = embedding.state_dict()
        embedding.freeze("t")
        optimizer.step()
        for key, value in embedding.state_dict().items():
            assert not isinstance(value, torch.Tensor) or torch.equal(value, before[key])

    return lambda: train(embedding, optimizer.step), freeze


@says(
    r"freeze: no table is named \['u'\]; the tables are \['t'\], and requires_grad_ is for all of them"
)
def freeze_unknown(_: Path) -> tuple[Step, ...]:
    embedding = make()

    def all_of_them() -> None:
        assert embedding.requires_grad_(False).frozen_tables == ("t",)

    return lambda: embedding.freeze("u"), lambda: embedding.freeze("t"), all_of_them


@says(r"but its optimizer's learning_rate is a callable; give that table a number to set it here")
def rate_of_a_callable(_: Path) -> tuple[Step, ...]:
    def set_rate(rate: Any) -> Step:
        embedding = make(tte.SGD(rate))
        optimizer = tte.EmbeddingOptimizer(embedding)
        optimizer.param_groups[0]["lr"] = 0.5
        return lambda: train(embedding, optimizer.step)

    return set_rate(lambda: 0.1), set_rate(0.1)


@says(r"initial_accumulator_value and epsilon are both 0.*; give one of them")
def rowwise(_: Path) -> tuple[Step, ...]:
    def build(start: float, epsilon: float) -> Step:
        return lambda: tte.RowWiseAdagrad(0.1, initial_accumulator_value=start, epsilon=epsilon)

    return build(0, 0), build(0.1, 0), build(0, 1e-8)


@says(r"must be above 0, got 0; set allow_zero_accumulator=True to start from 0")
def ftrl_zero(_: Path) -> tuple[Step, ...]:
    return (
        lambda: tte.FTRL(0.1, initial_accumulator_value=0),
        lambda: train(
            make(tte.FTRL(0.1, initial_accumulator_value=0, allow_zero_accumulator=True))
        ),
    )


@says(r"(lazy_adam=False|clipvalue=1.0) needs use_gradient_accumulation=True")
def accumulation(_: Path) -> tuple[Step, ...]:
    both = {"lazy_adam": False, "clipvalue": 1.0}
    return (
        lambda: tte.Adam(0.1, use_gradient_accumulation=False, **both),
        lambda: train(make(tte.Adam(0.1, use_gradient_accumulation=True, **both))),
    )


# -- configuration -------------------------------------------------------------------------------------


@says(r"feature_config holds no feature: give at least one FeatureConfig")
def no_feature(_: Path) -> tuple[Step, ...]:
    return lambda: tte.TPUEmbedding({}, 2, tte.SGD(), device="cpu"), lambda: make(device="cpu")


@says(r"unsupported optimizer class; give one of torch_tpu_embedding.optimizers")
def optimizer_class(_: Path) -> tuple[Step, ...]:
    return lambda: make(torch.optim.SGD), lambda: make(tte.optimizers.SGD())


@says(r"Multiple tables with name 'a' found .*: give each TableConfig its own name")
def table_names(_: Path) -> tuple[Step, ...]:
    def build(*names: str) -> Step:
        features = [tte.FeatureConfig(tte.TableConfig(2, 2, name=name)) for name in names]
        return lambda: tte.TPUEmbedding(features, 2, None, device="cpu")

    return build("a", "a"), build("a", "b")


@says(
    r"exclude each other; leave max_sequence_length 0 and give ragged ids with one row per sequence"
)
def sequence_and_shape(_: Path) -> tuple[Step, ...]:
    def follow() -> None:
        assert serve(BAGS, feature={"output_shape": [2, 3]})["f"].shape == (2, 3, 4)

    return lambda: make(feature={"max_sequence_length": 3, "output_shape": [2, 3]}), follow


@says(r"batch_size is missing, the call is TPUEmbedding\(feature_config, batch_size, optimizer\)")
def no_batch_size(_: Path) -> tuple[Step, ...]:
    features = {"f": tte.FeatureConfig(tte.TableConfig(9, 4))}
    return (
        lambda: tte.TPUEmbedding(features, tte.SGD()),
        lambda: train(tte.TPUEmbedding(features, 2, tte.SGD())),
        lambda: tte.TPUEmbeddingForServing(features, tte.SGD())({"f": IDS}),
    )


@says(r"pass callables for the names \['cosine'\]")
def described(_: Path) -> tuple[Step, ...]:
    def cosine() -> float:
        return 0.1

    config = {"f": tte.FeatureConfig(tte.TableConfig(9, 4, optimizer=tte.SGD(cosine), name="t"))}
    text = tte.config_to_dict(config)
    name = cosine.__qualname__
    text = {**text, "tables": [_renamed(table, name) for table in text["tables"]]}
    return (
        lambda: tte.config_from_dict(text),
        lambda: tte.config_from_dict(text, callables={"cosine": cosine}),
    )


def _renamed(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(each, name) for key, each in value.items()}
    return "cosine" if isinstance(value, str) and value.endswith(name) else value


@says(r"no tables of this configuration are initialised on .*; build the one that owns them first")
def second_object(_: Path) -> tuple[Step, ...]:
    features = {"f": tte.FeatureConfig(tte.TableConfig(7, 3, name="shared"))}

    def build(first: bool = True) -> Any:
        return tte.TPUEmbedding(features, 2, tte.SGD(), initialize_tpu_embedding=first)

    def owner_first() -> None:
        owner = build()
        owner.build()
        train(build(False))

    return lambda: build(False), owner_first


@says(
    r"embedding_tables: .* not single tensors; read them with state_dict\(\), or load that into a"
)
def tables_on_device(_: Path) -> tuple[Step, ...]:
    embedding = make()

    def load() -> None:
        serving = make(device="cpu")
        serving.load_state_dict(embedding.state_dict())
        assert len(serving.embedding_tables) == 1

    return (
        lambda: embedding.embedding_tables,
        lambda: embedding.state_dict()["t.weight"].shape,
        load,
    )


@says(r"build: give per_replica_input_shapes or per_replica_batch_size, not both")
def build_twice(_: Path) -> tuple[Step, ...]:
    embedding = make()
    return (
        lambda: embedding.build({"f": [2]}, 2),
        lambda: embedding.build({"f": [2]}),
        lambda: embedding.build(per_replica_batch_size=2),
    )


# -- checkpoints and export ----------------------------------------------------------------------------


@says(r"this step is complete already; save another step, or remove its directory first")
def complete(run: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    checkpoint.save(embedding, run, 1)

    def remove() -> None:
        (step,) = run.glob("*1")
        shutil.rmtree(step)
        checkpoint.save(embedding, run, 1)

    return (
        lambda: checkpoint.save(embedding, run, 1),
        lambda: checkpoint.save(embedding, run, 2),
        remove,
    )


@says(r"since=1, but .*; save without since=, and base the next deltas on that step")
def unknown_base(run: Path) -> tuple[Step, ...]:
    embedding = make()

    def follow() -> None:
        checkpoint.save(embedding, run, 2)
        train(embedding)
        checkpoint.save(embedding, run, 3, since=2)
        checkpoint.load(make(), run)

    return lambda: checkpoint.save(embedding, run, 2, since=1), follow


@says(r"restore it from a copy, or load another step \(step=…, or fall_back=True\)")
def damaged(folder: Path) -> tuple[Step, ...]:
    embedding, run = make(device="cpu"), folder / "run"
    for step in (1, 2):
        checkpoint.save(embedding, run, step)
    shutil.copytree(run, folder / "copy")
    newest = next(each for each in run.iterdir() if each.name.endswith("2"))
    next(newest.glob("*.safetensors")).unlink()

    def from_copy() -> None:
        shutil.rmtree(run)
        shutil.copytree(folder / "copy", run)
        checkpoint.load(embedding, run)

    return (
        lambda: checkpoint.load(embedding, run),
        from_copy,
        lambda: checkpoint.load(embedding, run, step=1),
        lambda: checkpoint.load(embedding, run, fall_back=True),
    )


@says(r"expected torch.float32, got torch.float64; convert it before loading")
def state_of_doubles(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    state = {"t.weight": torch.ones(9, 4, dtype=torch.float64)}
    return (
        lambda: embedding.load_state_dict(state),
        lambda: embedding.load_state_dict({key: value.float() for key, value in state.items()}),
    )


@says(r"assign=True is not possible: table values are copied; leave it False")
def assigned(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    state = embedding.state_dict()
    return (
        lambda: embedding.load_state_dict(state, assign=True),
        lambda: embedding.load_state_dict(state, assign=False),
    )


@says(r"two tables would be named 'a_b'; rename one")
def exported_tables(_: Path) -> tuple[Step, ...]:
    def export(*names: str) -> Step:
        features = [tte.FeatureConfig(tte.TableConfig(2, 2, name=name)) for name in names]
        return lambda: tte.export_serving(tte.TPUEmbeddingForServing(features))

    return export("a.b", "a_b"), export("a.b", "c")


@says(r"two features are named 'x'; give each FeatureConfig its own name")
def exported_features(_: Path) -> tuple[Step, ...]:
    def export(*names: str) -> Step:
        table = tte.TableConfig(2, 2)
        features = [tte.FeatureConfig(table, name=name) for name in names]
        return lambda: tte.export_serving(tte.TPUEmbeddingForServing(features))

    return export("x", "x"), export("x", "y")


@says(
    r"the model (is in training mode; call model.eval\(\) first|holds no ServingModule; give it export_)"
)
def exported_model(folder: Path) -> tuple[Step, ...]:
    path, example = folder / "m.pt2", {"f": IDS}
    bare = torch.nn.Sequential(torch.nn.Identity())

    def with_tables() -> None:
        model = torch.nn.Sequential(tte.export_serving(make(device="cpu")))
        with contextlib.suppress(ValueError):
            tte.export_program(model.train(), path, example)
        tte.export_program(model.eval(), path, example)
        torch.export.load(path).module()({"f": IDS})

    return lambda: tte.export_program(bare, path, example), with_tables
