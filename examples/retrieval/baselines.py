"""Two baselines of retrieval: the most popular movies for everybody, and a matrix factorisation.

Shape letters: U users, M movies, D factors.
"""

from __future__ import annotations

import numpy as np


def popularity(seen: np.ndarray) -> np.ndarray:
    """Scores `[U, M]`: how many users have watched a movie, the same for every user."""
    return np.broadcast_to(seen.sum(0), seen.shape)


def factorize(
    seen: np.ndarray,
    factors: int = 48,
    confidence: float = 0.5,
    penalty: float = 10.0,
    rounds: int = 12,
    seed: int = 0,
) -> np.ndarray:
    """Scores `[U, M]` of implicit alternating least squares (Hu, Koren, Volinsky 2008).

    Minimises Σ c (seen - u·m)² + penalty · (Σ|u|² + Σ|m|²) over user vectors u and movie vectors m, with
    c = 1 + confidence where `seen` is True, else 1. Given the movies' vectors, those of users solve a least
    squares problem, and the other way round: the two are computed in turn. The defaults were chosen on the
    last fifth of the training part of MovieLens 100K.

    Args:
        seen: `[U, M]` bool.
    """
    watched = seen.astype(np.float64)
    movies = np.random.default_rng(seed).normal(0, 0.1, (seen.shape[1], factors))
    for _ in range(rounds):
        users = _solve(watched, movies, confidence, penalty)
        movies = _solve(watched.T, users, confidence, penalty)
    return users @ movies.T


def _solve(watched: np.ndarray, fixed: np.ndarray, confidence: float, penalty: float) -> np.ndarray:
    """The best vectors `[U, D]` for the rows of `watched` `[U, M]`, given `[M, D]` of its columns."""
    size = fixed.shape[1]
    products = (fixed[:, :, None] * fixed[:, None, :]).reshape(len(fixed), size * size)
    of_watched = (watched @ products).reshape(-1, size, size)
    matrix = fixed.T @ fixed + confidence * of_watched + penalty * np.eye(size)
    target = (1 + confidence) * (watched @ fixed)
    return np.linalg.solve(matrix, target[:, :, None])[:, :, 0]
