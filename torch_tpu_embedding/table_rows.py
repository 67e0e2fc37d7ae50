"""The calls that read, write and search rows of tables, wherever they lie, and their documentation.

The work is in `tables/access/`. Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import runtime
from .config.declared import TableConfig
from .config.resolved import Table
from .distributed.agreement import check_together
from .distributed.calls import calling
from .runtime.modes import for_tables, outside_graph
from .table_module import TableModule
from .tables.access import arguments as check
from .tables.access.rows import RowsOfAll


class TableRows(TableModule):
    """Tables whose rows can be read, written and searched by id, from every process.

    The calls apply what pipelined execution holds back, and compile only for new sizes, which grow in
    powers of two. Under several processes they are collective; a process whose argument is wrong raises its
    error, the others PeerError, and nothing has changed. With device='cpu' each process has whole tables of
    its own, and calls alone.
    """

    @outside_graph
    def read_rows(self, table: str | TableConfig, ids: Any, *, slot: str | None = None) -> Tensor:
        """The rows of some ids as they are now; reads those rows and no others from the device.

        Of a table with a vocabulary, the vectors of any int64 ids: by k hash functions, sums of k rows; by
        a DynamicVocabulary those that inference would give.

            embedding.read_rows("users", [7, 42])  # [2, D]

        Args:
            table: its name, or its TableConfig.
            ids: integers on the host: a tensor, a numpy array, lists, or a range, of any shape `[…]`; may
                be none, and may hold an id more than once. Each process asks for its own.
            slot: None for the weights, or the name of a slot variable of the table's optimizer, as in
                state_dict ('accumulators').

        Returns:
            A float32 tensor on the host, `[…, D]` in the order of the ids; `[…, width]` of a slot. A copy.

        Raises:
            TypeError: the ids are no integers, or not on the host.
            ValueError: there is no such table or slot, or an id is outside [0, V), whatever `id_bounds`
                says; or processes name different tables.
        """
        return self._read_rows(table, ids, slot)

    @outside_graph
    def write_rows(
        self,
        table: str | TableConfig,
        ids: Any,
        values: Any,
        *,
        slot: str | None = None,
        reset_slots: bool = False,
    ) -> None:
        """Set the rows of some ids: weights from elsewhere, or a fresh start for an id that is used again.

            embedding.write_rows("users", [7, 42], torch.zeros(2, D), reset_slots=True)

        Frozen tables are written too, for freezing holds optimizers back, not the user. A batch that was
        looked up before keeps the activations it has; its update starts from the rows as they are then. A
        delta checkpoint takes the rows along.

        Args:
            table: its name, or its TableConfig.
            ids: as for `read_rows`, each at most once. Each process writes its own; the same row may come
                from several with the same values.
            values: finite float32 numbers `[…, D]` on the host, a row for each id; `[…, width]` of a slot.
            slot: None to write weights, or the name of a slot variable.
            reset_slots: True also gives the slots of these rows their start values.

        Raises:
            TypeError: the ids are no integers, or the values not float32 on the host.
            ValueError: there is no such table or slot, an id is outside [0, V) or occurs twice, the values
                have another shape, one is not finite, or processes give a row different values; or the
                start values of slots come from a `slot_variable_creation_fn`. Nothing has changed then.
        """
        self._write_rows(table, ids, values, slot, reset_slots)

    @outside_graph
    def table_weight(
        self,
        table: str | TableConfig,
        start: int = 0,
        stop: int | None = None,
        *,
        slot: str | None = None,
    ) -> Tensor:
        """A whole table, or a range of its rows, in every process.

            for start in range(0, V, 100_000):  # a table that no host has room for
                rows = embedding.table_weight("users", start, min(start + 100_000, V))

        Rows travel in pieces of 8 MiB: besides the result, a process needs memory for a few of them.

        Args:
            table: its name, or its TableConfig.
            start: the first id, the same in all processes.
            stop: the id after the last one, the same in all processes; None for the end of the table.
            slot: None for the weights, or the name of a slot variable of the table's optimizer.

        Returns:
            A float32 tensor on the host, `[stop - start, D]`, whose row i is id start + i; `[…, width]` of
            a slot. A copy.

        Raises:
            TypeError: start or stop is no int.
            ValueError: there is no such table or slot, start and stop are not in order within [0, V], or
                processes ask for different rows.
        """
        return self._table_weight(table, start, stop, slot)

    @outside_graph
    def top_k(
        self,
        table: str | TableConfig,
        queries: Any,
        k: int,
        *,
        start: int = 0,
        stop: int | None = None,
        metric: str = "dot",
    ) -> tuple[Tensor, Tensor]:
        """The ids of the k rows that score highest with each query, by an exact search of all rows.

            scores, ids = embedding.top_k("movies", embedding.to_host(users), 10)  # [B, 10] each

        Every device scores the rows it holds, a chunk at a time: besides queries and results it needs
        memory for a chunk of 16 MiB and its scores, however large the table is. Scores are products and
        sums of float32, equal to those of torch to rounding. As in torch.topk, nan is the highest score;
        one of -inf counts as the lowest finite number. The row of padding_idx is never found.

        Args:
            table: its name, or its TableConfig.
            queries: finite float32 numbers `[…, D]`: a tensor on the host or on the embedding's device
                (then taken as by `to_host`), or a numpy array. Each process gives its own, or none.
            k: the number of rows for each query, at most as many as are searched.
            start: search only ids from this one on.
            stop: search only ids before this one; None for the end of the table.
            metric: 'dot', or 'cosine' for the cosine of the angle (0 for a row or query of zeros).

        Returns:
            (scores, ids): float32 and int64 on the host, `[…, k]` each, the highest scores first, equal
            ones by rising id.

        Raises:
            TypeError: the queries are not float32, or a number is no int.
            ValueError: there is no such table or metric, a size or a range is wrong, a query is not finite,
                or processes differ in anything but their queries.
        """
        if isinstance(queries, Tensor) and runtime.is_accelerated(queries.device):
            queries = self.to_host(queries.detach())
        return self._top_k(table, queries, k, start, stop, metric)

    @for_tables
    def _read_rows(self, table: object, ids: Any, slot: object) -> Tensor:
        call = "read_rows"

        def checked() -> tuple[tuple[int, str, Tensor], dict[str, object]]:
            number, config = self._named(call, table)
            field = check.field_name(call, config, slot)
            found = check.checked_rows(call, config, field, ids)
            return (number, field, found), _common(config, slot=slot)

        with calling(call):
            number, field, found = check_together(self.shard.group, call, checked)
            rows = self._rows_of(number).read(field, self._find(call, number, found.reshape(-1)))
        rows = rows.view(*found.shape, rows.shape[1])
        return rows.squeeze(-2) if found.shape[-1] == 1 else rows.sum(-2)

    @for_tables
    def _write_rows(
        self, table: object, ids: Any, values: Any, slot: object, reset_slots: bool
    ) -> None:
        call = "write_rows"

        def checked() -> tuple[tuple[int, Tensor, dict[str, Tensor]], dict[str, object]]:
            number, config = self._named(call, table)
            remedy = "set all rows with load_state_dict, or checkpoint.load"
            check.refuse_vocabulary(call, config, remedy)
            field = check.field_name(call, config, slot)
            found = check.checked_ids(call, config, ids)
            new = check.checked_values(call, config, field, found, values)
            flat = {field: new.reshape(found.numel(), new.shape[-1])}
            if reset_slots:
                flat |= check.slot_starts(call, config, field, found.numel())
            common = _common(config, slot=slot, reset_slots=bool(reset_slots))
            return (number, found.reshape(-1), flat), common

        with calling(call):
            number, flat_ids, fields = check_together(self.shard.group, call, checked)
            self._rows_of(number).write(call, flat_ids, fields)

    @for_tables
    def _table_weight(self, table: object, start: Any, stop: Any, slot: object) -> Tensor:
        call = "table_weight"

        def checked() -> tuple[tuple[int, str, int, int], dict[str, object]]:
            number, config = self._named(call, table)
            field = check.field_name(call, config, slot)
            begin, end = check.checked_range(call, config, start, stop)
            return (number, field, begin, end), _common(config, slot=slot, start=begin, stop=end)

        with calling(call):
            number, field, begin, end = check_together(self.shard.group, call, checked)
            return self._rows_of(number).span(field, begin, end)

    @for_tables
    def _top_k(
        self, table: object, queries: object, k: Any, start: Any, stop: Any, metric: object
    ) -> tuple[Tensor, Tensor]:
        call = "top_k"

        def checked() -> tuple[tuple[int, Tensor, int, int, int, bool], dict[str, object]]:
            number, config = self._named(call, table)
            check.refuse_vocabulary(
                call, config, "read_rows gives the vectors of ids, to be scored"
            )
            begin, end = check.checked_range(call, config, start, stop)
            count = check.checked_count(call, config, k, begin, end)
            cosine = check.checked_metric(call, metric) == "cosine"
            found = check.checked_queries(call, config, queries)
            common = _common(config, k=count, start=begin, stop=end, metric=metric)
            return (number, found, count, begin, end, cosine), common

        with calling(call):
            number, found, count, begin, end, cosine = check_together(
                self.shard.group, call, checked
            )
            flat = found.reshape(-1, found.shape[-1])
            scores, ids = self._rows_of(number).search(flat, count, begin, end, cosine)
        shape = torch.Size([*found.shape[:-1], count])
        return scores.view(shape), ids.view(shape)

    def _find(self, call: str, number: int, ids: Tensor) -> Tensor:
        """The rows of ids `[N]`, if it takes a map to know them; a collective call then."""
        vocabularies = self._tables.vocabularies
        if vocabularies is None or number not in vocabularies.maps:
            return ids
        return vocabularies.find(number, ids, self.shard.group, call)

    def _named(self, call: str, table: object) -> tuple[int, Table]:
        number = check.table_number(call, self.resolved, table)
        return number, self.resolved.tables[number]

    def _rows_of(self, number: int) -> RowsOfAll:
        return RowsOfAll(self.shard, self.placement, self.resolved.tables[number], number)


def _common(table: Table, **others: object) -> dict[str, object]:
    """The arguments that all processes must give alike, by the words that precede each in a message."""
    found: dict[str, object] = {"the table is": repr(table.name)}
    return found | {f"{name} is": repr(value) for name, value in others.items()}
