"""torch's global state (default dtype and device, modes of the caller) changes nothing in the tables."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._device
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

Mode = Callable[[], AbstractContextManager[Any]]

PACKAGE = Path(tte.__file__).parent
FACTORIES = {made.__name__ for made in torch.utils._device._device_constructors()} | {"frombuffer"}
TAKES_NO_DEVICE = {"frombuffer"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_every_factory_call_of_the_package_names_dtype_and_device(path: Path) -> None:
    loose = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        if name not in FACTORIES or owner not in ("torch", "torch.nested"):
            continue
        named = {keyword.arg for keyword in node.keywords}
        wanted = {"dtype", "device"} - ({"device"} if name in TAKES_NO_DEVICE else set())
        if not wanted <= named:
            loose.append(f"{path}:{node.lineno}: torch.{name} without {sorted(wanted - named)}")
    assert not loose, "\n".join(loose)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic_algorithms() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Mode] = {
    "float64": partial(default_dtype, torch.float64),
    "bfloat16": partial(default_dtype, torch.bfloat16),
    "default device xla": partial(default_device, tte.runtime.device_type()),
    "default device meta": partial(default_device, "meta"),
    "within device meta": partial(torch.device, "meta"),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast of the host": partial(torch.autocast, "cpu", torch.bfloat16),
    "autocast of the device": partial(torch.autocast, tte.runtime.device_type(), torch.bfloat16),
    "deterministic algorithms": deterministic_algorithms,
}


def noise(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def config() -> tuple[tte.FeatureConfig, ...]:
    """Tables of all kinds of start values and updates, features of all kinds of combining."""
    tables = [
        tte.TableConfig(9, 3, name="a", combiner="mean", optimizer=tte.Adam(0.1), initializer=noise),
        tte.TableConfig(7, 2, name="b", combiner="sqrtn", optimizer=tte.FTRL(0.1)),
        tte.TableConfig(5, 2, name="c", initializer=torch.zeros, optimizer=tte.AdagradMomentum(0.1)),
        tte.TableConfig(
            6, 4, name="d", optimizer=tte.RowWiseAdagrad(0.1),
            quantization_config=tte.QuantizationConfig(16, -1.0, 1.0),
        ),
        tte.TableConfig(
            4, 2, name="e", initializer=torch.nn.init.ones_,
            optimizer=tte.SGD(0.1, use_gradient_accumulation=False),
        ),
    ]  # fmt: skip
    lengths = (0, 0, 2, 0, 0)
    return tuple(
        tte.FeatureConfig(table, name=table.name, max_sequence_length=length)
        for table, length in zip(tables, lengths, strict=True)
    )


def batch() -> tuple[tuple[object, ...], tuple[object, ...]]:
    rows = [[[1, 2], [3]], [[0], [1, -1, 3]], [[1], [4, 0, 1]], [[5], [2]], [[1, 1], [3, 1]]]
    weights = tte.Ragged.from_lists([[1.5, -0.5], [2.0]], dtype=torch.float32)
    return tuple(tte.Ragged.from_lists(each) for each in rows), (weights, *[None] * 4)


class Life:
    """All that users do with an embedding, each call within what `mode` gives, but for their own model."""

    def __init__(self, directory: Path, pipelined: bool) -> None:
        self.directory = directory
        self.pipelined = pipelined
        self.seen: dict[str, object] = {}

    def make(self, device: str | None = None) -> tte.TPUEmbedding:
        return tte.TPUEmbedding(
            config(), 2, None, seed=0, id_bounds="drop", device=device,
            pipeline_execution_with_tensor_core=self.pipelined and device is None,
        )  # fmt: skip

    def run(self, early: Mode, late: Mode) -> dict[str, object]:
        """`early` is the mode while the tables are made and first read, `late` that of all other calls."""
        with early():
            embedding = self.make()
            embedding.build()
            embedding.enable_metrics(every=1)
            embedding.eval()
            self.see("before", embedding(*batch()))
        embedding.train()
        self.train(embedding, late)
        with late():
            checkpoint.save(embedding, self.directory, 1)
            embedding.eval()
            self.see("trained", embedding(*batch()))
        self.train(embedding.train(), late)
        with late():
            checkpoint.save(embedding, self.directory, 2, since=1)
            embedding.load_state_dict(embedding.state_dict())
            self.seen["metrics"] = embedding.metrics()["tables"]
        self.train(embedding, late)
        with late():
            checkpoint.load(embedding, self.directory, 2)
        self.train(embedding, late)
        with early():
            serving = self.make("cpu")
        with late():
            serving.load_state_dict(embedding.state_dict())
            checkpoint.save(serving, self.directory, 3)
            self.see("served", serving(*batch()))
            self.seen |= embedding.state_dict()
        return self.seen

    def train(self, embedding: tte.TPUEmbedding, mode: Mode) -> None:
        for _ in range(2):
            with mode():
                embedding.enqueue(*batch())
                activations = embedding.dequeue()
            gradients = tuple(0.5 * each.detach() + 1 for each in activations)
            with mode():
                embedding.apply_gradients(gradients)
                tte.runtime.sync()

    def see(self, when: str, activations: tuple[Tensor, ...]) -> None:
        for number, each in enumerate(activations):
            self.seen[f"{when} {number}"] = each.detach().cpu()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, object]]:
    """The numbers that are seen where nothing is switched on, pipelined or not."""
    nothing = contextlib.nullcontext
    return {
        pipelined: Life(tmp_path_factory.mktemp("run"), pipelined).run(nothing, nothing)
        for pipelined in (False, True)
    }


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("name", [*MODES])
def test_tables_and_checkpoints_are_the_same_in_every_mode_of_the_caller(
    name: str, when: str, plain: dict[bool, dict[str, object]], tmp_path: Path
) -> None:
    nothing, mode = contextlib.nullcontext, MODES[name]
    pipelined = name in ("inference_mode", "no_grad")
    life = Life(tmp_path, pipelined)
    seen = life.run(mode, nothing) if when == "early" else life.run(nothing, mode)
    assert seen.keys() == plain[pipelined].keys()
    for key, value in plain[pipelined].items():
        if isinstance(value, Tensor):
            assert isinstance(seen[key], Tensor)
            assert seen[key].dtype == value.dtype, key
            assert torch.equal(seen[key], value), key
        else:
            assert seen[key] == value, key


def test_what_an_initializer_of_the_user_makes_is_of_the_host_whatever_the_default_device() -> None:
    with default_device(tte.runtime.device_type()):
        embedding = tte.TPUEmbedding(config(), 2, None, seed=0, id_bounds="drop")
        assert embedding.state_dict()["a.weight"].device.type == "cpu"


@pytest.mark.parametrize("built", [False, True])
def test_a_transform_of_torch_func_is_told_to_take_activations(built: bool) -> None:
    embedding = tte.TPUEmbedding(config(), 2, None, seed=0, id_bounds="drop")
    if built:
        embedding.build()
    scale = torch.ones((), device=embedding.device)

    def loss(scale: Tensor, activations: tuple[Tensor, ...] | None = None) -> Tensor:
        rows = embedding(*batch()) if activations is None else activations
        return scale * sum(each.square().sum() for each in rows)

    with pytest.raises(RuntimeError, match=r"inside a transform of torch.func .*look up before it"):
        torch.func.grad(loss)(scale)
    before = embedding.state_dict()
    activations = embedding(*batch())
    of_scale, gradients = torch.func.grad(loss, argnums=(0, 1))(scale, activations)
    embedding.apply_gradients(gradients)
    tte.runtime.sync()
    assert float(of_scale.detach()) > 0
    assert not torch.equal(before["a.weight"], embedding.state_dict()["a.weight"])


@pytest.mark.parametrize("pipelined", [False, True])
def test_in_inference_mode_a_batch_may_have_any_number_of_samples(pipelined: bool) -> None:
    config = {"id": tte.FeatureConfig(tte.TableConfig(9, 2, name="rows"))}
    embedding = tte.TPUEmbedding(
        config, 2, tte.SGD(1.0), pipeline_execution_with_tensor_core=pipelined
    )
    rows = embedding.state_dict()["rows.weight"]
    embedding.eval()
    for count in (3, 1, 0, 2):
        with torch.inference_mode():
            found = embedding({"id": torch.arange(count)})["id"].cpu()
        assert torch.equal(found, rows[:count])
    embedding.train()({"id": torch.tensor([0, 1])})["id"].sum().backward()
    embedding.apply_gradients()
    assert torch.equal(embedding.state_dict()["rows.weight"][:2], rows[:2] - 1.0)


@pytest.mark.parametrize("given", [False, True])
def test_gradients_accumulated_and_clipped_in_inference_mode_are_usual_ones(given: bool) -> None:
    config = {"id": tte.FeatureConfig(tte.TableConfig(9, 2, name="rows"))}
    embedding = tte.TPUEmbedding(config, 2, tte.SGD(1.0))
    rows = embedding.state_dict()["rows.weight"]
    for call in (embedding.accumulate_gradients, lambda: embedding.clip_grad_norm_(100.0)):
        found = embedding({"id": torch.tensor([0, 1])})["id"]
        found.sum().backward()
        gradient = {"id": torch.ones_like(found)} if given else None
        with torch.inference_mode():
            if call == embedding.accumulate_gradients:
                call(gradient)
            else:
                call()
        found.sum().backward()  # on both: what is kept may still grow
    embedding.apply_gradients()
    assert torch.equal(embedding.state_dict()["rows.weight"][:2], rows[:2] - 4.0)
