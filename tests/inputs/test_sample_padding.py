"""Inference takes any number of samples; training says what to do with a batch that is not full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed
from torch_tpu_embedding.batch.sample_padding import SampleCount
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.tables.start_values import start_values

B, V = 4, 30


def config() -> dict[str, tte.FeatureConfig]:
    """One feature of every form that activations may have."""
    users = tte.TableConfig(V, 4, name="users", combiner="mean")
    items = tte.TableConfig(V, 3, name="items", combiner="sqrtn")
    return {
        "dense": tte.FeatureConfig(users),
        "places": tte.FeatureConfig(users),
        "ragged": tte.FeatureConfig(items),
        "sequence": tte.FeatureConfig(items, max_sequence_length=3),
        "sparse": tte.FeatureConfig(users),
        "own": tte.FeatureConfig(items, output_shape=[2]),
    }


def make(device: str | None = None, **options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(config(), B, tte.SGD(1.0), seed=0, device=device, **options)


def batch(count: int, seed: int = 0) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)

    def ids(*shape: int) -> Tensor:
        return torch.randint(0, V, shape, generator=random)

    lengths = torch.randint(0, 5, (2, count), generator=random)
    many, few = (tte.Ragged.from_lengths(ids(int(each.sum())), each) for each in lengths)
    places = torch.tensor([[b, s, 0] for b in range(count) for s in range(2)])
    return {
        "dense": ids(count),
        "places": ids(count, 2, 1),
        "ragged": many,
        "sequence": few,
        "sparse": torch.sparse_coo_tensor(places.reshape(-1, 3).T, ids(len(places)), (count, 2, 3)),
        "own": ids(2),
    }


def look_up(embedding: tte.TPUEmbedding, count: int) -> dict[str, Tensor]:
    embedding.enqueue(batch(count), training=False)
    found = embedding.dequeue()
    tte.runtime.sync()
    return {name: each.cpu() for name, each in found.items()}


SIZES = (4, 1, 0, 3, 9, 8, 2)


def test_inference_of_any_number_of_samples_is_the_lookup_of_plain_torch() -> None:
    embedding, plain = make(), make("cpu")
    for _ in range(2):
        compiled = tte.runtime.compile_count()
        for count in SIZES:
            wanted = plain(batch(count))
            for name, each in look_up(embedding, count).items():
                torch.testing.assert_close(each, wanted[name].detach(), msg=f"{name}, {count}")
    assert tte.runtime.compile_count() == compiled, "nothing is compiled after the first time"


def test_a_smaller_batch_is_looked_up_by_the_program_of_a_whole_one() -> None:
    embedding = make()
    sizes = []
    for count in (4, 1, 0, 3):
        embedding.enqueue(batch(count), training=False)
        sizes.append(embedding._steps.queue.first()[0].sent.shapes)
        embedding.discard()
    assert all(each == sizes[0] for each in sizes)


def test_training_goes_on_after_inference_of_another_size() -> None:
    embedding, other = make(), make()
    look_up(embedding, 9)
    for each in (embedding, other):
        sum(rows.sum() for rows in each(batch(B)).values()).backward()
        each.apply_gradients()
    for key, value in other.state_dict().items():
        assert torch.equal(embedding.state_dict()[key], value)


@pytest.mark.parametrize("counts", [(2, 0), (1, 2), (5, 1), (2, 2, 7)])
def test_each_process_may_have_another_number_of_samples(counts: Sequence[int]) -> None:
    cpu = torch.device("cpu")
    plain = make("cpu")

    def work(group: ThreadGroup) -> None:
        resolved = resolve(config(), tte.SGD(1.0))
        engine = Engine(resolved, cpu, "CPU", Process(cpu, group, in_program=False))
        ids = engine.store.ids
        engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
        count, shapes = counts[group.rank], [f.output_shape for f in resolved.features]
        given = batch(count, seed=group.rank)
        bags = [
            parse(f, resolved.table_of(f), given[f.name], output_shape=f.output_shape)
            for f in resolved.features
        ]
        samples = SampleCount(resolved, 2 * len(counts), len(counts)).of(bags, shapes, False)
        sent = engine.send(bags, training=False, samples=samples)
        found = engine.cut(sent, engine.look_up(sent, keep_records=False)[1])
        wanted = plain(given)
        for feature, each in zip(resolved.features, found, strict=True):
            torch.testing.assert_close(each, wanted[feature.name].detach())

    run_processes(len(counts), work)


def test_a_training_batch_of_another_size_names_the_remedies() -> None:
    embedding = make()
    message = (
        r"feature 'dense' \(table 'users'\): got 3 samples, but TPUEmbedding was built for batch_size=4; "
        r"drop a last batch that is not full .*local_positions.* Inference .* takes any number"
    )
    with pytest.raises(ValueError, match=message):
        embedding.enqueue(batch(3))
    several = SampleCount(embedding.resolved, 12, processes=3)
    bags = embedding._steps.parse(batch(3), None)
    message = "batch_size=12 of all 3 processes together, of which each enqueues 4; drop"
    with pytest.raises(ValueError, match=message):
        several.of(bags, embedding._steps.shapes.explicit, training=True)


def test_features_of_different_numbers_of_samples_are_refused() -> None:
    given = batch(3) | {"places": batch(2)["places"]}
    message = r"'places' .*: got 2 samples, but feature 'dense' .* has 3; all features of a batch"
    with pytest.raises(ValueError, match=message):
        make().enqueue(given, training=False)


def test_a_batch_filled_up_as_the_message_says_trains_what_its_samples_do() -> None:
    """Fillers weigh nothing in the loss."""
    table = tte.TableConfig(V, 4, name="users", combiner="sum")
    features = {"user": tte.FeatureConfig(table)}
    embedding = tte.TPUEmbedding(features, B, tte.SGD(1.0), seed=0)
    wanted = embedding.state_dict()["users.weight"].clone()
    ids = torch.tensor([3, 7, 3])
    positions, real = distributed.local_positions(len(ids), B)
    rows = embedding({"user": ids[positions]})["user"]
    (rows.sum(1) * embedding.to_device(real.float())).sum().backward()
    embedding.apply_gradients()
    wanted.index_add_(0, ids, torch.full((3, 4), -1.0))
    torch.testing.assert_close(embedding.state_dict()["users.weight"], wanted)
