"""Data and options with which the examples run in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from dlrm.data import ClickLog, synthetic
from movielens import data

KEPT = ("C1", "C6", "C18", "C25")  # small tables, one of them multi-hot and weighted
OPTIONS = "--samples 4000 --scale 0.01 --batch-size 64 --dim 4 --log-every 3 --eval-every 30"
FEW = ["--epochs", "2", "--batch-size", "64", "--dim", "4"]
USERS, MOVIES, PER_USER = 30, 40, 20


def few_columns(log: ClickLog) -> ClickLog:
    """A log without most of its columns: the programs compile in a second or two."""
    kept = [c for c, column in enumerate(log.columns) if column.name in KEPT]
    columns, ids = tuple(log.columns[c] for c in kept), tuple(log.ids[c] for c in kept)
    return dataclasses.replace(log, columns=columns, ids=ids)


def small_synthetic(samples: int, **options: Any) -> ClickLog:
    return few_columns(synthetic(samples, **options))


def write_files(directory: Path, seed: int = 0) -> Path:
    """A small data set in the published formats, whose ratings depend on user and movie."""
    rng = np.random.default_rng(seed)
    generous, good = rng.normal(0, 0.7, USERS), rng.normal(0, 0.7, MOVIES)
    lines = []
    for user in range(USERS):
        for movie in rng.permutation(MOVIES)[:PER_USER]:
            stars = np.clip(round(3.3 + generous[user] + good[movie]), 1, 5)
            time = 880_000_000 + rng.integers(0, 15) * 86_400  # days, so that times are often equal
            lines.append(f"{user + 1}\t{movie + 1}\t{stars:.0f}\t{time}")
    rng.shuffle(lines)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "u.data").write_text("\n".join(lines) + "\n")
    titles = [f"Film n° {movie + 1} (1995)" for movie in range(MOVIES)]
    titles[3] = "Star Wars (1977)"
    flags = (rng.random((MOVIES, data.GENRES)) < 0.15).astype(int)
    flags[5] = 0  # a movie without a genre
    items = [
        "|".join([str(movie + 1), title, "01-Jan-1995", "", "http://example.org", *map(str, row)])
        for movie, (title, row) in enumerate(zip(titles, flags, strict=True))
    ]
    (directory / "u.item").write_text("\n".join(items) + "\n", encoding="latin-1")
    return directory
