"""The usual recommenders train on XLA what they train in CPU mode and in plain torch with dense tables.

One program for each model and each kind of numbers holds all that is tried with it: compiling costs more
than all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from models import usual_models
from models.usual_models import BATCH, MODELS, Batch, Model, feature_config, make_batch
from torch import Tensor, nn

import torch_tpu_embedding as tte

MAX_NORM = 0.25
"""Less than the gradients of all models have."""
RATE = 0.1


@dataclass
class Way:
    """A model and its tables, and how a step is taken with them."""

    model: Model
    device: torch.device

    def look_up(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def clip(self) -> Tensor:
        """Clip the norm of the gradient of the whole model."""
        raise NotImplementedError

    def accumulate(self) -> None:
        """End a micro-batch."""

    def step(self) -> None:
        """Update the tables and the model, clear the gradients."""
        with torch.no_grad():
            for each in self.parameters():
                if each.grad is not None:
                    each.sub_(RATE * each.grad)
                    each.grad = None

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters()]

    def tables(self) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def loss(self, rows: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return self.model(rows, batch["dense"].to(self.device), batch["label"].to(self.device))


class Plain(Way):
    """torch's own functions and dense gradients."""

    def __init__(self, model: Model, tables: Mapping[str, Tensor]) -> None:
        super().__init__(model, torch.device("cpu"))
        self.held = {name: nn.Parameter(value.clone()) for name, value in tables.items()}

    def look_up(self, batch: Batch) -> dict[str, Tensor]:
        return usual_models.look_up(self.held, self.model.features, batch)

    def clip(self) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(self.parameters(), MAX_NORM)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.held.values(), *self.model.parameters()]

    def tables(self) -> Mapping[str, Tensor]:
        return {name: value.detach() for name, value in self.held.items()}


class CpuMode(Plain):
    """TPUEmbedding with device="cpu"."""

    def __init__(self, model: Model) -> None:
        self.embedding = make_embedding(model, device="cpu")
        super().__init__(model, {})
        resolved = self.embedding.resolved.tables
        held = {table.config: table.name for table in resolved}
        found = self.embedding.embedding_tables
        self.held = {held[config]: value for config, value in found.items()}  # type: ignore[misc]

    def look_up(self, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.embedding(ids_of(self.model, batch))
        return found


class Xla(Way):
    """TPUEmbedding on XLA's device."""

    def __init__(self, model: Model) -> None:
        self.embedding = make_embedding(model)
        super().__init__(model.to(self.embedding.device), self.embedding.device)
        self.optimizer = tte.EmbeddingOptimizer(self.embedding)

    def look_up(self, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.embedding(ids_of(self.model, batch))
        return found

    def clip(self) -> Tensor:
        return self.embedding.clip_grad_norm_(MAX_NORM, dense_parameters=[*self.model.parameters()])

    def accumulate(self) -> None:
        self.embedding.accumulate_gradients()

    def step(self) -> None:
        super().step()
        self.optimizer.step()

    def tables(self) -> Mapping[str, Tensor]:
        state = self.embedding.state_dict()
        return {k.removesuffix(".weight"): v for k, v in state.items() if k.endswith(".weight")}


def ids_of(model: Model, batch: Batch) -> dict[str, Any]:
    return {name: batch[name] for name in model.features}


def make_embedding(model: Model, **options: Any) -> tte.TPUEmbedding:
    config = feature_config(model.features)
    return tte.TPUEmbedding(config, BATCH, tte.SGD(RATE), seed=0, **options)


@pytest.fixture(params=MODELS, ids=lambda kind: kind.__name__)
def ways(request: pytest.FixtureRequest) -> tuple[Xla, CpuMode, Plain]:
    """Equal models on equal tables, three times."""
    models = []
    for _ in range(3):
        torch.manual_seed(0)
        models.append(request.param())
    cpu = CpuMode(models[1])
    return Xla(models[0]), cpu, Plain(models[2], cpu.tables())


def change_gradients(way: Way, batch: Batch) -> Iterator[list[Tensor]]:
    """All that is done to gradients in place; gives those of the activations, and a norm, after each."""
    rows = way.look_up(batch)
    leaves = [*rows.values()]
    for each in leaves:
        each.retain_grad()

    def now(norm: Tensor | None = None) -> list[Tensor]:
        found = [each.grad.clone() for each in leaves if each.grad is not None]
        return found if norm is None else [*found, norm.clone()]

    loss = way.loss(rows, batch)
    for _ in range(3):
        loss.backward(retain_graph=True)
        yield now()
    yield now(torch.nn.utils.clip_grad_norm_(leaves, 0.1))
    torch.nn.utils.clip_grad_value_(leaves, 0.02)
    yield now()
    for each in leaves:
        assert each.grad is not None
        each.grad.zero_()
    (loss * 1024.0).backward()
    found_inf = torch.zeros(1, device=way.device)
    grads = [each.grad for each in leaves if each.grad is not None]
    scale = torch.full((1,), 1 / 1024, device=way.device)
    torch._amp_foreach_non_finite_check_and_unscale_(grads, found_inf, scale)
    yield now(found_inf.sum())
    torch.nn.utils.clip_grads_with_norm_(leaves, 0.2, torch.nn.utils.get_total_norm(grads, 1.0))
    for each in leaves:
        assert each.grad is not None
        each.grad.data.mul_(0.5)
        each.grad.add_(0.01)
    yield now()


def under_autocast(way: Way, batch: Batch) -> list[Tensor]:
    """The gradients of activations where the dense model computes in bfloat16."""
    rows = way.look_up(batch)
    for each in rows.values():
        each.retain_grad()
    with torch.autocast(way.device.type, torch.bfloat16):
        loss = way.loss(rows, batch)
    loss.backward()
    return [each.grad for each in rows.values() if each.grad is not None]


def test_gradients_of_activations_changed_in_place_or_made_under_autocast_are_those_of_cpu_mode(
    ways: tuple[Xla, CpuMode, Plain],
) -> None:
    xla, batch = ways[0], make_batch(ways[0].model.features, seed=1)
    exact, rounded = [], []
    for way in ways:
        changed = [each for after in change_gradients(way, batch) for each in after]
        xla.embedding.discard()
        parts = [
            torch.cat([each.reshape(-1) for each in of])
            for of in (changed, under_autocast(way, batch))
        ]
        both = torch.cat(parts).cpu()  # each that is read on its own would be a program of its own
        exact.append(both[: len(parts[0])])
        rounded.append(both[len(parts[0]) :])
    for found in (exact[0], exact[2]):
        torch.testing.assert_close(found, exact[1], rtol=1e-4, atol=1e-5)
    for found in (rounded[0], rounded[2]):
        assert float((found - rounded[1]).norm() / rounded[1].norm()) < 0.03


def test_a_plain_step_and_a_clipped_one_of_accumulated_batches_train_what_dense_tables_do(
    ways: tuple[Xla, CpuMode, Plain],
) -> None:
    batches = [make_batch(ways[0].model.features, seed) for seed in (1, 2, 3)]
    norms = []
    for way in ways:
        way.loss(way.look_up(batches[0]), batches[0]).backward()
        way.step()
        loss = way.loss(way.look_up(batches[1]), batches[1])
        (0.1 * loss).backward(retain_graph=True)
        (0.2 * loss).backward()
        way.accumulate()
        way.loss(way.look_up(batches[2]), batches[2]).backward()
        norms.append(way.clip())
        way.step()
    tte.runtime.sync()
    for norm in norms:
        assert float(norm) > MAX_NORM
        torch.testing.assert_close(norm.cpu(), norms[2], rtol=1e-4, atol=1e-5)
    assert_trained_alike(ways, 2e-5)


def assert_trained_alike(ways: tuple[Xla, CpuMode, Plain], tolerance: float) -> None:
    tables = [way.tables() for way in ways]
    dense = [[each.detach().cpu() for each in way.model.parameters()] for way in ways]
    for found, parameters in zip(tables, dense, strict=True):
        for name, value in found.items():
            wanted = tables[2][name]
            torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(parameters, dense[2], rtol=tolerance, atol=tolerance)
