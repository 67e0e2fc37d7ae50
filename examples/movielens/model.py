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

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from common.background import BackgroundBatches, TrainingOrder
from common.preemption import require_same, settle
from common.processes import own_share
from movielens.data import GENRES, Batch, Samples, rmse
from torch import Tensor, nn

import torch_tpu_embedding as tte


@dataclass(frozen=True)
class Settings:
    """What decides, with the data, how a training run goes."""

    epochs: int = 8
    batch_size: int = 1024
    dim: int = 16
    lr: float = 0.04  # of the tables
    decay: float = 0.2  # weight decay of the wide tables; a lookup costs a row this share, times lr
    dense_lr: float = 0.001
    dropout: float = 0.4
    seed: int = 0
    pipelined: bool = False  # read the rows of the next step while this one runs


def feature_config(samples: Samples, settings: Settings) -> dict[str, tte.FeatureConfig]:
    """The tables and the features that look into them."""
    users, movies = int(samples.ratings.user.max()) + 1, len(samples.movies)

    def table(name: str, rows: int, combiner: str = "mean") -> tte.TableConfig:
        return tte.TableConfig(
            rows, settings.dim, initializer=small_normal, combiner=combiner, name=name
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
    """Start values near 0, so that what is not learned yet adds little noise."""
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
    places: Tensor

    def __init__(self, mean: float, dim: int, length: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([mean]))
        self.register_buffer("places", torch.arange(length, dtype=torch.float32))
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
        """Predicted stars `[B]`; `recent_count` `[B]` says how many places of `recent` are taken."""
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
        """The recent movies `[B, L, D]` averaged to `[B, D]`, those that resemble `movie` first.

        Places without a movie hold zeros. They must not share in the attention, so their scores are
        pushed far down; without any movie the average of zeros is zero.
        """
        scores = torch.einsum("bld,bd->bl", recent, movie) / recent.shape[2] ** 0.5 + self.age_bias
        taken = self.places < count[:, None]
        weights = torch.where(taken, scores, -1e4).softmax(dim=1)
        return torch.einsum("bl,bld->bd", weights, recent)


class Trainer:
    """Tables, model, their optimizers, and the batches to train on; all on the device."""

    def __init__(self, samples: Samples, settings: Settings) -> None:
        self.samples, self.settings, self.step = samples, settings, 0
        # What was measured so far: a loss for each step, the RMSE before the first epoch and after each.
        self.history: dict[str, Any] = {
            "losses": [],
            "rmses": [],
            "seconds": 0.0,
            "all_seconds": 0.0,
        }
        self.device = tte.runtime.device()
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
        self.model.to(self.device)

        # Whole batches only: what is left over, other samples in each epoch, would make a noisy step.
        self.order = TrainingOrder(
            len(self.train_rows), settings.batch_size, settings.seed, whole_batches=True
        )
        self.batches = BackgroundBatches(
            self.order,
            lambda places: self.cut(self.train_rows[places]),
            self.embedding,
            features=lambda batch: batch.ids,
            weights=lambda batch: batch.weights,
            numbers=lambda batch: batch.dense,
        )

        # capturable: Adam's step count stays on the device. On the host it would be a constant of the
        # program, and every step another program to compile.
        dense = torch.optim.Adam(self.model.parameters(), settings.dense_lr, capturable=True)
        self.optimizers = [tte.EmbeddingOptimizer(self.embedding), dense]
        # Both optimizers are torch optimizers, so torch's schedulers drive both: a straight line to 0.
        self.schedulers = [
            torch.optim.lr_scheduler.LinearLR(each, 1.0, 0.0, total_iters=self.total_steps)
            for each in self.optimizers
        ]
        tte.runtime.sync()  # start values reach the device now, not as a part of the first step

    @property
    def steps_per_epoch(self) -> int:
        return self.order.batches

    @property
    def total_steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    def advance(self) -> Tensor:
        """Train on the next batch; the loss is a device scalar, computed when it is fetched."""
        self.model.train()
        # Dropout of its own for each process, or all would drop the same places of their samples. Under
        # SPMD (one replica) the program is common to all, and so is its seed. And for each step, so that a
        # resumed run drops what an undisturbed one does.
        process = tte.distributed.rank() % tte.distributed.num_replicas()
        place = np.random.SeedSequence([self.settings.seed, process, self.step])
        tte.runtime.manual_seed(int(place.generate_state(1)[0]))
        loss = self.train_step(next(self.batches))
        tte.runtime.sync()  # ends the step: runs it as one program, compiled the first time
        self.step += 1
        return loss

    def train_step(self, dense: Tensor) -> Tensor:
        """One step on the batch that the thread has sent. A function, so that its temporaries are gone
        before `sync`: whatever is still referenced there becomes an output, which XLA must keep.
        """
        stars, recent_count = dense.unbind(1)
        predicted = self.model(self.embedding.dequeue(), recent_count)
        loss = (predicted - stars).square().mean()
        # Gradients are summed over the processes, so each process gives its share of the mean.
        (loss / tte.distributed.num_replicas()).backward()
        tte.distributed.sum_gradients(self.model.parameters())
        for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
            optimizer.step()  # of the tables only the rows of this batch change
            scheduler.step()
        self.optimizers[1].zero_grad(set_to_none=True)
        return loss.detach()

    def cut(self, rows: np.ndarray) -> Batch:
        """This process's part of the batch of these rows, of the same size for short batches too."""
        return self.samples.batch(own_share(rows, self.settings.batch_size)[0])

    def predict(self, batch: Batch) -> Tensor:
        """Stars `[B]` on the device, of a batch that is not trained on."""
        recent_count = self.embedding.to_device(batch.dense)[:, 1]
        # feature name -> [B, D] or [B, L, D]
        activations = self.embedding(batch.ids, batch.weights)
        return self.model(activations, recent_count)

    @torch.no_grad()
    def evaluate(self) -> float:
        """RMSE on the held-out samples; changes nothing."""
        settle(self.embedding)
        self.embedding.eval()  # lookups without a gradient
        self.model.eval()
        outputs, size = [], self.settings.batch_size
        for start in range(0, len(self.test_rows), size):
            batch = self.cut(self.test_rows[start : start + size])
            outputs.append(self.predict(batch))
            tte.runtime.sync()
        gathered = [tte.distributed.gather(self.embedding.to_host(each)) for each in outputs]
        # What the last batch was filled up with is at its end.
        predicted = torch.cat(gathered)[: len(self.test_rows)]
        return rmse(predicted.numpy(), self.samples.ratings.stars[self.test_rows])

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides the tables."""
        return {
            "settings": self.identity(),
            "step": self.step,
            "batches": self.batches.state_dict(),
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "schedulers": [each.state_dict() for each in self.schedulers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: settings or data are not those of that run, which could not continue.
        """
        require_same(state["settings"], self.identity())
        self.step, self.history = state["step"], state["history"]
        self.batches.load_state_dict(state["batches"])
        self.model.load_state_dict(state["model"])
        for kind in ("optimizers", "schedulers"):
            for each, saved in zip(getattr(self, kind), state[kind], strict=True):
                each.load_state_dict(saved)
        tte.runtime.sync()

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to continue the other."""
        return {**asdict(self.settings), "training ratings": len(self.train_rows)}

    def whole_table(self, name: str) -> Tensor:
        """A small table `[V, D]` on the host, from the rows that each process holds."""
        number, table = next(
            (n, t) for n, t in enumerate(self.embedding.resolved.tables) if t.name == name
        )
        ids = self.embedding.placement.ids(number, table.vocabulary_size)
        whole = torch.zeros(table.vocabulary_size, table.dim)
        whole[ids.start : ids.stop : ids.step] = self.embedding.state_dict()[f"{name}.weight"]
        return tte.distributed.gather(whole[None]).sum(0)

    def similar(self, movie: int, count: int = 3, least: int = 100) -> list[int]:
        """The movies whose rows of the `movie` table point most nearly the same way as that of `movie`.

        Movies with fewer than `least` training ratings are left out: their rows moved too little.
        """
        rows = nn.functional.normalize(self.whole_table("movie"), dim=1)  # [movies, D]
        cosine = rows @ rows[movie]
        rated = np.bincount(self.samples.train.movie, minlength=len(self.samples.movies))
        cosine[torch.from_numpy(rated < least)] = -2.0
        cosine[movie] = -3.0
        return cosine.topk(count).indices.tolist()
