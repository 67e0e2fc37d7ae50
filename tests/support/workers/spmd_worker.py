"""Run by test_spmd.py in a process with several virtual devices: `spmd_worker.py DEVICES FOLDER`.

Trains optimizers next to the engine on plain tensors and the float64 reference, and prints what it found as
one JSON object; no assertions here, those are in the test.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["PJRT_DEVICE"] = "CPU"
os.environ["CPU_NUM_DEVICES"] = sys.argv[1]

import torch
from models import helpers
from models.laws import LAYOUTS, OPTIMIZERS, Batch, Fast, config, step_of_several
from torch import Tensor
from workers.spmd_cases import BATCH, restored_config

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed, runtime
from torch_tpu_embedding.distributed.placement import STRATEGIES
from torch_tpu_embedding.inputs.bags import parse as parse_bags
from torch_tpu_embedding.reference import ReferenceEmbedding

DEVICES = int(sys.argv[1])
FOLDER = Path(sys.argv[2])
STEPS = 3


def make_batch(features: list[tte.FeatureConfig], rng: random.Random) -> Batch:
    """Bags of 0 to 4 ids, with weights where a feature may have them."""
    return [
        [
            [
                (
                    rng.randrange(each.table.vocabulary_size),
                    1.0 if each.max_sequence_length else rng.choice([0.5, 1.0, 3.0]),
                )
                for _ in range(rng.randint(0, 4))
            ]
            for _ in range(BATCH)
        ]
        for each in features
    ]


def fullest_batch(features: list[tte.FeatureConfig]) -> Batch:
    """A batch that needs all the room that any other does, so that no later one needs a new program."""
    return [
        [
            [((4 * sample + place) % each.table.vocabulary_size, 1.0) for place in range(4)]
            for sample in range(BATCH)
        ]
        for each in features
    ]


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The greatest difference, relative to the greatest value of its tensor."""
    assert set(found) == set(wanted)
    return max(
        float((found[key] - value).abs().max() / value.abs().max().clamp(min=1e-3))
        for key, value in wanted.items()
    )


def side_by_side(activations: list[Tensor]) -> Tensor:
    """All activations as one tensor, to be fetched by one program."""
    return torch.cat([each.reshape(BATCH, -1) for each in activations], dim=1)


def train(name: str, number: int, layout: runtime.DeviceKind) -> dict[str, Any]:
    """Some steps with one optimizer; input kind and strategy change from case to case."""
    optimizer = OPTIMIZERS[name]
    strategy, kind = STRATEGIES[number % 2], helpers.KINDS[number % 3]
    features = config(optimizer)
    embedding = tte.TPUEmbedding(
        features, BATCH, optimizer, seed=0, layout=layout, sharding=strategy
    )
    plain = Fast(features, optimizer, "CPU")
    reference = ReferenceEmbedding(features, optimizer, plain.state())
    rng = random.Random(number)

    def enqueue(batch: Batch, training: bool) -> None:
        ids, weights = helpers.as_inputs(batch, kind)
        for place, feature in enumerate(features):
            if feature.max_sequence_length:
                weights[place] = None
        embedding.enqueue(ids, weights, training=training)

    batch = fullest_batch(features)
    enqueue(batch, training=False)
    seen = embedding.to_host(side_by_side(embedding.dequeue()))
    wanted = side_by_side(plain.step(batch, kind, train=False))
    compiled = 0
    for step in range(STEPS):
        given = [helpers.gradient_of(each) for each in plain.step(batch, kind)]
        reference.apply_gradients(batch, given)
        gradients = [embedding.to_device(each) for each in given]
        enqueue(batch, training=True)
        embedding.dequeue()
        embedding.apply_gradients(gradients)
        runtime.sync()
        if step == 0:
            compiled = runtime.compile_count()
        batch = make_batch(features, rng)
    return {
        "optimizer": name,
        "layout": layout,
        "one_program": not name.endswith("-each") and "-each-" not in name,
        "activations_equal_to_the_bit": torch.equal(seen, wanted),
        "compiled_after_first_step": runtime.compile_count() - compiled,
        "error": distance(helpers.tensors(embedding), reference.state),
        "error_of_one_device": distance(plain.state(), reference.state),
    }


def clip_and_accumulate() -> dict[str, Any]:
    """Steps of two micro-batches each, clipped by the norm, and the same on one device."""
    optimizer, limit = OPTIMIZERS["adagrad"], 2.0
    features = config(optimizer)
    embedding = tte.TPUEmbedding(features, BATCH, optimizer, seed=0)
    plain = Fast(features, optimizer, "CPU")
    rng, norms, compiled = random.Random(0), [], 0
    for step in range(STEPS):
        micro = [fullest_batch(features) if step == 0 else make_batch(features, rng) for _ in "ab"]
        for batch in micro:
            given = [helpers.gradient_of(each) for each in plain.step(batch, train=False)]
            ids, weights = helpers.as_inputs(batch, "ragged")
            for place, feature in enumerate(features):
                if feature.max_sequence_length:
                    weights[place] = None
            embedding.enqueue(ids, weights)
            embedding.dequeue()
            embedding.accumulate_gradients([embedding.to_device(each) for each in given])
        norm = embedding.clip_grad_norm_(limit)
        embedding.apply_gradients()
        runtime.sync()
        if step == 0:
            compiled = runtime.compile_count()
        wanted = step_of_several(plain.engine, plain.resolved, micro, "ragged", limit)
        norms.append((norm, wanted))
    compiled = runtime.compile_count() - compiled
    return {
        "norm_distance": max(abs(float(found) - wanted) / wanted for found, wanted in norms),
        "clipped": all(wanted > limit for _, wanted in norms),
        "table_distance": distance(helpers.tensors(embedding), plain.state()),
        "compiled_after_first_step": compiled,
    }


def train_and_evaluate(features: list[tte.FeatureConfig], rounds: int) -> dict[str, Any]:
    """Steps with a dense head, every third an evaluation, other ids each time, one id or many a sample."""
    embedding = tte.TPUEmbedding(features, BATCH, tte.Adagrad(0.1), seed=0)
    plain = Fast(features, tte.Adagrad(0.1), "CPU")
    first = torch.nn.Linear(sum(each.table.dim for each in features), 1)
    head = torch.nn.Linear(first.in_features, 1).to(embedding.device)
    head.load_state_dict(first.state_dict())
    generator = torch.Generator().manual_seed(0)
    inputs: list[Any]
    milliseconds, compiled, losses = [], [], []
    for step in range(rounds):
        training = step % 3 != 2
        inputs = []
        for number, each in enumerate(features):
            size = each.table.vocabulary_size
            if number % 2:
                inputs.append(torch.randint(0, size, (BATCH,), generator=generator))
            else:
                lengths = torch.randint(0, 4, (BATCH,), generator=generator)
                if step == 0:
                    lengths[:] = 4
                ids = torch.randint(0, size, (int(lengths.sum()),), generator=generator)
                inputs.append(tte.Ragged.from_lengths(ids, lengths))
        embedding.enqueue(inputs, training=training)
        start = time.perf_counter()
        activations = embedding.dequeue()
        loss = torch.tanh(head(torch.cat(activations, dim=1))).square().mean()
        if training:
            loss.backward()
            embedding.apply_gradients()
            head.zero_grad()
        milliseconds.append(1e3 * (time.perf_counter() - start))
        kept = loss.detach()
        del activations, loss
        runtime.sync()
        compiled.append(runtime.compile_count())
        losses.append((float(kept), plain_loss(plain, first, inputs, training)))
    return {
        "compiled_after_warm_up": compiled[-1] - compiled[2],
        "trace_ms": statistics.median(milliseconds[3:]),
        "loss_distance": max(abs(a - b) / abs(b) for a, b in losses),
        "table_distance": distance(helpers.tensors(embedding), plain.state()),
    }


def plain_loss(plain: Fast, head: torch.nn.Module, inputs: list[Any], training: bool) -> float:
    """The same step on plain tensors."""
    bags = [
        parse_bags(feature, plain.resolved.table_of(feature), value)
        for feature, value in zip(plain.resolved.features, inputs, strict=True)
    ]
    engine = plain.engine
    looked_up, activations = engine.look_up(engine.send(bags))
    activations = [each.requires_grad_() for each in activations]
    loss = torch.tanh(head(torch.cat(activations, dim=1))).square().mean()
    if training:
        loss.backward()
        rates = [0.1] * len(plain.resolved.tables)
        engine.update(looked_up, [each.grad for each in activations], rates)
    return float(loss)


def restore() -> bool:
    """Load what one device has saved, and save it again."""
    embedding = tte.TPUEmbedding(restored_config(), BATCH, tte.Adam(0.1), seed=5)
    embedding.load_state_dict(torch.load(FOLDER / "one_device.pt"))
    state = helpers.tensors(embedding)
    torch.save(embedding.state_dict(), FOLDER / "several_devices.pt")
    serving = tte.TPUEmbedding(restored_config(), BATCH, tte.Adam(0.1), device="cpu")
    serving.load_state_dict(embedding.state_dict())
    other = tte.TPUEmbedding(restored_config(), BATCH, tte.Adam(0.1), seed=6)
    other.load_state_dict(serving.state_dict())
    again = helpers.tensors(other)
    return all(torch.equal(state[key], again[key]) for key in state)


def look_up_a_few() -> list[list[float]]:
    """Inference of fewer samples than devices, and of more than a batch."""
    table = tte.TableConfig(50, 4, initializer=tte.RowIdInitializer())
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], DEVICES, tte.SGD(0.1))
    found = []
    for count in (1, DEVICES + 3):
        embedding.enqueue([torch.arange(count)], training=False)
        found.append(embedding.to_host(embedding.dequeue()[0])[:, 0].tolist())
    return found


def freeze(optimizer: tte.optimizers.Optimizer) -> dict[str, Any]:
    """Some steps with one of two tables of a stack frozen: what has moved, and late compiles."""
    tables = [tte.TableConfig(29, 4, name=name) for name in ("frozen", "trained")]
    features = [tte.FeatureConfig(table) for table in tables]
    embedding = tte.TPUEmbedding(features, BATCH, optimizer, seed=1)
    ids = [torch.arange(BATCH) % 29, torch.arange(BATCH) % 7]
    gradients = [embedding.to_device(torch.ones(BATCH, 4)) for _ in ids]

    def step() -> None:
        embedding.enqueue(ids)
        embedding.dequeue()
        embedding.apply_gradients(gradients)
        runtime.sync()

    for _ in range(2):
        step()
    before, compiled = helpers.tensors(embedding), runtime.compile_count()
    embedding.freeze("frozen")
    for _ in range(2):
        step()
    late = runtime.compile_count() - compiled
    after = helpers.tensors(embedding)
    moved = sorted({key for key in before if not torch.equal(before[key], after[key])})
    return {"moved": moved, "late_compiles": late}


def main() -> None:
    """Run all, print what was found."""
    torch.set_num_threads(1)
    distributed.initialize()
    trained = [
        train(name, number, LAYOUTS[(number + (DEVICES == 4)) % 2])
        for number, name in enumerate(OPTIMIZERS)
    ]
    sizes = [1, 2, 3, 101]  # rows: fewer than devices, and a prime
    odd = [tte.FeatureConfig(tte.TableConfig(v, 5 + v % 2, name=f"v{v}")) for v in sizes]
    alike = [tte.FeatureConfig(tte.TableConfig(1000 + t, 8, name=f"t{t}")) for t in range(26)]
    report = {
        "trained": trained,
        "odd": train_and_evaluate(odd, 6),
        "alike": train_and_evaluate(alike, 30),
        "accumulated": clip_and_accumulate(),
        "restored": restore(),
        "few": look_up_a_few(),
        "frozen": [freeze(tte.Adam(0.1, lazy_adam=lazy)) for lazy in (True, False)],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
