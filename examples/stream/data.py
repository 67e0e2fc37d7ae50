"""A made-up stream of clicks: items with string ids that are born, drift, and are seen no more.

Shape letters: B batch, N items, K hidden traits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

USERS, TRAITS = 500, 4
ITEMS_A_ROW = 5
"""Items over the whole stream, for each row of the table."""
ALIVE = 0.6
"""Items alive at a time, as a share of the rows."""
DRIFT = 0.05
"""How far an item's traits move in a step, in standard deviations of a random walk over √step."""


@dataclass(frozen=True)
class Clicks:
    """One batch."""

    users: np.ndarray  # [B]
    items: list[str]  # B raw ids
    labels: np.ndarray  # [B] float32


class Stream:
    """Batches of a stream by their number; the same number gives the same batch.

    Items are born at an even rate and live equally long. While alive their popularity is that of a Zipf
    law, and their traits walk.

    Args:
        rows: of the table, which sets the number of items.
        steps: batches in all.
        seed: of everything.
    """

    def __init__(self, rows: int, steps: int, batch_size: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.batch_size, self.seed, self.steps = batch_size, seed, steps
        self.alive = int(ALIVE * rows)
        self.num_items = ITEMS_A_ROW * rows
        self.users = rng.normal(size=(USERS, TRAITS))
        self.quality = rng.normal(size=self.num_items)
        self.traits = rng.normal(size=(self.num_items, TRAITS)) / np.sqrt(TRAITS)
        self.walk = rng.normal(size=(self.num_items, TRAITS)) / np.sqrt(TRAITS)
        weight = 1 / np.arange(2, self.alive + 2) ** 0.7
        self.popularity = weight / weight.sum()
        self.shuffled = rng.permutation(self.alive)

    def batch(self, step: int) -> Clicks:
        """The clicks of a step."""
        rng = np.random.default_rng([self.seed, 1, step])
        oldest = (self.num_items - self.alive) * step // self.steps
        place = rng.choice(self.alive, self.batch_size, p=self.popularity)
        # An item keeps its popularity while it is alive, for its number modulo `alive` is its own then.
        slot = self.shuffled[place]
        items = oldest + (slot - oldest) % self.alive
        users = rng.integers(0, USERS, self.batch_size)
        birth = items * self.steps / (self.num_items - self.alive)
        age = np.abs(step - birth)[:, None]
        traits = self.traits[items] + DRIFT * np.sqrt(age) * self.walk[items]
        logits = 1.5 * self.quality[items] + (self.users[users] * traits).sum(1)
        labels = rng.random(self.batch_size) < 1 / (1 + np.exp(-logits))
        return Clicks(users, [f"item-{n}" for n in items], labels.astype(np.float32))
