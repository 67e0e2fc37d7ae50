"""The cases that are about something left behind: by a loop over a loader, or by a load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from remedies.cases import IDS, Step, make, says

import torch_tpu_embedding as tte

BATCHES = [{"f": IDS}, {"f": IDS + 1}]


def loader_of(batches: Any = BATCHES) -> tuple[Any, tte.EmbeddingLoader]:
    embedding = make()
    return embedding, tte.EmbeddingLoader(batches, embedding)


def run(embedding: Any, loader: tte.EmbeddingLoader) -> int:
    """Train on all that a loader gives; gives the number of steps."""
    steps = 0
    for _ in loader:
        embedding.dequeue()["f"].sum().backward()
        embedding.apply_gradients()
        steps += 1
    return steps


@says(
    r"has not been dequeued.*Call embedding.discard\(\) to skip a batch, before `continue` or where"
)
def skipped(_: Path) -> tuple[Step, ...]:
    embedding, loader = loader_of()

    def provoke() -> None:
        for _ in loader:
            continue

    def discard() -> None:
        for _ in loader:
            embedding.discard()
            continue
        assert run(embedding, loader) == 2

    def caught() -> None:
        for _ in loader:
            try:
                raise ZeroDivisionError
            except ZeroDivisionError:
                embedding.discard()
        assert run(embedding, loader) == 2

    return provoke, discard, caught


@says(
    r"load_state_dict was called within this loop.*leave the loop by `break`, and begin a new one"
)
def moved(_: Path) -> tuple[Step, ...]:
    embedding, loader = loader_of()
    place = {"batches": 1, "data": None}

    def provoke() -> None:
        for _ in loader:
            embedding.discard()
            loader.load_state_dict(place)

    def leave() -> None:
        for _ in loader:
            embedding.discard()
            loader.load_state_dict(place)
            break
        assert run(embedding, loader) == 1

    return provoke, leave


@says(
    r"and the data has 2; give the data that the state was saved with.*first batch, iterate again"
)
def behind_the_end(_: Path) -> tuple[Step, ...]:
    embedding, loader = loader_of()
    place = {"batches": 5, "data": None}

    def provoke() -> None:
        loader.load_state_dict(place)
        run(embedding, loader)

    def that_data() -> None:
        other, longer = loader_of(BATCHES * 3)
        longer.load_state_dict(place)
        assert run(other, longer) == 1

    return provoke, that_data, lambda: run(embedding, loader)


class Anew:
    def __iter__(self) -> Iterator[Any]:
        yield from BATCHES


@says(
    r"a generator, is at its end .*iterable that begins anew \(a DataLoader, a list, an object whose"
)
def generator(_: Path) -> tuple[Step, ...]:
    def twice(batches: Any) -> Step:
        embedding, loader = loader_of(batches)
        return lambda: [run(embedding, loader) for _ in range(2)].index(2, 1)

    def loaders() -> None:
        embedding = make()
        for _ in range(2):
            assert run(embedding, tte.EmbeddingLoader((each for each in BATCHES), embedding)) == 2

    data = torch.utils.data.DataLoader(BATCHES, batch_size=None)  # type: ignore[arg-type]
    return twice(each for each in BATCHES), twice(data), twice(BATCHES), twice(Anew()), loaders


@says(r"given the place of another state.*make it and the loader anew for this state")
def two_places(_: Path) -> tuple[Step, ...]:
    class Stateful(Anew):
        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, state: dict[str, int]) -> None:
            pass

    beginning = {"batches": 0, "data": None}

    def provoke() -> None:
        _, loader = loader_of(Stateful())
        loader.load_state_dict({"batches": 1, "data": {}})
        loader.load_state_dict(beginning)

    def anew() -> None:
        embedding, loader = loader_of(Stateful())
        loader.load_state_dict(beginning)
        assert run(embedding, loader) == 2

    return provoke, anew
