"""The program of a pipelined step: the model's part needs no table, and it is compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch_xla
from torch import Tensor

import torch_tpu_embedding as tte

B = 32


def make(pipelined: bool) -> tte.TPUEmbedding:
    large = tte.TableConfig(1000, 16, name="large", combiner="sum")
    small = tte.TableConfig(60, 8, name="small")
    config = {
        "bags": tte.FeatureConfig(large),
        "sequence": tte.FeatureConfig(large, max_sequence_length=5),
        "dense": tte.FeatureConfig(small),
    }
    return tte.TPUEmbedding(
        config, B, tte.Adagrad(0.1), seed=0, pipeline_execution_with_tensor_core=pipelined
    )


def batch_of(step: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(step)

    def ragged() -> tte.Ragged:
        lengths = torch.randint(0, 9, (B,), generator=random)
        ids = torch.randint(0, 1000, (int(lengths.sum()),), generator=random)
        return tte.Ragged.from_lengths(ids, lengths)

    dense = torch.randint(0, 60, (B,), generator=random)
    return {"bags": ragged(), "sequence": ragged(), "dense": dense}


def loss_of(head: torch.nn.Module, parts: dict[str, Tensor]) -> Tensor:
    x = torch.cat([parts["bags"], parts["sequence"].flatten(1), parts["dense"]], dim=1)
    return torch.tanh(head(x)).square().mean()


def make_head(embedding: tte.TPUEmbedding) -> torch.nn.Module:
    return torch.nn.Linear(16 + 5 * 16 + 8, 1).to(embedding.device)


def arrays_read(embedding: tte.TPUEmbedding, value: Tensor) -> int:
    """How many physical arrays of the tables the program of a traced value takes."""
    text = torch_xla._XLAC._get_xla_tensors_hlo([value])
    parameters = [line for line in text.splitlines() if " parameter(" in line]
    shapes = [a.shape for stack in embedding._tables.engine.store.stacks for a in stack.arrays]
    names = ["f32[{}]".format(",".join(map(str, shape))) for shape in shapes]
    assert parameters
    assert names
    return sum(any(name in line for line in parameters) for name in names)


def test_the_loss_of_a_step_that_was_read_ahead_needs_no_table() -> None:
    for pipelined, expected in ((False, 2), (True, 0)):
        embedding = make(pipelined)
        head = make_head(embedding)
        embedding.enqueue(batch_of(0))
        for step in range(3):
            embedding.enqueue(batch_of(step + 1))
            loss = loss_of(head, embedding.dequeue())
            loss.backward()
            if step > 0:
                assert arrays_read(embedding, loss) == expected
                gradient = head.weight.grad
                assert gradient is not None
                assert arrays_read(embedding, gradient) == expected
            embedding.apply_gradients()
            head.zero_grad()
            del loss
            gradient = None
            tte.runtime.sync()


def test_nothing_is_compiled_after_two_epochs_of_ragged_batches_with_evaluation() -> None:
    embedding = make(pipelined=True)
    embedding.enable_metrics(every=7)
    head = make_head(embedding)

    def evaluate(step: int) -> None:
        embedding.eval()
        with torch.no_grad():
            loss = loss_of(head, embedding(batch_of(10_000 + step)))
        tte.runtime.sync()
        assert torch.isfinite(loss.cpu())
        embedding.train()

    def epoch(first: int, count: int) -> list[int]:
        """Programs compiled so far, after each step."""

        def batches() -> Iterator[dict[str, Any]]:
            yield from map(batch_of, range(first, first + count))

        compiled = []
        for step, _ in enumerate(tte.EmbeddingLoader(batches(), embedding)):
            loss_of(head, embedding.dequeue()).backward()
            embedding.apply_gradients()
            head.zero_grad()
            tte.runtime.sync()
            if step % 10 == 9:
                evaluate(step)
            compiled.append(tte.runtime.compile_count())
        return compiled

    first, second, third = epoch(0, 25), epoch(25, 25), epoch(50, 65)
    # The step after an evaluation has no update to apply, the last of an epoch no batch to read ahead.
    assert first[12:-1] == [first[12]] * 12
    # The first step of another epoch applies what the end of the one before held back.
    assert second == [first[-1] + 1] * 25
    assert third == [second[-1]] * 65
