"""A replayed run and a traced one are the same, bit for bit, and most of its steps are replayed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.replays import BATCH, Case, Step, assert_same, run, twins
from torch import Tensor, nn

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint


@pytest.mark.parametrize("dense", ["sgd", "momentum", "adagrad", "adam"])
def test_200_steps_give_the_same_losses_tables_slots_weights_and_optimizer_states(
    dense: str,
) -> None:
    rule = tte.Adam(0.01) if dense == "adam" else tte.Adagrad(0.1)
    _, replayed = twins(dense=dense, dropout=0.3, steps=200, tables=rule, check_every=64)
    assert replayed.step.replayed >= 180
    assert replayed.step.reason == ""


def test_a_replayed_run_compiles_one_program_more_and_nothing_after_its_first_steps() -> None:
    def rare(function: Callable[[Tensor], Tensor]) -> Callable[[Case], Step]:
        # programs that no other test of the process has compiled
        return lambda case: lambda numbers: case.update(function(case.loss(numbers)).atan().asinh())

    one, two = run(True, rare(torch.cosh)), run(True, rare(torch.sinh))
    for each in (one, two):
        growth = [k for k in range(1, 24) if each.compiles[k] != each.compiles[k - 1]]
        assert growth == [1], "the first trace that is kept"
        assert each.compiles[1] - each.compiles[0] == 1


@pytest.mark.parametrize("dense", ["adagrad", "adam"])
def test_gradients_may_stay_until_the_next_step_or_add_up_for_ever(dense: str) -> None:
    def first(case: Case) -> Step:
        def step(numbers: Tensor) -> Tensor:
            case.dense_optimizer.zero_grad()
            loss = case.loss(numbers)
            loss.backward()  # type: ignore[no-untyped-call]
            case.dense_optimizer.step()
            case.embedding_optimizer.step()
            return loss.detach()

        return step

    def never(case: Case) -> Step:
        def step(numbers: Tensor) -> Tensor:
            loss = case.loss(numbers)
            loss.backward()  # type: ignore[no-untyped-call]
            case.dense_optimizer.step()
            case.embedding_optimizer.step()
            return loss.detach()

        return step

    for make in (first, never):
        _, replayed = twins(make=make, dense=dense)
        assert replayed.step.replayed > 10
        assert all(each.grad is not None for each in replayed.case.model.parameters())


def test_a_step_may_clip_by_norm_and_return_several_things() -> None:
    def make(case: Case) -> Step:
        def step(numbers: Tensor) -> dict[str, Any]:
            loss = case.loss(numbers)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = case.embedding.clip_grad_norm_(0.05, dense_parameters=case.model.parameters())
            case.dense_optimizer.step()
            case.embedding_optimizer.step()
            case.dense_optimizer.zero_grad()
            return {"loss": loss.detach(), "norm": [norm, "text"], "numbers": numbers}

        return step

    def values(losses: list[Any]) -> list[Any]:
        return [[each["loss"].cpu(), each["norm"][0].cpu(), each["norm"][1]] for each in losses]

    traced, replayed = run(False, make=make), run(True, make=make)
    assert_same(values(traced.losses), values(replayed.losses))
    assert_same(traced.state, replayed.state)
    assert replayed.step.replayed > 10
    assert replayed.losses[-1]["numbers"].shape == (BATCH, 4)


def test_learning_rates_of_tables_may_change_at_every_step() -> None:
    def schedule(case: Case, k: int) -> None:
        for group in case.embedding_optimizer.param_groups:
            group["lr"] = 0.1 / (1 + k)

    _, replayed = twins(between=schedule)
    assert replayed.step.replayed > 10


def test_rates_of_callables_are_read_once_a_step() -> None:
    reads = []

    def make(case: Case) -> Step:
        def step(numbers: Tensor) -> Tensor:
            loss = case.loss(numbers)
            loss.backward()  # type: ignore[no-untyped-call]
            case.dense_optimizer.step()
            case.embedding.apply_gradients()
            case.dense_optimizer.zero_grad()
            return loss.detach()

        return step

    def rate() -> float:
        reads.append(1)
        return 0.1 / (1 + len(reads) % 30)

    counts = []
    for replayed in (False, True):
        reads.clear()
        found = run(replayed, make=make, tables=tte.Adagrad(rate))
        counts.append((len(reads), found.losses, found.state))
    assert_same(counts[0], counts[1])
    assert found.step.replayed > 10


def test_several_padded_sizes_take_turns() -> None:
    _, replayed = twins(ragged=True, steps=60, most=lambda k: (2, 40)[k % 2])
    assert replayed.step.replayed > 30
    assert len(replayed.step._kept) >= 1


def test_numbers_and_texts_may_be_arguments() -> None:
    def make(case: Case) -> Step:
        def step(numbers: Tensor, factor: float, kind: str = "mean") -> Tensor:
            return case.update(case.loss(numbers) * factor)

        return step

    _, replayed = twins(make=make, steps=40, arguments=lambda k: ((1.0, 2.0)[k % 2], "mean"))
    assert replayed.step.replayed > 20
    assert len(replayed.step._kept) == 2


def evaluate(case: Case) -> None:
    case.embedding.eval(), case.model.eval()
    with torch.no_grad():
        rows = case.embedding(case.features())
        zeros = torch.zeros(BATCH, 3, device=case.embedding.device)
        case.scores = case.model(torch.cat([zeros, rows["x"], rows["y"]], 1))  # type: ignore[attr-defined]
    case.embedding.train(), case.model.train()


def test_evaluation_in_between_changes_nothing() -> None:
    def between(case: Case, k: int) -> None:
        if k % 5 == 4:
            evaluate(case)
            tte.runtime.sync()

    _, replayed = twins(between=between, dropout=0.3)
    assert replayed.step.replayed > 10


def test_scores_that_are_not_yet_computed_are_those_of_the_tables_before_the_replayed_step() -> (
    None
):
    scores = []
    for synced in (True, False):

        def between(case: Case, k: int, synced: bool = synced) -> None:
            if k == 20:
                evaluate(case)
                if synced:
                    tte.runtime.sync()

        found = run(True, between=between)
        del found.state["noise"]  # `sync` goes on to the next seed
        scores.append([found.case.scores.cpu(), found.state])  # type: ignore[attr-defined]
    assert_same(scores[0], scores[1])


def test_states_loaded_in_the_middle_count(tmp_path: Path) -> None:
    def between(case: Case, k: int) -> None:
        if k == 8:
            case.saved = [  # type: ignore[attr-defined]
                copy.deepcopy(each.state_dict())
                for each in (case.model, case.dense_optimizer, case.embedding)
            ]
        if k == 16:
            for part, state in zip(
                (case.model, case.dense_optimizer, case.embedding),
                case.saved,  # type: ignore[attr-defined]
                strict=True,
            ):
                part.load_state_dict(state)

    for dense in ("adagrad", "adam"):
        _, replayed = twins(between=between, dense=dense, steps=30)
        assert replayed.step.replayed > 10


def edit_alias(case: Case) -> None:
    case.model[0].weight.detach().mul_(0.5)


def edit_data(case: Case) -> None:
    case.model[0].weight.data.add_(0.25)


def edit_view(case: Case) -> None:
    with torch.no_grad():
        case.model[0].weight[1:3].fill_(0.125)


def set_data(case: Case) -> None:
    case.model[0].weight.data = case.model[0].weight.detach().clone() * 0.5


@pytest.mark.parametrize("edit", [edit_alias, edit_data, edit_view, set_data])
def test_weights_edited_between_steps_count(edit: Callable[[Case], None]) -> None:
    def between(case: Case, k: int) -> None:
        if k in (10, 17):
            edit(case)
            tte.runtime.sync()  # a traced step would fuse the edit, and round otherwise

    _, replayed = twins(between=between)
    assert replayed.step.replayed > 10


def test_aliases_follow_replayed_steps_and_copies_stay() -> None:
    found = []
    for replayed in (False, True):
        case = Case()
        step = tte.replay(case.step, case.embedding, verify=2) if replayed else case.step
        alias = case.model[0].weight.detach()
        state = case.model.state_dict()
        seen = []
        for k in range(12):
            step(case.next())
            tte.runtime.sync()
            if k == 8:
                copied = copy.deepcopy(case.model)
                averaged = torch.optim.swa_utils.AveragedModel(case.model)
            if k > 8:
                averaged.update_parameters(case.model)
            seen.append([alias.cpu(), state["0.weight"].cpu(), case.model[0].weight.cpu().detach()])
        assert torch.equal(seen[-1][0], seen[-1][2])
        assert torch.equal(seen[-1][1], seen[-1][2])
        assert not torch.equal(copied[0].weight.cpu(), seen[-1][2])
        found.append(
            [seen, copied[0].weight.detach().cpu(), averaged.module[0].weight.detach().cpu()]
        )
    assert_same(found[0], found[1])


def test_an_average_of_the_weights_in_the_step_is_a_module_that_is_named() -> None:
    def make(case: Case) -> Step:
        averaged = torch.optim.swa_utils.AveragedModel(
            case.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        case.averaged = averaged  # type: ignore[attr-defined]
        tte.runtime.sync()

        def step(numbers: Tensor) -> Tensor:
            loss = case.step(numbers)
            with torch.no_grad():
                for mine, theirs in zip(
                    averaged.module.parameters(), case.model.parameters(), strict=True
                ):
                    mine.mul_(0.9).add_(theirs, alpha=0.1)
            return loss

        return step

    def modules(case: Case) -> list[nn.Module]:
        return [case.averaged]  # type: ignore[attr-defined]

    traced, replayed = twins(make=make, modules=modules)
    assert replayed.step.replayed > 10
    for one, two in zip(
        traced.case.averaged.parameters(),  # type: ignore[attr-defined]
        replayed.case.averaged.parameters(),  # type: ignore[attr-defined]
        strict=True,
    ):
        assert_same(one.detach().cpu(), two.detach().cpu())


def test_metrics_deltas_and_checkpoints_see_the_same(tmp_path: Path) -> None:
    seen = []
    for replayed in (False, True):
        reports: list[Any] = []
        directory = tmp_path / str(replayed)

        def between(
            case: Case, k: int, reports: list[Any] = reports, directory: Path = directory
        ) -> None:
            if k == 0:
                case.embedding.enable_metrics(every=5, callback=reports.append)
            if k == 10:
                checkpoint.save(case.embedding, directory, step=k)
            if k in (15, 20):
                checkpoint.save(case.embedding, directory, step=k, since=k - 5)

        found = run(replayed, between=between, steps=40)
        for each in (*reports, found.case.embedding.metrics()):
            for name in ("host_ms", "device_wait_ms", "compiles"):
                del each[name]
        changed = [
            found.case.embedding._tables.engine.store.changed_since(table, 1) for table in (0, 1)
        ]
        sizes = sorted(each.stat().st_size for each in directory.rglob("*.safetensors"))
        fresh = Case()
        checkpoint.load(fresh.embedding, directory)
        loaded = {k: v for k, v in fresh.embedding.state_dict().items() if k != "_extra_state"}
        seen.append([reports, found.losses, found.state, changed, sizes, loaded])
    assert_same(seen[0], seen[1])
    assert found.step.replayed >= 8


def test_freezing_a_table_counts_at_once() -> None:
    def between(case: Case, k: int) -> None:
        if k == 10:
            case.embedding.freeze("one")
        if k == 18:
            case.embedding.unfreeze("one")

    _, replayed = twins(between=between, steps=30)
    assert replayed.step.replayed > 8


def test_the_loader_prepares_batches_in_its_thread_meanwhile() -> None:
    found = []
    for replayed in (False, True):
        case = Case(dropout=0.2)
        batches = [(case.features(), torch.randn(BATCH, 4)) for _ in range(40)]
        torch.manual_seed(3)
        batches = [(ids, torch.randn(BATCH, 4)) for ids, _ in batches]
        loader = tte.EmbeddingLoader(
            batches,
            case.embedding,
            features=lambda batch: batch[0],
            prepare=lambda batch, case=case: case.embedding.to_device(batch[1]),
        )
        step = tte.replay(case.step, case.embedding, verify=3) if replayed else None
        losses = []
        for numbers in loader:
            if step is None:
                losses.append(case.step(numbers))
                tte.runtime.sync()
            else:
                losses.append(step(numbers))
        found.append([[each.cpu() for each in losses], case.state()])
    assert_same(found[0], found[1])
    assert step is not None
    assert step.replayed > 25
