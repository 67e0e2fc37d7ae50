"""A small model with its tables, and the same run of it twice: traced as ever, and replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import torch_tpu_embedding as tte

BATCH = 8
Step = Callable[..., Any]


def dense_optimizer(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of torch by a short name, or of `tte.dense_optimizers` by its own."""
    parameters = [*model.parameters()]
    if kind in ("SGD", "Adagrad", "Adam", "AdamW"):
        options = {"momentum": 0.9} if kind == "SGD" else {}
        made: torch.optim.Optimizer = getattr(tte.dense_optimizers, kind)(
            parameters, 0.01, **options
        )
        return made
    if kind == "sgd":
        return torch.optim.SGD(parameters, 0.01)
    if kind == "momentum":
        return torch.optim.SGD(parameters, 0.01, momentum=0.9)
    if kind == "adagrad":
        return torch.optim.Adagrad(parameters, 0.01)
    return torch.optim.Adam(parameters, 0.01, capturable=kind == "adam")


class Case:
    """Two tables and an MLP, with batches that are the same for every case of one seed.

    Args:
        dense: names the dense optimizer.
        ragged: the second feature has bags of any number of ids, so that sizes vary.
        dtype, slot_dtype: of the tables. output_dtype: of the activations.
        options: of TPUEmbedding.
    """

    def __init__(
        self,
        dense: str = "adagrad",
        dropout: float = 0.0,
        tables: tte.optimizers.Optimizer | None = None,
        ragged: bool = False,
        dtype: torch.dtype = torch.float32,
        slot_dtype: torch.dtype = torch.float32,
        output_dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.ragged = ragged
        one, two = (
            tte.TableConfig(rows, 4, name=name, dtype=dtype, slot_dtype=slot_dtype)
            for name, rows in (("one", 30), ("two", 50))
        )
        features = {
            key: tte.FeatureConfig(table, output_dtype=output_dtype)
            for key, table in (("x", one), ("y", two))
        }
        rule = tables or tte.Adagrad(0.1)
        self.embedding = tte.TPUEmbedding(features, BATCH, rule, seed=0, **options)
        self.embedding_optimizer = tte.EmbeddingOptimizer(self.embedding)
        layers = [nn.Linear(11, 6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 1)]
        self.model = nn.Sequential(*layers).to(self.embedding.device)
        self.dense_optimizer = dense_optimizer(dense, self.model)
        self.draws = torch.Generator().manual_seed(0)
        tte.runtime.manual_seed(5)
        self.embedding.build()
        tte.runtime.sync()

    def features(self, most: int = 4) -> dict[str, Any]:
        """The ids of a batch."""
        dense = torch.randint(0, 30, (BATCH,), generator=self.draws)
        if not self.ragged:
            return {"x": dense, "y": torch.randint(0, 50, (BATCH,), generator=self.draws)}
        lengths = torch.randint(0, most + 1, (BATCH,), generator=self.draws).tolist()
        ids = [torch.randint(0, 50, (n,), generator=self.draws).tolist() for n in lengths]
        return {"x": dense, "y": tte.Ragged.from_lists(ids)}

    def next(self, most: int = 4) -> Tensor:
        """Enqueue a batch; gives its labels and dense features `[B, 4]`."""
        self.embedding.enqueue(self.features(most))
        numbers: Tensor = self.embedding.to_device(torch.randn(BATCH, 4, generator=self.draws))
        return numbers

    def loss(self, numbers: Tensor) -> Tensor:
        """The loss of the next batch, not yet detached."""
        rows = self.embedding.dequeue()
        inputs = torch.cat([numbers[:, 1:], rows["x"], rows["y"]], dim=1)
        return (self.model(inputs)[:, 0] - numbers[:, 0]).square().mean()

    def update(self, loss: Tensor) -> Tensor:
        """Backward and a step of each optimizer; gives the loss, detached."""
        loss.backward()  # type: ignore[no-untyped-call]
        self.dense_optimizer.step()
        self.embedding_optimizer.step()
        self.dense_optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def step(self, numbers: Tensor) -> Tensor:
        """A whole step, as a user writes it."""
        return self.update(self.loss(numbers))

    def state(self) -> dict[str, Any]:
        """All that training changes: tables, slots, weights, optimizer states, rates, the device's seed."""
        found: dict[str, Any] = {**self.embedding.state_dict()}
        found |= {f"model.{key}": value for key, value in self.model.state_dict().items()}
        optimizer = self.dense_optimizer
        for number, state in enumerate(optimizer.state.values()):
            found |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
        for number, parameter in enumerate(self.model.parameters()):
            found[f"gradient.{number}"] = parameter.grad
        groups = [*optimizer.param_groups, *self.embedding_optimizer.param_groups]
        found["rates"] = [group["lr"] for group in groups]
        # Arrays, at the end, differ in size from case to case: no two of a process have the same.
        found["describe"] = self.embedding.describe().split("\n\n")[:-1]
        noise = torch.rand(4, device=self.embedding.device)
        found["noise"] = noise.cpu()
        return {
            key: value.detach().cpu().clone() if isinstance(value, Tensor) else value
            for key, value in found.items()
        }


@dataclass
class Run:
    """Results of a run."""

    case: Case
    losses: list[Any] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    compiles: list[int] = field(default_factory=list)
    step: Any = None
    """The replayed step; None if the run was traced."""


def run(
    replayed: bool,
    make: Callable[[Case], Step] = lambda case: case.step,
    between: Callable[[Case, int], object] = lambda case, k: None,
    steps: int = 24,
    verify: int = 3,
    check_every: int = 8,
    most: Callable[[int], int] = lambda k: 4,
    arguments: Callable[[int], tuple[Any, ...]] = lambda k: (),
    modules: Callable[[Case], list[nn.Module]] = lambda case: [],
    **options: Any,
) -> Run:
    """Train a case.

    Args:
        make: gives the step's function. between: is called before step k. most: of ids in a bag in step k.
        arguments: of the function in step k, besides the numbers.
    """
    case = Case(**options)
    found = Run(case)
    function = make(case)
    if replayed:
        found.step = tte.replay(
            function,
            case.embedding,
            modules=modules(case),
            verify=verify,
            check_every=check_every,
        )
    for k in range(steps):
        between(case, k)
        numbers = case.next(most(k))
        if replayed:
            loss = found.step(numbers, *arguments(k))
        else:
            loss = function(numbers, *arguments(k))
            tte.runtime.sync()
        found.losses.append(loss)
        found.compiles.append(tte.runtime.compile_count())
    found.losses = [each.cpu() if isinstance(each, Tensor) else each for each in found.losses]
    found.state = case.state()
    return found


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Equal, tensors bit for bit."""
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor), place
        assert (one.dtype, one.shape) == (other.dtype, other.shape), place
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{place}/{number}")
    else:
        assert one == other, place


def twins(**options: Any) -> tuple[Run, Run]:
    """A traced and a replayed run, whose losses and state are found to be equal bit for bit."""
    traced, replayed = run(False, **options), run(True, **options)
    assert_same(traced.losses, replayed.losses, "loss")
    assert_same(traced.state, replayed.state)
    return traced, replayed


class UnseenCount:
    """Counts where replay does not look: under a name that its code puts together."""

    def __init__(self) -> None:
        vars(self)["_".join(("this", "one"))] = 0

    def __next__(self) -> int:
        name = "_".join(("this", "one"))
        vars(self)[name] += 1
        found: int = vars(self)[name]
        return found
