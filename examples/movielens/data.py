"""MovieLens 100K: files, split by time, baselines, and the batches that train_movielens.py feeds.

A sample is one rating. Apart from who rated which movie, the model may know the user's history only: the
training ratings of the same user with a strictly smaller timestamp. Held-out ratings are nobody's history,
so a held-out sample is predicted from training data alone.

Shape letters: B batch, N ids (or ratings) end to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common.background import Batch

from torch_tpu_embedding import Ragged

URL = "https://grouplens.org/datasets/movielens/100k/"
GENRES = 19  # flags at the end of each line of u.item
SECONDS_PER_DAY = 86_400
SHRINK = 5.0  # a movie's mean counts as if this many average ratings came on top


@dataclass(frozen=True)
class Ratings:
    """Ratings sorted by user, then time; four arrays of one length, ids counted from 0."""

    user: np.ndarray
    movie: np.ndarray
    stars: np.ndarray  # 1.0 … 5.0
    time: np.ndarray  # in seconds

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: np.ndarray) -> Ratings:
        return Ratings(self.user[rows], self.movie[rows], self.stars[rows], self.time[rows])


@dataclass(frozen=True)
class Movies:
    """Titles, and the genre ids of all movies end to end: movie m has `[splits[m], splits[m + 1])`."""

    titles: list[str]
    genres: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.titles)


# -- files -----------------------------------------------------------------------------------------


def read(directory: Path) -> tuple[Ratings, Movies]:
    """Read `u.data` and `u.item` of the unpacked ml-100k folder.

    Raises:
        ValueError: a file is missing or a line is malformed; the message names file, line and value.
    """
    movies = read_movies(directory / "u.item")
    return read_ratings(directory / "u.data", len(movies)), movies


def read_ratings(path: Path, movies: int) -> Ratings:
    """Read `user item rating timestamp` lines, separated by tabs; `movies` is the largest item id."""
    limits = {"user": None, "item": movies, "rating": 5, "timestamp": None}
    rows = []
    for where, fields in _lines(path, "\t", len(limits), "ascii"):
        for (name, most), text in zip(limits.items(), fields, strict=True):
            if not text.isdecimal() or int(text) < 1 or (most is not None and int(text) > most):
                upto = "upwards" if most is None else f"to {most}"
                raise _malformed(where, f"{name} {text!r} is not a whole number from 1 {upto}")
        rows.append([int(text) for text in fields])
    user, movie, stars, time = np.array(rows, np.int64).T
    order = np.lexsort((time, user))  # by user, then time; equal times stay in the file's order
    ratings = Ratings(user - 1, movie - 1, stars.astype(np.float32), time)
    return ratings[order]


def read_movies(path: Path) -> Movies:
    """Read `id|title|…|19 genre flags` lines, whose ids must be 1, 2, 3 and so on."""
    titles: list[str] = []
    flags: list[list[bool]] = []
    for where, fields in _lines(path, "|", 5 + GENRES, "latin-1"):
        if fields[0] != str(len(titles) + 1):
            raise _malformed(where, f"movie id {fields[0]!r} should be {len(titles) + 1}")
        for text in fields[5:]:
            if text not in ("0", "1"):
                raise _malformed(where, f"genre flag {text!r} is neither 0 nor 1")
        titles.append(fields[1])
        flags.append([text == "1" for text in fields[5:]])
    movie, genre = np.nonzero(np.array(flags))
    return Movies(titles, genre, np.searchsorted(movie, np.arange(len(titles) + 1)))


def _lines(
    path: Path, separator: str, fields: int, encoding: str
) -> Iterator[tuple[str, list[str]]]:
    """The fields of each line that is not empty, with its file and number for messages."""
    if not path.is_file():
        raise ValueError(f"{path} is not there; unpack ml-100k.zip from {URL} and give its folder")
    where = ""
    for number, line in enumerate(path.read_text(encoding, "replace").splitlines(), 1):
        if not line:
            continue
        where, parts = f"{path}, line {number}", line.split(separator)
        if len(parts) != fields:
            what = f"expected {fields} fields separated by {separator!r}, got {len(parts)}"
            raise _malformed(where, f"{what} in {line[:60]!r}")
        yield where, parts
    if not where:
        raise ValueError(f"{path} is empty; unpack ml-100k.zip from {URL} again")


def _malformed(where: str, what: str) -> ValueError:
    return ValueError(f"{where}: {what}; correct the line, or unpack ml-100k.zip from {URL} again")


# -- split and baselines ---------------------------------------------------------------------------


def hold_out(ratings: Ratings, share: float = 0.2) -> np.ndarray:
    """Mark the last `share` of each user's ratings by time, rounded to whole ratings.

    Predicting the future is harder than filling gaps at random, and it is the task of a recommender.
    """
    count = np.bincount(ratings.user)
    first = np.cumsum(count) - count
    rank = np.arange(len(ratings)) - first[ratings.user]
    kept = count - np.floor(count * share + 0.5).astype(np.int64)
    return rank >= kept[ratings.user]


@dataclass(frozen=True)
class Biases:
    """The classic baseline: mean + how generous the user is + how popular the movie is."""

    mean: float
    user: np.ndarray
    movie: np.ndarray

    def predict(self, ratings: Ratings) -> np.ndarray:
        """Predicted stars."""
        return self.mean + self.user[ratings.user] + self.movie[ratings.movie]


def fit_biases(
    ratings: Ratings, users: int, movies: int, user_penalty: float, movie_penalty: float
) -> Biases:
    """Minimise Σ(stars - mean - bᵤ - bₘ)² + user_penalty·Σbᵤ² + movie_penalty·Σbₘ².

    Given the biases of all movies, the biases of users are shrunk means, and the other way round: the
    two are computed in turn until nothing moves.
    """
    mean = float(ratings.stars.mean(dtype=np.float64))
    rest = ratings.stars - mean
    user_count = np.bincount(ratings.user, minlength=users) + user_penalty
    movie_count = np.bincount(ratings.movie, minlength=movies) + movie_penalty
    user, movie = np.zeros(users), np.zeros(movies)
    for _ in range(1000):
        old = user
        movie = np.bincount(ratings.movie, rest - user[ratings.user], movies) / movie_count
        user = np.bincount(ratings.user, rest - movie[ratings.movie], users) / user_count
        if np.abs(user - old).max() < 1e-6:
            break
    return Biases(mean, user, movie)


def choose_biases(
    train: Ratings, users: int, movies: int, penalties: tuple[float, ...] = (1, 2, 4, 8, 16)
) -> tuple[Biases, tuple[float, float]]:
    """Fit the biases with the penalties that predict the last fifth of `train` best.

    Returns:
        The biases fitted on all of `train`, and the penalties of users and movies.
    """
    late = hold_out(train)
    early, later = train[~late], train[late]

    def score(pair: tuple[float, float]) -> float:
        return rmse(fit_biases(early, users, movies, *pair).predict(later), later.stars)

    best = min(((u, m) for u in penalties for m in penalties), key=score)
    return fit_biases(train, users, movies, *best), best


def rmse(predicted: np.ndarray, stars: np.ndarray) -> float:
    """Root mean squared error; predictions outside the scale are moved to its ends first.

    >>> round(rmse(np.array([7.0, 3.0]), np.array([5.0, 4.0])), 4)
    0.7071
    """
    return float(np.sqrt(np.mean((np.clip(predicted, 1, 5) - stars) ** 2)))


# -- batches ---------------------------------------------------------------------------------------


class Samples:
    """All ratings as samples, each with the user's history at its time.

    Args:
        ratings: all ratings, held-out ones too.
        movies: their genres.
        held_out: True for ratings that must not be in any history.
        recent: the length of the sequence feature.
        most: the longest history that is looked up; older ratings are left out.
        decay_days: an old rating's weight falls by 1/e in this time.
    """

    def __init__(
        self,
        ratings: Ratings,
        movies: Movies,
        held_out: np.ndarray,
        *,
        recent: int = 20,
        most: int = 100,
        decay_days: float = 30.0,
    ) -> None:
        self.ratings, self.movies, self.held_out = ratings, movies, held_out
        self.recent, self.most, self.decay_days = recent, most, decay_days
        self.train = train = ratings[~held_out]
        # The history of a sample is a range of `train`, because that is sorted by user and time. Time
        # is replaced by its rank, so that user and time make one sortable number.
        times, rank = np.unique(ratings.time, return_inverse=True)
        key = ratings.user * len(times) + rank
        self.end = np.searchsorted(key[~held_out], key, side="left")  # strictly earlier
        self.first = np.searchsorted(train.user, ratings.user)

        # Stars of each training rating above (or below) the average of its movie.
        mean = train.stars.mean()
        sums = np.bincount(train.movie, train.stars, len(movies)) + SHRINK * mean
        averages = sums / (np.bincount(train.movie, minlength=len(movies)) + SHRINK)
        self.surplus = train.stars - averages[train.movie]

    def batch(self, rows: np.ndarray) -> Batch:
        """The batch of some rows of `ratings`.

        Its `numbers` `[B, 2]` are the stars, and how many positions of the sequence `recent` hold a movie.
        """
        user, movie = torch.from_numpy(self.ratings.user[rows]), self.ratings.movie[rows]
        genre, genre_splits = ranges(self.movies.splits[movie], self.movies.splits[movie + 1])

        first, end = self.first[rows], self.end[rows]
        past, splits = ranges(np.maximum(first, end - self.most), end)
        age = np.repeat(self.ratings.time[rows], np.diff(splits)) - self.train.time[past]
        decay = np.exp(-age / (SECONDS_PER_DAY * self.decay_days))
        watched = ragged(self.train.movie[past], splits)

        last, last_splits = ranges(np.maximum(first, end - self.recent), end)
        numbers = np.column_stack([self.ratings.stars[rows], np.diff(last_splits)])

        features: dict[str, torch.Tensor | Ragged] = {
            "user": user,
            "user_bias": user,
            "movie": torch.from_numpy(movie),
            "movie_bias": torch.from_numpy(movie),
            "genres": ragged(self.movies.genres[genre], genre_splits),
            "recent": ragged(self.train.movie[last], last_splits),
            "watched": watched,
            "taste": watched,  # the same movies, weighted in another way
        }
        weights: dict[str, Ragged | None] = dict.fromkeys(features)
        weights["watched"] = ragged(decay, splits)
        weights["taste"] = ragged(decay * self.surplus[past], splits)
        return Batch(torch.from_numpy(numbers.astype(np.float32)), features, weights)


def ranges(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers of B ranges end to end, and the row splits `[B + 1]`, without a loop.

    >>> ranges(np.array([5, 0, 2]), np.array([8, 0, 3]))
    (array([5, 6, 7, 2]), array([0, 3, 3, 4]))
    """
    lengths = end - begin
    splits = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(splits[-1]) + np.repeat(begin - splits[:-1], lengths), splits


def ragged(values: np.ndarray, splits: np.ndarray) -> Ragged:
    """A `Ragged` of ids, or of weights as float32."""
    kind = np.float32 if values.dtype.kind == "f" else np.int64
    return Ragged(torch.from_numpy(values.astype(kind)), torch.from_numpy(splits))
