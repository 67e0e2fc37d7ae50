"""Who watched which movie: MovieLens 100K or a synthetic log, split by time, and its batches.

Every rating counts as watched, whatever its stars. The last fifth of each user's movies by time is held
out; a training sample is one of the other movies, with the user's history before it. To evaluate, each user
is asked for once, with the end of the training part as history, and each movie once.

Shape letters: B batch, U users, M movies, R rows (samples).
"""

from __future__ import annotations

import numpy as np
import torch
from common.background import Batch
from movielens.data import GENRES, SECONDS_PER_DAY, Movies, Ratings, ragged, ranges

from torch_tpu_embedding import Ragged


def synthetic(
    users: int = 1000, movies: int = 800, per_user: int = 60, seed: int = 0
) -> tuple[Ratings, Movies]:
    """A log in which users like some genres more than others, and movies are of different popularity.

    A user's movies are drawn without replacement, with a chance in proportion to popularity · exp(mean
    taste for the movie's genres + taste for its hidden traits); those drawn first are watched first.
    """
    rng = np.random.default_rng(seed)
    flags = rng.random((movies, GENRES)) < 0.1
    flags[np.arange(movies), rng.integers(0, GENRES, movies)] = True  # one genre at least
    kinds = np.column_stack([flags / flags.sum(1, keepdims=True), rng.normal(0, 0.4, (movies, 4))])
    tastes = rng.normal(0, 2.0, (users, kinds.shape[1]))
    popularity = -0.6 * np.log(5 + rng.permutation(movies))
    # The largest of these are such a draw: Gumbel noise on log-weights (Gumbel-top-k).
    keys = tastes @ kinds.T + popularity + rng.gumbel(size=(users, movies))
    drawn = np.argsort(-keys, axis=1)[:, :per_user]
    time = np.sort(rng.integers(0, 200 * SECONDS_PER_DAY, drawn.shape), axis=1)
    user = np.repeat(np.arange(users), drawn.shape[1])
    stars = np.full(drawn.size, 4.0, np.float32)
    movie, genre = np.nonzero(flags)
    splits = np.searchsorted(movie, np.arange(movies + 1))
    titles = [f"Movie {number + 1}" for number in range(movies)]
    return Ratings(user, drawn.ravel(), stars, time.ravel()), Movies(titles, genre, splits)


class Samples:
    """Training samples, then rows that ask for each user and for each movie once.

    Args:
        ratings: all ratings, sorted by user and time.
        movies: titles and genres.
        held_out: True for ratings that are kept from training.
        recent: the length of a history that is looked up: the latest movies.

    Attributes:
        train: the ratings that are not held out; row r < len(train) is the sample of the r-th.
        evaluation: the rows that ask, R = max(U, M): the r-th for user r mod U and movie r mod M.
        seen, relevant: `[U, M]` bool, the movies of the training part, and those held out.
        log_q: `[M]`, for each movie the logarithm of its share of the training samples.
    """

    def __init__(
        self, ratings: Ratings, movies: Movies, held_out: np.ndarray, *, recent: int = 15
    ) -> None:
        self.movies, self.users, self.recent = movies, int(ratings.user.max()) + 1, recent
        self.train = train = ratings[~held_out]
        asked = np.arange(max(self.users, len(movies)))
        self.evaluation = len(train) + asked
        self.user = np.concatenate([train.user, asked % self.users])
        self.movie = np.concatenate([train.movie, asked % len(movies)])
        # A history is a range of `train`, which is sorted by user and time. Of movies with one time none
        # is in the history of the others.
        bounds = np.searchsorted(train.user, np.arange(self.users + 1))
        times, rank = np.unique(train.time, return_inverse=True)
        key = train.user * len(times) + rank
        before = np.searchsorted(key, key, side="left")
        self.end = np.concatenate([before, bounds[1:][asked % self.users]])
        self.first = np.maximum(bounds[self.user], self.end - recent)

        self.seen = np.zeros((self.users, len(movies)), bool)
        self.seen[train.user, train.movie] = True
        self.relevant = np.zeros_like(self.seen)
        self.relevant[ratings.user[held_out], ratings.movie[held_out]] = True
        counts = np.bincount(train.movie, minlength=len(movies))
        self.log_q = np.log(np.maximum(counts, 1) / len(train))

    def batch(self, rows: np.ndarray, positions: np.ndarray) -> Batch:
        """The batch of some rows.

        Args:
            rows: of this process, `[B / S]`.
            positions: theirs in the batch of all processes, `[B / S]`.

        Its `numbers` `[B / S, 3]` are log_q of the movie, its id, and the position: what the loss must know
        of other samples. float32 holds ids below 2²⁴ exactly.
        """
        movie = self.movie[rows]
        genre, genre_splits = ranges(self.movies.splits[movie], self.movies.splits[movie + 1])
        past, splits = ranges(self.first[rows], self.end[rows])
        numbers = np.column_stack([self.log_q[movie], movie, positions])
        features: dict[str, torch.Tensor | Ragged] = {
            "user": torch.from_numpy(self.user[rows]),
            "watched": ragged(self.train.movie[past], splits),
            "movie": torch.from_numpy(movie),
            "movie_bias": torch.from_numpy(movie),
            "genres": ragged(self.movies.genres[genre], genre_splits),
        }
        weights: dict[str, Ragged | None] = dict.fromkeys(features)
        return Batch(torch.from_numpy(numbers.astype(np.float32)), features, weights)


# -- scores ----------------------------------------------------------------------------------------


def ranking_scores(scores: np.ndarray, samples: Samples, count: int = 10) -> dict[str, float]:
    """recall@`count` and MRR of `scores` `[U, M]`, over all movies that the user has not seen in training.

    recall: the share of the user's held-out movies among the `count` best, of `count` at most that could be
    there (Liang et al., Variational Autoencoders for Collaborative Filtering, 2018, section 4.2).
    MRR: 1 / rank of the best held-out movie. Both are means over the users that have held-out movies.
    """
    asked = samples.relevant.any(1)
    open_scores = np.where(samples.seen, -np.inf, scores)[asked]
    order = np.argsort(-open_scores, axis=1, kind="stable")
    hits = np.take_along_axis(samples.relevant[asked], order, axis=1)
    possible = np.minimum(hits.sum(1), count)
    return {
        f"recall@{count}": float((hits[:, :count].sum(1) / possible).mean()),
        "MRR": float((1 / (hits.argmax(1) + 1)).mean()),
    }
