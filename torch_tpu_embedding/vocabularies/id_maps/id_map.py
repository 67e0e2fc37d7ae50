"""The rows of ids that come and go: admission, last use, frequency, eviction.

Letters: N ids of a batch, V rows, O rows that are shared by ids without one of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..row_hash import shared_rows_of_array
from .earlier import EarlierMap, EarlierRows
from .grouping import grouped
from .id_index import IdIndex, Ids, Rows
from .journal import Journal
from .mapped import Mapped, Numbers
from .sketch import CountMinSketch, sketch_width
from .uses import Packed, UseForm


@dataclass(frozen=True)
class MapRules:
    """The rules by which ids get rows and lose them."""

    eviction: str | None
    """'lru', 'lfu', or None: a full map takes no new ids."""
    admission: int
    """The number of sightings at which an id gets a row of its own."""
    oov_rows: int
    """O: rows 0 … O-1 are shared."""
    max_age: int | None
    """The number of steps without a sighting after which an id loses its row; None for no end."""


class IdMap:
    """The map of one table. Its clock counts training batches.

    Rows of batches in flight are never taken from their ids: they were used at or after the clock of the
    oldest of them. Frequency counts the batches that had an id. With the index (24 bytes a row), last use
    and frequency (8), free rows (4), the sketch (2) and candidates for eviction (4 bytes each, half of the
    rows at the most) it takes 40 bytes a row at the most.

    Args:
        rows: the rows of the table that it has, counted here from 0 on; a number for all of them. Those
            that are shared come first, and are given to no id.
    """

    fewest_candidates = 1024
    sample = 4096
    """The number of rows whose keys tell about where the lowest keys end."""

    def __init__(self, rows: range | int, rules: MapRules) -> None:
        self.rows = range(rows) if isinstance(rows, int) else rows
        self.rules = rules
        num_rows = len(self.rows)
        of_shared = range(self.rows.start, rules.oov_rows, self.rows.step)
        self._num_shared = min(len(of_shared), num_rows)
        self.index = IdIndex(num_rows)
        self.uses = np.zeros(num_rows, np.int64)
        """`[V]`: the last use and the frequency of each row, as `form` packs them."""
        self.form = UseForm(rules.eviction == "lfu")
        self.clock = 0
        self._sketch = CountMinSketch(sketch_width(num_rows)) if rules.admission > 1 else None
        self._free = np.arange(num_rows - 1, self._num_shared - 1, -1, dtype=np.int32)
        self._num_free = len(self._free)
        self._candidates: Rows | None = None
        self._bound = 0
        self._journal: Journal | None = None
        """The journal of the last update, if it may yet be taken back."""

    def state(self, without: Ids, before: Sequence[Journal] = ()) -> dict[str, Any]:
        """Everything that this map knows, in arrays, but for these ids, and before some updates.

        'ids', 'rows' (numbers in the table), 'last_used' and 'count' `[n]` in the order of rows; 'clock';
        'sightings' and 'sketch' (empty without one).

        Args:
            before: the records of these updates, which are the last ones, the latest first.
        """
        return self.before(before, without).state()

    def before(self, journals: Sequence[Journal], without: Ids) -> EarlierMap:
        """This map before some updates and but for some ids, as in `state`, to be read part by part."""
        at = journals[-1] if journals else self._begin()
        cells = np.zeros((2, 0), np.uint8)
        if self._sketch is not None:
            cells = self._sketch.cells_before(journals)
        rows = EarlierRows(self.index, self.uses, journals, without)
        return EarlierMap(rows, self.form, self.rows, at.clock, at.sightings, cells)

    @classmethod
    def of_state(cls, rows: range | int, rules: MapRules, state: Mapping[str, Any]) -> IdMap:
        """A map that knows what `state` gave, of a table of as many rows or of fewer.

        The counts of ids without a row are taken over if their sketch has the same size.

        Raises:
            ValueError: the arrays are none of a map of this size.
        """
        made = cls(rows, rules)
        ids, numbers = (np.asarray(state[name], np.int64) for name in ("ids", "rows"))
        used, count = (np.asarray(state[name], np.int32) for name in ("last_used", "count"))
        one_length, clock = len(ids) == len(numbers) == len(used) == len(count), int(state["clock"])
        own, rest = np.divmod(numbers - made.rows.start, made.rows.step)
        if (
            not one_length
            or ((own < made._num_shared) | (own >= len(made.rows)) | (rest != 0)).any()
            or len(np.unique(own)) < len(own)
            or len(np.unique(ids)) < len(ids)
            or ((used < 0) | (used > clock) | (count < 1)).any()
        ):
            raise ValueError("the ids, rows and ages are no map from ids to rows of this table")
        made.index.insert(ids, own.astype(np.int32))
        made.uses[own], made.clock = made.form.pack(used, count), clock
        free = ~made.index.has_id()
        free[: made._num_shared] = False
        found = np.flatnonzero(free)[::-1]
        made._free[: len(found)], made._num_free = found, len(found)
        cells = np.asarray(state["sketch"], np.uint8)
        if made._sketch is not None and cells.shape == made._sketch.cells.shape:
            made._sketch.cells[:], made._sketch.sightings = cells, int(state["sightings"])
        return made

    @property
    def last_used(self) -> NDArray[np.int64]:
        """`[V]`: the clock at the last use of each row that has an id."""
        return self.form.last_used(self.uses)

    @property
    def num_ids(self) -> int:
        """The number of ids that have a row of their own."""
        return len(self._free) - self._num_free

    @property
    def num_own(self) -> int:
        """The number of rows that ids may have for their own."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that are kept between batches."""
        held = [*vars(self).values(), *vars(self.index).values()]
        held += [self._sketch.cells] if self._sketch is not None else []
        return sum(each.nbytes for each in held if isinstance(each, np.ndarray))

    def find(self, ids: Ids) -> Numbers:
        """The row of each id in the table, `[N]`; a shared one where it has none. Nothing changes."""
        found = self.index.find(ids)
        unknown = np.flatnonzero(found < 0)
        rows = self._outside(found)
        rows[unknown] = self.shared_rows(ids.take(unknown))
        return rows

    def shared_rows(self, ids: Ids) -> Rows:
        """The shared row of each id, by hash."""
        return shared_rows_of_array(ids, self.rules.oov_rows)

    def update(
        self, ids: Ids, oldest_in_flight: int, occurrences: NDArray[np.int64] | None = None
    ) -> Mapped:
        """See the ids of a training batch: the next one by the clock.

        Args:
            ids: `[N]`, any, repeated or not.
            oldest_in_flight: the clock of the oldest batch whose rows may still be read or updated; that of
                this batch, clock + 1, if there is none.
            occurrences: `[N]`: how often each is in the batch; None for once.
        """
        journal = self._journal = self._begin()
        self.clock += 1
        oldest = min(oldest_in_flight, self.clock)
        expired = self._expire(oldest)
        rows = self.index.find(ids)
        known = rows >= 0
        missing = np.flatnonzero(~known)
        self._use(rows.compress(known).astype(np.int64))
        if not missing.size:
            none = np.empty(0, np.int32)
            return Mapped(
                self._outside(rows), none, np.empty(0, np.int64), 0, expired, 0, 0, journal
            )
        distinct, order, number, times = grouped(
            ids.take(missing), None if occurrences is None else occurrences.take(missing)
        )
        admitted = np.arange(len(distinct))
        if self._sketch is not None:
            seen = self._sketch.add(distinct, times, journal)
            admitted = np.flatnonzero(seen >= self.rules.admission)
        evicted = self._make_room(len(admitted), oldest)
        placed = admitted[: self._num_free]
        new_ids, new_rows = distinct.take(placed), self._take(len(placed))
        self.index.insert(new_ids, new_rows)
        journal.given = new_rows
        journal.keep(self.uses, new_rows)
        self.uses[new_rows] = self.form.first_use(self.clock)
        found = self._outside(rows)
        own = self.shared_rows(distinct).astype(found.dtype)
        own[placed] = self._outside(new_rows)
        found[missing.take(order)] = own.take(number)
        turned_away = len(admitted) - len(placed)
        shared = int(times.sum() - times.take(placed).sum())
        return Mapped(found, new_rows, new_ids, evicted, expired, turned_away, shared, journal)

    def _outside(self, rows: Rows) -> Numbers:
        """The numbers in the table of rows that are counted from 0 on here."""
        if self.rows.step == 1 and self.rows.start == 0:
            return rows
        return rows * np.int64(self.rows.step) + self.rows.start

    def take_back(self, journal: Journal) -> bool:
        """Undo an update; False, and nothing is done, if another one came after it."""
        if journal is not self._journal:
            return False
        self._journal = None
        self.index.remove(journal.given)
        for ids, rows in journal.removed:
            self.index.insert(ids, rows)
        journal.restore()
        self.clock, self._num_free, self._candidates = journal.clock, journal.num_free, None
        if self._sketch is not None:
            self._sketch.sightings = journal.sightings
        return True

    def forget(self, journal: Journal) -> None:
        """Take note that an update will not be taken back."""
        if journal is self._journal:
            self._journal = None

    def _begin(self) -> Journal:
        return Journal(self.clock, self._num_free, self._sketch.sightings if self._sketch else 0)

    def _use(self, hits: NDArray[np.int64]) -> None:
        """Note that a batch uses rows; once, however often an id occurs in it."""
        assert self._journal is not None
        before = self._journal.keep(self.uses, hits)
        self.uses[hits] = self.form.used_at(before, self.clock)

    def _take(self, number: int) -> Rows:
        """Rows that no id has, rising; the lowest while none was taken from an id."""
        self._num_free -= number
        return np.sort(self._free[self._num_free : self._num_free + number])

    def _give_back(self, rows: Rows) -> None:
        assert self._journal is not None
        self._journal.removed.append((self.index.ids_of(rows), rows))
        self.index.remove(rows)
        end = self._num_free + len(rows)
        self._free[self._num_free : end] = rows[::-1]
        self._num_free = end

    def _expire(self, oldest: int) -> int:
        """Take the rows of ids away that were not seen for longer than max_age."""
        if self.rules.max_age is None:
            return 0
        limit = min(self.clock - self.rules.max_age, oldest)
        if limit <= 0:
            return 0
        old = self.form.used_before(self.uses, limit)
        rows = np.flatnonzero(old & self.index.has_id()).astype(np.int32)
        if len(rows):
            self._give_back(rows)
            self._candidates = None
        return len(rows)

    def _make_room(self, wanted: int, oldest: int) -> int:
        """Take rows from ids until as many as wanted are free, if that can be; gives the number taken."""
        missing = wanted - self._num_free
        if missing <= 0:
            self._candidates = None  # a row that was free may now be used less than all candidates
            return 0
        if self.rules.eviction is None:
            return 0
        if self._num_free:
            self._candidates = None
        rows = self._victims(missing, oldest)
        if self._num_free:  # now they get ids that may be used less than all candidates, too
            self._candidates = None
        self._give_back(rows)
        return len(rows)

    def _victims(self, number: int, oldest: int) -> Rows:
        """The rows used least, by the rule, of those that no batch in flight has; the lowest of equal ones.

        Keys of rows only rise. So of the rows that had the lowest keys at the last look at all rows, those
        whose key is still no higher than the highest of them then come before all others.
        """
        if self._candidates is not None:
            found = self._of_candidates(number, oldest)
            if len(found) == number:
                return found
        own = self.uses[self._num_shared :]
        sample = np.sort(own[:: max(1, len(own) // self.sample)])
        # Fewer candidates make each batch cheaper, more of them make looks at all rows rarer.
        best = math.isqrt(len(own) * number) // 3
        most = max(number + number // 2, best, self.fewest_candidates)
        while most < self.num_ids // 2:
            self._bound = self.form.last_of_key(int(sample[most * len(sample) // len(own)]))
            rows = np.flatnonzero(own <= self._bound).astype(np.int32)
            rows += self._num_shared
            if self._num_free:  # what rows without an id were used for does not count
                rows = rows.compress(self.index.have_ids(rows))
            if len(rows) > self.num_ids // 2:
                break
            self._candidates = rows
            found = self._of_candidates(number, oldest)
            if len(found) == number:
                return found
            most *= 2
        self._candidates = None
        every = np.flatnonzero(self.index.has_id()).astype(np.int32)
        return self._lowest(every, self.uses.take(every), number, oldest)

    def _of_candidates(self, number: int, oldest: int) -> Rows:
        assert self._candidates is not None
        packed = self.uses.take(self._candidates)
        still = packed <= self._bound
        if not still.all():
            self._candidates, packed = self._candidates.compress(still), packed.compress(still)
        return self._lowest(self._candidates, packed, number, oldest)

    def _lowest(self, rows: Rows, packed: Packed, number: int, oldest: int) -> Rows:
        """At most so many of these rising rows, by rising key, that no batch in flight has; rising."""
        done = self.form.used_before(packed, oldest)
        if not done.all():
            rows, packed = rows.compress(done), packed.compress(done)
        if len(rows) <= number:
            return rows
        keys = self.form.keys(packed)
        limit = np.partition(keys, number - 1)[number - 1]
        lowest = np.flatnonzero(keys <= limit)
        ends = np.flatnonzero(keys.take(lowest) == limit)
        surplus = len(lowest) - number
        return rows.take(np.delete(lowest, ends[len(ends) - surplus :]) if surplus else lowest)
