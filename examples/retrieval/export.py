"""A trained model as files that ../serve_retrieval.py answers from, with plain torch alone.

    user_tower.pt2       a program: user and watched movies → the user's vector [B, E]
    movies.safetensors   ids [M] and vectors [M, E] of all movies: the index
    users.safetensors    movies [N] and row_splits [U + 1]: what each user has watched, oldest first
    about.json           titles of the movies, and how many of the watched movies the tower takes

Shape letters: B batch, E width of a vector, M movies, N ids of all users, U users.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import torch_tpu_embedding as tte
from retrieval.data import Samples
from retrieval.model import Trainer, TwoTowers


class UserTower(nn.Module):
    """The user's half of the model, with its tables."""

    def __init__(self, tables: nn.Module, towers: TwoTowers) -> None:
        super().__init__()
        self.tables, self.towers = tables, towers

    def forward(self, features: dict[str, Tensor | tte.Ragged]) -> Tensor:
        """The vectors `[B, E]` of users, from the features `user` and `watched`."""
        vectors: Tensor = self.towers.users(self.tables(features))
        return vectors


def export(trainer: Trainer, directory: Path, quantize: Literal["int8"] | None = None) -> str:
    """Write the files; a collective call, for which process 0 writes.

    Args:
        quantize: "int8" for user tables of 8-bit codes.

    Returns:
        A line for the console.
    """
    _, vectors = trainer.vectors()
    serving = trainer.serving()
    if not tte.distributed.is_main():
        return ""
    directory.mkdir(parents=True, exist_ok=True)
    settings, samples = trainer.settings, trainer.samples
    towers = TwoTowers(settings.dim, settings.temperature)
    towers.load_state_dict({name: each.cpu() for name, each in trainer.model.state_dict().items()})
    tables = tte.export_serving(serving, quantize=quantize)
    tower = UserTower(tables, towers).eval()
    example = {"user": torch.tensor([0]), "watched": tte.Ragged.from_lists([[0]])}
    tte.export_program(tower, directory / "user_tower.pt2", example)
    index = {"ids": torch.arange(len(vectors)), "vectors": vectors.contiguous()}
    save_file(index, directory / "movies.safetensors")
    save_file(_watched(samples), directory / "users.safetensors")
    about = {"titles": samples.movies.titles, "recent": samples.recent}
    (directory / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    held = sum(each.nbytes for each in tables.state_dict().values())
    whole = sum(each["parameters"].nbytes for each in serving.variables.values())
    return f"export: {directory}, user tables of {held:,} bytes ({held / whole:.0%} of float32)"


def _watched(samples: Samples) -> dict[str, Tensor]:
    counts = samples.seen.sum(1)
    splits = torch.cat([torch.zeros(1, dtype=torch.int64), torch.from_numpy(counts).cumsum(0)])
    return {"movies": torch.from_numpy(samples.train.movie), "row_splits": splits}
