"""No loop over an EmbeddingLoader pairs a batch with the activations of another, however it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import torch_tpu_embedding as tte

LEFT = r"batch \d+ \(counted from 0\).*has not been dequeued.*embedding.discard\(\) to skip a batch"


@pytest.fixture(params=[False, True], ids=["plain", "pipelined"])
def embedding(request: pytest.FixtureRequest) -> tte.TPUEmbedding:
    """Row r of the only table is filled with r, and stays so."""
    table = tte.TableConfig(20, 1, name="a")
    made = tte.TPUEmbedding(
        {"a": tte.FeatureConfig(table)},
        2,
        tte.SGD(0.0),
        pipeline_execution_with_tensor_core=request.param,
    )
    made.load_state_dict({"a.weight": torch.arange(20.0)[:, None]}, strict=False)
    return made


def data(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"a": torch.tensor([k, k]), "label": k} for k in range(start, start + count)]


def loader_of(batches: Any, embedding: tte.TPUEmbedding, **options: Any) -> tte.EmbeddingLoader:
    return tte.EmbeddingLoader(
        batches, embedding, features=lambda each: {"a": each["a"]},
        prepare=lambda each: each["label"], **options,
    )  # fmt: skip


def step(embedding: tte.TPUEmbedding, training: bool = True) -> int:
    """One step; gives the label that belongs to the activations."""
    rows = embedding.dequeue()["a"]
    if training:
        rows.sum().backward()
        embedding.apply_gradients()
    tte.runtime.sync()
    return int(rows.detach()[0, 0].item())


def run(loader: tte.EmbeddingLoader, embedding: tte.TPUEmbedding) -> list[int]:
    """Labels of an epoch, each of which is that of its activations."""
    labels = []
    for label in loader:
        assert step(embedding) == label
        labels.append(label)
    return labels


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("last", [False, True])
def test_a_batch_that_a_loop_passes_over_is_an_error_at_the_next(
    embedding: tte.TPUEmbedding, training: bool, last: bool
) -> None:
    loader, seen = loader_of(data(6), embedding, training=training), []

    def pass_over() -> None:
        for label in loader:
            if label == (5 if last else 3):
                continue
            seen.append((label, step(embedding, training)))

    with pytest.raises(RuntimeError, match=LEFT):
        pass_over()
    assert seen == [(k, k) for k in range(5 if last else 3)]
    embedding.train(training)
    if training:
        assert run(loader, embedding) == [*range(6)]


def test_an_error_caught_before_dequeue_is_no_silent_skip(embedding: tte.TPUEmbedding) -> None:
    def attempts() -> None:
        for label in loader_of(data(6), embedding):
            try:
                assert label != 2
                assert step(embedding) == label
            except AssertionError:
                assert label == 2

    with pytest.raises(RuntimeError, match=LEFT):
        attempts()


def test_discard_skips_a_batch_and_the_next_pairs_fit(embedding: tte.TPUEmbedding) -> None:
    seen = []
    for label in loader_of(data(6), embedding):
        if label in (0, 3, 5):
            embedding.discard()
            continue
        seen.append((label, step(embedding)))
    assert seen == [(1, 1), (2, 2), (4, 4)]


def test_a_batch_that_an_iterator_was_given_does_not_come_out_in_the_next_loop(
    embedding: tte.TPUEmbedding,
) -> None:
    loader = loader_of(data(4), embedding)
    peeked = iter(loader)
    assert next(peeked) == 0
    with pytest.raises(RuntimeError, match=LEFT):
        run(loader, embedding)
    embedding.discard()
    assert run(loader, embedding) == [*range(4)]
    del peeked
    assert run(loader, embedding) == [*range(4)]


def test_a_batch_that_another_loader_left_is_noticed_within_a_batch(
    embedding: tte.TPUEmbedding,
) -> None:
    def evaluate(count: int) -> None:
        for _ in loader_of(data(count, 10), embedding, training=False):
            embedding.dequeue()
            steps.append(1)

    for count in (1, 3):
        steps: list[int] = []
        peeked = iter(loader_of(data(4), embedding))
        next(peeked)
        with pytest.raises(RuntimeError, match=LEFT):
            evaluate(count)
        assert steps == [1]
        embedding.discard()


def test_two_loaders_in_turn_fit_where_batches_are_taken_in_their_order(
    embedding: tte.TPUEmbedding,
) -> None:
    one, other = loader_of(data(4), embedding), loader_of(data(4, 10), embedding)
    for first, second in zip(one, other, strict=True):
        assert step(embedding) == first
        assert step(embedding) == second


def test_a_loop_within_a_loop_of_the_same_loader_leaves_its_place_right(
    embedding: tte.TPUEmbedding,
) -> None:
    loader = loader_of(data(4), embedding)
    for label in loader:
        assert step(embedding) == label
        if label == 1:
            assert run(loader, embedding) == [*range(4)]
        if label > 1:
            assert loader.state_dict() == {"batches": label + 1, "data": None}


@pytest.mark.parametrize("leave", ["break", "error"])
def test_after_a_loop_was_left_with_its_batch_untaken_the_next_epoch_fits(
    embedding: tte.TPUEmbedding, leave: str
) -> None:
    loader = loader_of(data(5), embedding)

    def left() -> None:
        for label in loader:
            if label == 2 and leave == "error":
                raise ZeroDivisionError
            if label == 2:
                break
            step(embedding)

    if leave == "error":
        with pytest.raises(ZeroDivisionError):
            left()
    else:
        left()
    assert run(loader, embedding) == [*range(5)]


# -- places ----------------------------------------------------------------------------------------


def test_a_place_loaded_within_a_loop_ends_it_and_is_where_the_next_begins(
    embedding: tte.TPUEmbedding,
) -> None:
    loader, place = loader_of(data(6), embedding), {"batches": 4, "data": None}

    def go_on() -> None:
        for label in loader:
            step(embedding)
            if label == 1:
                loader.load_state_dict(place)

    with pytest.raises(RuntimeError, match="load_state_dict was called within this loop"):
        go_on()
    assert loader.state_dict() == place
    assert run(loader, embedding) == [4, 5]
    assert run(loader, embedding) == [*range(6)]


def test_a_place_behind_the_end_of_the_data_is_an_error_and_at_its_end_an_empty_epoch(
    embedding: tte.TPUEmbedding,
) -> None:
    loader = loader_of(data(3), embedding)
    loader.load_state_dict({"batches": 3, "data": None})
    assert run(loader, embedding) == []
    loader.load_state_dict({"batches": 4, "data": None})
    with pytest.raises(ValueError, match="the place behind 4 batches, and the data has 3"):
        run(loader, embedding)
    assert run(loader, embedding) == [0, 1, 2]


def test_shuffled_data_is_warned_of_in_the_middle_of_an_epoch_alone(
    embedding: tte.TPUEmbedding, recwarn: pytest.WarningsRecorder
) -> None:
    shuffled = torch.utils.data.DataLoader(
        data(4), batch_size=None, sampler=torch.utils.data.RandomSampler(range(4))
    )
    loader = loader_of(shuffled, embedding)
    loader.load_state_dict(loader.state_dict())
    assert sorted(run(loader, embedding)) == [*range(4)]
    loader.load_state_dict(loader.state_dict())
    assert not recwarn.list
    for _ in loader:
        with pytest.warns(RuntimeWarning, match="draws another order each time"):
            place = loader.state_dict()
        break
    with pytest.warns(RuntimeWarning, match="draws another order each time"):
        loader.load_state_dict(place)


# -- iterators -------------------------------------------------------------------------------------


class Restarts:
    """An iterator that its own __iter__ puts back to the beginning."""

    def __iter__(self) -> Restarts:
        self._rest = iter(data(3))
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._rest)


@pytest.mark.parametrize(
    "make", [lambda: (each for each in data(3)), lambda: iter(data(3)), lambda: map(dict, data(3))]
)
def test_an_iterator_at_its_end_is_an_error_in_the_second_epoch(
    embedding: tte.TPUEmbedding, make: Callable[[], Iterator[Any]]
) -> None:
    loader = loader_of(make(), embedding)
    assert run(loader, embedding) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="is at its end and gives no batch"):
            run(loader, embedding)


def test_a_generator_that_another_loader_has_used_up_is_an_error(
    embedding: tte.TPUEmbedding,
) -> None:
    batches = (each for each in data(3))
    assert run(loader_of(batches, embedding), embedding) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="a generator, is at its end"):
        run(loader_of(batches, embedding), embedding)


def test_data_without_a_batch_and_an_iterator_that_begins_anew_are_no_error(
    embedding: tte.TPUEmbedding,
) -> None:
    for batches, count in (([], 0), (Restarts(), 3)):
        loader = loader_of(batches, embedding)
        for _ in range(2):
            assert len(run(loader, embedding)) == count
    assert run(loader_of((each for each in data(0)), embedding), embedding) == []


def test_a_generator_that_goes_on_after_break_is_warned_of(embedding: tte.TPUEmbedding) -> None:
    loader = loader_of((each for each in data(9)), embedding, depth=1)
    for _ in loader:
        step(embedding)
        break
    with pytest.warns(RuntimeWarning, match="batches that it had drawn ahead are lost"):
        rest = run(loader, embedding)
    assert rest == [*range(rest[0], 9)]


def test_an_error_of_a_batch_says_which_it_is(embedding: tte.TPUEmbedding) -> None:
    batches = data(4)
    batches[2]["a"] = torch.tensor([3, 99])
    with pytest.raises(ValueError, match="99") as caught:
        run(loader_of(batches, embedding), embedding)
    assert any("batch 2 of the data, counted from 0" in note for note in caught.value.__notes__)
