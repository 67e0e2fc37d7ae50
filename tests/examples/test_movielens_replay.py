"""The MovieLens example replays its steps by default, under schedules, with the numbers of traced ones."""

from __future__ import annotations

import json
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_movielens
from models.replays import assert_same
from models.small_data import write_files
from movielens.data import Samples, hold_out, read
from movielens.model import Settings, Trainer

import torch_tpu_embedding as tte


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("ml"))


def trained(samples: Samples, steps: int, replayed: bool) -> tuple[Trainer, dict[str, Any]]:
    """A trainer after some steps, with its losses and all that it has trained."""
    trainer = Trainer(samples, Settings(epochs=40, batch_size=64, dim=4, seed=1))
    if replayed:
        trainer._replayed = tte.replay(trainer.train_step, trainer.embedding, verify=2)
    losses = []
    with closing(trainer.batches):
        for _ in range(steps):
            losses.append(trainer.advance().cpu())
    found: dict[str, Any] = {"losses": losses, "tables": trainer.embedding.state_dict()}
    found["rates"] = [s.get_last_lr() for s in trainer.schedulers.values()]
    found["model"] = {k: v.cpu() for k, v in trainer.model.state_dict().items()}
    states = trainer.optimizers["dense"].state_dict()["state"]
    found["dense"] = [
        {k: torch.as_tensor(v).cpu() for k, v in each.items()} for each in states.values()
    ]
    del found["tables"]["_extra_state"]
    return trainer, found


def test_steps_replayed_under_the_schedules_are_the_traced_ones_bit_for_bit(folder: Path) -> None:
    ratings, movies = read(folder)
    samples = Samples(ratings, movies, hold_out(ratings))
    _, traced = trained(samples, 24, replayed=False)
    trainer, replayed = trained(samples, 24, replayed=True)
    assert trainer._replayed is not None
    assert trainer._replayed.replayed > 8, trainer._replayed.reason
    assert_same(traced, replayed)
    first = trainer.settings.lr
    expected = first * (1 - 24 / trainer.total_steps)
    assert np.isclose(replayed["rates"][0][0], expected, rtol=1e-9), "the rates fell at every step"


def test_replay_is_the_default_and_gives_the_losses_of_a_traced_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = Trainer.replay_steps

    def noted(self: Trainer) -> None:
        original(self)
        made.append(self._replayed)

    monkeypatch.setattr(Trainer, "replay_steps", noted)
    losses = []
    for option in ([], ["--no-replay"]):
        out = tmp_path / "out.json"
        command = ["--data", str(folder), "--epochs", "3", "--batch-size", "64", "--dim", "4"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert train_movielens.main([*command, "--json", str(out), *option]) == 0
        (run,) = json.loads(out.read_text())["runs"]
        losses.append(run["losses"])
    assert len(made) == 1
    assert losses[0] == losses[1]
