"""state_dict: what the device holds, under logical keys, and back after full checks."""

from __future__ import annotations

import io
import re

import pytest
import safetensors.torch
import torch
from models import helpers

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.tables.start_values import table_values


def golden(optimizer: tte.optimizers.Optimizer, **options: object) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(helpers.golden_config(), 4, optimizer, **options)


def features() -> tuple[object, ...]:
    return tuple(helpers.as_kind(rows, "ragged") for rows in helpers.GOLDEN_IDS)


def test_keys_are_table_and_slot_names_and_row_i_is_id_i() -> None:
    state = golden(tte.Adam()).state_dict()
    assert list(state) == [
        "video.weight", "video.momenta", "video.velocities",
        "user.weight", "user.momenta", "user.velocities", "_extra_state",
    ]  # fmt: skip
    assert all(value.device.type == "cpu" for value in state.values())
    assert torch.equal(state["user.weight"], torch.arange(32.0).reshape(16, 2))


@pytest.mark.parametrize("layouts", [("CPU", "TPU"), ("TPU", "CPU")])
def test_save_then_load_is_the_identity_across_layouts(layouts: tuple[str, str]) -> None:
    source, target = (golden(tte.Adagrad(0.1), layout=layout) for layout in layouts)
    helpers.train_step(source, features())
    state = source.state_dict()
    target.load_state_dict(state)
    found = target.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)
    for embedding in (source, target):
        helpers.train_step(embedding, features())
    one, other = helpers.tensors(source), helpers.tensors(target)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-6, atol=1e-6)


def test_a_trained_state_loads_on_the_cpu_and_back() -> None:
    source = golden(tte.Adagrad(0.1))
    helpers.train_step(source, features())
    state = source.state_dict()
    serving = golden(tte.Adagrad(0.1), device="cpu")
    serving.load_state_dict(state)
    assert list(serving.state_dict()) == list(state)
    again = golden(tte.Adagrad(0.1))
    again.load_state_dict(serving.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_the_state_is_part_of_a_larger_models_and_passes_torch_save_and_safetensors() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = golden(tte.SGD(0.1))
            self.head = torch.nn.Linear(2, 1)

    model, other = Model(), Model()
    helpers.train_step(model.embedding, features())
    state = model.state_dict()
    assert {"embedding.video.weight", "embedding._extra_state", "head.weight"} <= set(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.state_dict()["embedding.user.weight"], state["embedding.user.weight"])
    loaded = safetensors.torch.load(safetensors.torch.save(state))
    other.load_state_dict(loaded)


def test_the_state_shares_no_memory_with_the_tables() -> None:
    embedding = golden(tte.SGD(0.1), device="cpu")
    on_device = golden(tte.SGD(0.1))
    state = on_device.state_dict()
    state["user.weight"].zero_()
    assert not torch.equal(on_device.state_dict()["user.weight"], state["user.weight"])
    assert embedding.state_dict()["user.weight"].untyped_storage().nbytes() == 16 * 2 * 4


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("user.weight"), "Missing key.*user.weight"),
        (lambda s: s.update({"stray": torch.zeros(1)}), "Unexpected key.*stray"),
        (
            lambda s: s.update({"user.weight": torch.zeros(15, 2)}),
            r"user.weight: expected shape \[16, 2\] \(vocabulary_size, width\), got \[15, 2\]",
        ),
        (
            lambda s: s.update({"user.weight": torch.zeros(16, 2, dtype=torch.float64)}),
            "user.weight: expected torch.float32, got torch.float64",
        ),
        (
            lambda s: s.update({"user.weight": [1.0]}),
            r"user.weight: expected a tensor \[16, 2\], got list",
        ),
        (lambda s: s.update({"_extra_state": torch.zeros(3)}), "_extra_state: not the description"),
    ],
)
def test_a_wrong_state_is_refused_whole(device: str | None, change: object, message: str) -> None:
    embedding = golden(tte.Adagrad(0.1), device=device)
    before = embedding.state_dict()
    wrong = {key: value * 0 for key, value in before.items() if key != "_extra_state"}
    wrong["_extra_state"] = before["_extra_state"]
    change(wrong)
    with pytest.raises(RuntimeError, match=re.compile(message, re.DOTALL)):
        embedding.load_state_dict(wrong)
    after = embedding.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_strict_false_loads_what_fits_by_name() -> None:
    embedding = golden(tte.Adagrad(0.1))
    before = embedding.state_dict()
    part = {"user.weight": torch.full((16, 2), 3.0), "stray": torch.zeros(1)}
    result = embedding.load_state_dict(part, strict=False)
    assert result.unexpected_keys == ["stray"]
    assert "video.weight" in result.missing_keys
    after = embedding.state_dict()
    assert torch.equal(after["user.weight"], part["user.weight"])
    assert torch.equal(after["user.accumulators"], before["user.accumulators"])
    assert torch.equal(after["video.weight"], before["video.weight"])


def test_a_load_between_dequeue_and_apply_is_what_the_update_starts_from() -> None:
    embedding = golden(tte.Adam(0.1))
    state = embedding.state_dict()
    embedding.enqueue(features())
    activations = embedding.dequeue()
    loaded = {k: v if k == "_extra_state" else torch.full_like(v, 0.5) for k, v in state.items()}
    embedding.load_state_dict(loaded)
    embedding.apply_gradients(tuple(torch.ones_like(each) for each in activations))
    tte.runtime.sync()
    # the first two samples of 'friends' bring ids 0 to 2 a third of a gradient each, twice
    g = 2 / 3
    m, v = 0.9 * 0.5 + 0.1 * g, 0.999 * 0.5 + 0.001 * g * g
    found = embedding.state_dict()
    torch.testing.assert_close(found["user.momenta"][0], torch.full((2,), m))
    torch.testing.assert_close(found["user.weight"][0], torch.full((2,), 0.5 - 0.1 * m / v**0.5))


def test_assign_is_refused() -> None:
    embedding = golden(tte.SGD())
    with pytest.raises(RuntimeError, match="assign=True is not possible"):
        embedding.load_state_dict(embedding.state_dict(), assign=True)


def test_start_values_depend_on_seed_and_name_alone() -> None:
    def weights(seed: int, *names: str) -> dict[str, torch.Tensor]:
        config = [tte.FeatureConfig(tte.TableConfig(50, 4, name=name)) for name in names]
        return helpers.tensors(tte.TPUEmbedding(config, 1, tte.SGD(), seed=seed, device="cpu"))

    one, other = weights(1, "a", "b"), weights(1, "b")
    assert torch.equal(one["b.weight"], other["b.weight"])
    assert not torch.equal(one["a.weight"], one["b.weight"])
    assert not torch.equal(weights(2, "b")["b.weight"], other["b.weight"])
    assert float(one["a.weight"].abs().max()) <= 2 / 4**0.5, "cut at two standard deviations"


def test_a_row_of_a_larger_table_starts_as_that_of_a_smaller_one() -> None:
    small, large = (
        table_values(resolve(tte.FeatureConfig(tte.TableConfig(rows, 3)), None).tables[0], seed=5)
        for rows in (70_000, 140_001)
    )
    assert torch.equal(large["weight"][:70_000], small["weight"])
    blocks = large["weight"][: 2 * 65_536].split(65_536)
    assert not torch.equal(*blocks)
