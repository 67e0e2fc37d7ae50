"""An update in the program of its lookup reads the parts of the batch that the lookup has named."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.program.stack_index import LookedUp

Step = Callable[[tte.TPUEmbedding, int], None]


def make(optimizer: tte.optimizers.Optimizer, **options: bool) -> tte.TPUEmbedding:
    """Two tables of one width, and features of one id, of two, and of any number."""
    tables = [tte.TableConfig(40 + n, 8, combiner="sum", name=f"t{n}") for n in range(2)]
    features = {
        "one": tte.FeatureConfig(tables[0]),
        "two": tte.FeatureConfig(tables[1]),
        "any": tte.FeatureConfig(tables[0]),
    }
    return tte.TPUEmbedding(features, 4, optimizer, seed=0, **options)


def batch(step: int) -> dict[str, object]:
    drawn = torch.Generator().manual_seed(step)
    lengths = torch.tensor([2, 0, 3, 1])
    return {
        "one": torch.randint(40, (4,), generator=drawn),
        "two": tte.Ragged.from_lengths(
            torch.randint(41, (8,), generator=drawn), torch.full((4,), 2)
        ),
        "any": tte.Ragged.from_lengths(torch.randint(40, (6,), generator=drawn), lengths),
    }


def look_up(embedding: tte.TPUEmbedding, step: int, name: str | None = None) -> None:
    embedding.enqueue(batch(step), name=name)
    activations = embedding.dequeue(name)
    sum((each * each).sum() for each in activations.values()).backward()


def plain(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    embedding.apply_gradients()


def ended_between(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    tte.runtime.sync()
    embedding.apply_gradients()


def accumulated(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    embedding.accumulate_gradients()
    tte.runtime.sync()
    plain(embedding, step + 100)


def two_at_once(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step, "a")
    look_up(embedding, step + 100, "b")
    embedding.apply_gradients(name="b")
    embedding.apply_gradients(name="a")


def clipped(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    embedding.clip_grad_norm_(0.5)
    embedding.apply_gradients()


def frozen(embedding: tte.TPUEmbedding, step: int) -> None:
    if step == 2:
        embedding.freeze("t0")
    plain(embedding, step)


def looked_at_between(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    state = {key: each + 1 for key, each in helpers.tensors(embedding).items()}
    embedding.load_state_dict(state, strict=False)
    embedding.apply_gradients()


def trained(step: Step, optimizer: tte.optimizers.Optimizer, **options: bool) -> dict[str, Tensor]:
    embedding = make(optimizer, **options)
    for number in range(4):
        step(embedding, number)
        tte.runtime.sync()
    return helpers.tensors(embedding)


def name_parts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every update cut the batch's buffers itself."""
    look_up_once = Engine.look_up

    def without(engine: Engine, *args: object) -> tuple[LookedUp, list[Tensor]]:
        looked_up, activations = look_up_once(engine, *args)  # type: ignore[arg-type]
        looked_up.indices = ()
        return looked_up, activations

    monkeypatch.setattr(Engine, "look_up", without)


@pytest.mark.filterwarnings("ignore:load_state_dict")
@pytest.mark.parametrize("optimizer", [tte.Adagrad(0.1), tte.Adam(0.01, lazy_adam=False)])
@pytest.mark.parametrize(
    "step",
    [plain, ended_between, accumulated, two_at_once, clipped, frozen, looked_at_between],
)
def test_tables_are_those_of_an_update_that_names_the_parts_again(
    step: Step, optimizer: tte.optimizers.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trained(step, optimizer)
    name_parts_again(monkeypatch)
    wanted = trained(step, optimizer)
    assert found.keys() == wanted.keys()
    for key, each in found.items():
        assert torch.equal(each, wanted[key]), key


def test_pipelined_execution_keeps_no_parts_for_its_updates_come_a_step_later() -> None:
    embedding = make(tte.Adagrad(0.1), pipeline_execution_with_tensor_core=True)
    look_up(embedding, 0)
    (awaiting,) = embedding._steps.queue.step_of(None)
    assert awaiting.looked_up.indices == ()
    embedding.apply_gradients()
    tte.runtime.sync()


def test_parts_are_kept_until_the_update_and_not_beyond_a_program_that_is_known_to_end() -> None:
    embedding = make(tte.Adagrad(0.1))
    look_up(embedding, 0)
    (awaiting,) = embedding._steps.queue.step_of(None)
    assert len(awaiting.looked_up.indices) == len(embedding._tables.engine.store.stacks)
    embedding.accumulate_gradients()
    assert awaiting.looked_up.indices == ()
    assert awaiting.looked_up.weight_records == []
    look_up(embedding, 1)
    (_, awaiting) = embedding._steps.queue.step_of(None)
    embedding._steps.end_program()
    assert awaiting.looked_up.indices == ()
    embedding.apply_gradients()
    tte.runtime.sync()


def program(embedding: tte.TPUEmbedding) -> str:
    """The text of a step's program, as it is traced."""
    import torch_xla  # here, for all other tests run without it

    for number in range(2):  # the second batch has the padded sizes of all that follow
        plain(embedding, 0)
        if number == 0:
            tte.runtime.sync()
    arrays = [each for of_stack in embedding._tables.engine.store.arrays for each in of_stack]
    text: str = torch_xla._XLAC._get_xla_tensors_hlo(arrays)
    tte.runtime.sync()
    return text


def test_the_program_has_fewer_slices_and_else_the_operators_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [program(make(tte.Adagrad(0.1)))]
    name_parts_again(monkeypatch)
    texts.append(program(make(tte.Adagrad(0.1))))
    kept, again = (re.findall(r"= \S+ ([a-z-]+)\(", text) for text in texts)
    assert kept.count("slice") < again.count("slice")
    for operator in {"gather", "scatter", "dot", "parameter", "select", "compare", "add"}:
        assert kept.count(operator) == again.count(operator), operator
    assert len(kept) < len(again)
