"""Two towers whose tables live in `TPUEmbedding`, and the steps that train and evaluate them.

    user ─────────────────┐
    watched (ragged) ─────┴─ MLP ─ unit length ─ / temperature ──┐
                                                                 ├─ dot product ─ score
    movie ────────────────┬─ MLP ─ unit length ──────────────────┤
    genres (ragged) ──────┘                                      │
    movie_bias (D = 1) ──────────────────────────────────────────┘

Three things to look for: the loss, whose negatives are the movies of all processes' samples
(`in_batch_softmax`); two features that share a table (`watched` and `movie`); and that the towers meet in a
dot product alone, so that the vectors of all movies can be computed once and searched (`vectors`).

Shape letters: B batch, S processes, D embedding width, E = D + 1 width of a vector (with its bias),
U users, M movies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common.background import BackgroundBatches, Batch, TrainingOrder
from common.epochs import EpochTrainer
from common.processes import own_share
from movielens.data import GENRES
from torch import Tensor, nn

import torch_tpu_embedding as tte
from retrieval.data import Samples, ranking_scores


@dataclass(frozen=True)
class Settings:
    """The options that, with the data, decide how a training run goes."""

    epochs: int = 5
    batch_size: int = 1024
    dim: int = 32
    lr: float = 0.1  # of the tables
    dense_lr: float = 0.002
    temperature: float = 0.25  # scores are cosines divided by it
    seed: int = 0


def feature_config(samples: Samples, settings: Settings) -> dict[str, tte.FeatureConfig]:
    """The tables and the features that look into them."""

    movies = len(samples.movies)

    def table(name: str, rows: int) -> tte.TableConfig:
        # sqrtn keeps a history's size in the result: longer ones weigh more, though not in proportion.
        return tte.TableConfig(
            rows, settings.dim, initializer=small_normal, combiner="sqrtn", name=name
        )

    movie = table("movie", movies)
    bias = tte.TableConfig(movies, 1, initializer=torch.zeros, name="movie_bias")
    return {
        "user": tte.FeatureConfig(table("user", samples.users)),
        "watched": tte.FeatureConfig(movie),
        "movie": tte.FeatureConfig(movie),
        "movie_bias": tte.FeatureConfig(bias),
        "genres": tte.FeatureConfig(table("genre", GENRES)),
    }


def small_normal(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Start values near 0, so that rows that are not trained yet add little noise."""
    return torch.randn(shape, dtype=dtype) * 0.03


class TwoTowers(nn.Module):
    """Vectors of users and movies from embedding activations; plain torch."""

    def __init__(self, dim: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.user_tower, self.movie_tower = (
            nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
            for _ in range(2)
        )

    def users(self, acts: dict[str, Tensor]) -> Tensor:
        """`[B, E]` of the users that the batch asks for."""
        both = torch.cat([acts["user"], acts["watched"]], dim=1)
        # Past the tower go the rows themselves: what it learns is a correction.
        unit = unit_length(self.user_tower(both) + acts["user"] + acts["watched"])
        return torch.cat([unit / self.temperature, torch.ones_like(unit[:, :1])], dim=1)

    def movies(self, acts: dict[str, Tensor]) -> Tensor:
        """`[B, E]` of the movies; the last place meets the 1 of each user: it is the bias."""
        both = torch.cat([acts["movie"], acts["genres"]], dim=1)
        unit = unit_length(self.movie_tower(both) + acts["movie"] + acts["genres"])
        return torch.cat([unit, acts["movie_bias"]], dim=1)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors `[B, D]` of length 1."""
    return vectors * (vectors.square().sum(1, keepdim=True) + 1e-12).rsqrt()


def in_batch_softmax(users: Tensor, movies: Tensor, numbers: Tensor) -> Tensor:
    """The loss: which of the batch's movies is that of each sample? A mean over this process's samples.

    A frequent movie is a negative more often, as often as it is watched; subtracting log_q, the logarithm
    of that chance, corrects for it (Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus
    Item Recommendations, 2019). Other samples with the same movie are no negatives.

    Args:
        users, movies: `[B / S, E]`.
        numbers: `[B / S, 3]`, see `Samples.batch`.
    """
    candidates = tte.distributed.all_gather(torch.cat([movies, numbers], dim=1))  # [B, E + 3]
    vectors, (log_q, movie, position) = candidates[:, :-3], candidates[:, -3:].unbind(1)
    scores = users @ vectors.T - log_q  # [B / S, B]
    own = numbers[:, 2:] == position
    again = (numbers[:, 1:2] == movie) & ~own
    scores = torch.where(again, -1e9, scores)
    return (scores.logsumexp(1) - torch.where(own, scores, 0.0).sum(1)).mean()


class Trainer(EpochTrainer):
    """The two towers with their tables and optimizers, and learning rates that fall to 0."""

    settings: Settings

    def __init__(self, samples: Samples, settings: Settings) -> None:
        super().__init__(settings)
        self.samples = samples
        torch.manual_seed(settings.seed)
        self.embedding = tte.TPUEmbedding(
            feature_config(samples, settings),
            batch_size=settings.batch_size,
            # One row's gradient of the mean loss is near 1e-3: TF's accumulators of 0.1 would drown it.
            optimizer=tte.Adagrad(settings.lr, initial_accumulator_value=1e-6),
            seed=settings.seed,
        )
        self.model = TwoTowers(settings.dim, settings.temperature)
        self.model.to(tte.runtime.device())
        # Whole batches only: in a short one each sample would have fewer negatives.
        self.order = TrainingOrder(
            len(samples.train), settings.batch_size, settings.seed, whole_batches=True
        )
        self.batches = BackgroundBatches(self.order, self.cut, self.embedding)
        self.make_optimizers()
        tte.runtime.sync()  # start values reach the device now, not as a part of the first step

    def cut(self, rows: np.ndarray) -> Batch:
        size = self.settings.batch_size
        positions, _ = tte.distributed.local_positions(size, size)
        return self.samples.batch(own_share(rows, size)[0], positions.numpy())

    def train_step(self, numbers: Tensor) -> Tensor:
        activations = self.embedding.dequeue()
        users, movies = self.model.users(activations), self.model.movies(activations)
        loss = in_batch_softmax(users, movies, numbers)
        # Gradients are summed over the processes, so each process gives its share of the mean.
        (loss / tte.distributed.num_replicas()).backward()
        tte.distributed.sum_gradients(self.model.parameters())
        for name, optimizer in self.optimizers.items():
            optimizer.step()  # of the tables only the rows of this batch change
            self.schedulers[name].step()
        self.optimizers["dense"].zero_grad(set_to_none=True)
        return loss.detach()

    def predict(self, batch: Batch) -> Tensor:
        """The vectors of the users and of the movies, `[B, 2 E]` on the device."""
        activations = self.embedding(batch.features, batch.weights)
        return torch.cat([self.model.users(activations), self.model.movies(activations)], dim=1)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of all users `[U, E]` and of all movies `[M, E]`, on the host, in every process."""
        both = self.predict_rows(self.samples.evaluation)
        users, movies = both.chunk(2, dim=1)
        return users[: self.samples.users], movies[: len(self.samples.movies)]

    def evaluate(self) -> dict[str, float]:
        """recall@10 and MRR of the held-out movies."""
        users, movies = self.vectors()
        return ranking_scores((users @ movies.T).numpy(), self.samples)

    def scores_as_text(self, scores: dict[str, float]) -> str:
        return "   ".join(f"{name} {score:.4f}" for name, score in scores.items())

    def data_identity(self) -> dict[str, Any]:
        return {"training samples": len(self.samples.train)}

    def serving(self) -> tte.TPUEmbeddingForServing:
        """The tables as they are now, whole and on the CPU; a collective call."""
        config = feature_config(self.samples, self.settings)
        whole = tte.TPUEmbeddingForServing(config)
        for table in dict.fromkeys(each.table for each in config.values()):
            ids = torch.arange(table.vocabulary_size)
            whole.write_rows(table, ids, self.embedding.table_weight(str(table.name)))
        return whole
