"""A rating model whose tables live in `TPUEmbedding`, and the steps that train and evaluate it.

    user ──────────────────────────┐
    watched  (ragged, weighted) ───┼── a profile of the user ──┐
    taste    (ragged, weighted) ───┤                           │ dot products ─┬─ stars
    recent   (sequence) ─ attention┘                 movie ────┘               │
    genres   (ragged) ─────────────────── all of these and their products ─ MLP┤
    user_bias, movie_bias (D = 1) ─────────────────────────────────────────────┘

Three things to look for: two features that share a table (`watched` and `taste`; also `movie` and
`recent`), tables of different width, and tables with an optimizer of their own.

Shape letters: B batch, L length of the sequence feature, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common.background import BackgroundBatches, Batch, TrainingOrder
from common.epochs import EpochTrainer
from common.processes import own_share
from common.tables import TABLES
from torch import Tensor, nn

import torch_tpu_embedding as tte
from movielens.data import GENRES, Samples, rmse


@dataclass(frozen=True)
class Settings:
    """The options that, with the data, decide how a training run goes."""

    epochs: int = 8
    batch_size: int = 1024
    dim: int = 16
    lr: float = 0.04  # of the tables
    decay: float = 0.2  # weight decay of the wide tables; a lookup costs a row this share, times lr
    dense_lr: float = 0.001
    dropout: float = 0.4
    seed: int = 0
    pipelined: bool = False  # read the rows of the next step while this one runs
    tables: str = "float32"  # of TABLES; the bias tables are float32 in any case


def feature_config(samples: Samples, settings: Settings) -> dict[str, tte.FeatureConfig]:
    """The tables and the features that look into them."""
    users, movies = int(samples.ratings.user.max()) + 1, len(samples.movies)

    def table(name: str, rows: int, combiner: str = "mean") -> tte.TableConfig:
        return tte.TableConfig(
            rows,
            settings.dim,
            initializer=small_normal,
            combiner=combiner,
            name=name,
            **TABLES[settings.tables],
        )

    def bias(name: str, rows: int) -> tte.TableConfig:
        # One number a row says little that is wrong: it needs hardly any weight decay.
        optimizer = adagrad(settings.lr, decay=0.01)
        return tte.TableConfig(rows, 1, initializer=torch.zeros, optimizer=optimizer, name=name)

    movie = table("movie", movies)
    # sqrtn keeps a history's size in the result: longer ones weigh more, though not in proportion.
    history = table("history", movies, combiner="sqrtn")
    return {
        "user": tte.FeatureConfig(table("user", users)),
        "user_bias": tte.FeatureConfig(bias("user_bias", users)),
        "movie": tte.FeatureConfig(movie),
        "movie_bias": tte.FeatureConfig(bias("movie_bias", movies)),
        "genres": tte.FeatureConfig(table("genre", GENRES)),
        "recent": tte.FeatureConfig(movie, max_sequence_length=samples.recent),
        "watched": tte.FeatureConfig(history),
        "taste": tte.FeatureConfig(history),
    }


def small_normal(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Start values near 0, so that rows that are not trained yet add little noise."""
    return torch.randn(shape, dtype=dtype) * 0.1


def adagrad(lr: float, decay: float) -> tte.Adagrad:
    """Adagrad with weight decay; a row's weights shrink by decay·lr whenever it is looked up."""
    return tte.Adagrad(
        lr,
        # One row's gradient of the mean loss is near 1e-3: TF's default of 0.1 would drown it.
        initial_accumulator_value=1e-6,
        weight_decay_factor=decay,
        multiply_weight_decay_factor_by_learning_rate=True,
    )


class RatingModel(nn.Module):
    """Stars from embedding activations; plain torch, it does not know where they come from."""

    mean: Tensor
    positions: Tensor

    def __init__(self, mean: float, dim: int, length: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([mean]))
        self.register_buffer("positions", torch.arange(length, dtype=torch.float32))
        self.age_bias = nn.Parameter(torch.zeros(length))
        last = nn.Linear(32, 1)
        nn.init.zeros_(last.weight)  # the MLP starts silent, as a correction to the rest
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(10 * dim, 64),
            nn.ReLU(),
            nn.Dropout(dropout / 2),
            nn.Linear(64, 32),
            nn.ReLU(),
            last,
        )

    def forward(self, acts: dict[str, Tensor], recent_count: Tensor) -> Tensor:
        """Predicted stars `[B]`; `recent_count` `[B]` gives how many positions of `recent` hold a movie."""
        user, movie, genres = acts["user"], acts["movie"], acts["genres"]
        watched, taste = acts["watched"], acts["taste"]
        recent = self.attend(movie, acts["recent"], recent_count)
        profile = user + watched + taste
        bias = (acts["user_bias"] + acts["movie_bias"]).squeeze(1)
        alone = [user, movie, genres, watched, taste, recent]
        products = [user * movie, watched * movie, taste * movie, recent * movie]
        correction = self.mlp(torch.cat([*alone, *products], dim=1)).squeeze(1)
        return self.mean + bias + (profile * movie).sum(1) + correction

    def attend(self, movie: Tensor, recent: Tensor, count: Tensor) -> Tensor:
        """The recent movies `[B, L, D]` averaged to `[B, D]`, movies that resemble `movie` weighing most.

        Positions without a movie hold zeros. They must not share in the attention, so their scores are
        pushed far down; without any movie the average of zeros is zero.
        """
        scores = torch.einsum("bld,bd->bl", recent, movie) / recent.shape[2] ** 0.5 + self.age_bias
        taken = self.positions < count[:, None]
        weights = torch.where(taken, scores, -1e4).softmax(dim=1)
        return torch.einsum("bl,bld->bd", weights, recent)


class Trainer(EpochTrainer):
    """The rating model with its tables, their optimizers, and learning rates that fall to 0."""

    settings: Settings

    def __init__(self, samples: Samples, settings: Settings) -> None:
        super().__init__(settings)
        self.samples = samples
        self.train_rows = np.flatnonzero(~samples.held_out)
        # In random order, so that all batches are alike. Sorted by user they would differ in their number
        # of distinct ids, and the padded size it sets would grow from batch to batch, each time for a
        # compile.
        rng = np.random.default_rng(settings.seed)
        self.test_rows = rng.permutation(np.flatnonzero(samples.held_out))
        torch.manual_seed(settings.seed)

        self.embedding = tte.TPUEmbedding(
            feature_config(samples, settings),
            batch_size=settings.batch_size,
            optimizer=adagrad(settings.lr, settings.decay),  # of the tables that bring none
            seed=settings.seed,
            pipeline_execution_with_tensor_core=settings.pipelined,
        )
        mean = float(samples.train.stars.mean())
        self.model = RatingModel(mean, settings.dim, samples.recent, settings.dropout)
        self.model.to(tte.runtime.device())

        # Whole batches only: a shorter last one, of other samples in each epoch, would make a noisy step.
        self.order = TrainingOrder(
            len(self.train_rows), settings.batch_size, settings.seed, whole_batches=True
        )
        self.batches = BackgroundBatches(
            self.order, lambda positions: self.cut(self.train_rows[positions]), self.embedding
        )

        self.make_optimizers()
        tte.runtime.sync()  # start values reach the device now, not as a part of the first step

    def cut(self, rows: np.ndarray) -> Batch:
        return self.samples.batch(own_share(rows, self.settings.batch_size)[0])

    def advance(self) -> Tensor:
        """Train on the next batch, with a seed of its own for dropout."""
        self.model.train()
        # Each process has its own seed, or all would drop the same positions of their samples. Under SPMD
        # (one replica) the program is common to all, and so is its seed. Each step has its own, so that a
        # resumed run drops the same positions as an undisturbed one.
        process = tte.distributed.rank() % tte.distributed.num_replicas()
        seed = np.random.SeedSequence([self.settings.seed, process, self.step])
        tte.runtime.manual_seed(int(seed.generate_state(1)[0]))
        loss = super().advance()
        # Outside of `train_step`: a replayed step does on the device what it did, and nothing on the host.
        for schedule in self.schedulers.values():
            schedule.step()
        return loss

    def train_step(self, numbers: Tensor) -> Tensor:
        stars, recent_count = numbers.unbind(1)
        predicted = self.model(self.embedding.dequeue(), recent_count)
        loss = (predicted - stars).square().mean()
        # Gradients are summed over the processes, so each process gives its share of the mean.
        (loss / tte.distributed.num_replicas()).backward()
        tte.distributed.sum_gradients(self.model.parameters())
        for optimizer in self.optimizers.values():
            optimizer.step()  # of the tables only the rows of this batch change
        self.optimizers["dense"].zero_grad(set_to_none=True)
        return loss.detach()

    def predict(self, batch: Batch) -> Tensor:
        """Stars `[B]` on the device."""
        recent_count = self.embedding.to_device(batch.numbers)[:, 1]
        # feature name -> [B, D] or [B, L, D]
        activations = self.embedding(batch.features, batch.weights)
        return self.model(activations, recent_count)

    def evaluate(self) -> dict[str, float]:
        """RMSE on the held-out samples."""
        self.model.eval()  # no dropout
        predicted = self.predict_rows(self.test_rows).numpy()
        return {"rmse": rmse(predicted, self.samples.ratings.stars[self.test_rows])}

    def scores_as_text(self, scores: dict[str, float]) -> str:
        return f"held-out RMSE {scores['rmse']:.4f}"

    def data_identity(self) -> dict[str, Any]:
        return {"training ratings": len(self.train_rows)}

    def similar(self, movie: int, count: int = 3, least: int = 100) -> list[int]:
        """The movies whose rows of the `movie` table point most nearly the same way as that of `movie`.

        Movies with fewer than `least` training ratings are left out: their rows moved too little.
        """
        rows = nn.functional.normalize(self.embedding.table_weight("movie"), dim=1)  # [movies, D]
        cosine = rows @ rows[movie]
        rated = np.bincount(self.samples.train.movie, minlength=len(self.samples.movies))
        cosine[torch.from_numpy(rated < least)] = -2.0
        cosine[movie] = -3.0
        return cosine.topk(count).indices.tolist()
