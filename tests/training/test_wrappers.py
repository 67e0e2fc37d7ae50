"""Torch's wrappers around a model (compile, copies, averages, moves): each works, or says what does."""

from __future__ import annotations

import copy
import io
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import DEVICE
from places import DOCS, SLOW
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import torch_tpu_embedding as tte

USERS = tte.TableConfig(10, 3, name="users")
ITEMS = tte.TableConfig(8, 2, name="items", combiner="mean")
FEATURES = {"user": tte.FeatureConfig(USERS), "seen": tte.FeatureConfig(ITEMS)}


def make(device: str | None = None, **options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(FEATURES, 2, tte.Adagrad(0.1), seed=0, device=device, **options)


def batch(user: int = 1) -> dict[str, object]:
    return {"user": torch.tensor([user, 2]), "seen": tte.Ragged.from_lists([[1, 2, 3], []])}


class Model(nn.Module):
    """An embedding and a dense layer, as users write it."""

    def __init__(self, embedding: tte.TPUEmbedding) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = embedding
        self.head = nn.Linear(5, 1).to(embedding.device)

    def forward(self, features: dict[str, object]) -> Tensor:
        rows = self.embedding(features)
        out: Tensor = self.head(torch.cat([rows["user"], rows["seen"]], 1).relu())
        return out


def train(model: nn.Module, call: Callable[[dict[str, object]], Tensor]) -> dict[str, Tensor]:
    """Two steps; gives all that was trained."""
    embedding = model.embedding
    dense = torch.optim.SGD(model.head.parameters(), 0.1)
    tables = tte.EmbeddingOptimizer(embedding)
    for user in (1, 5):
        call(batch(user)).square().sum().backward()
        tables.step()
        dense.step()
        dense.zero_grad()
        tte.runtime.sync()
    return {key: value.cpu() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    model = Model(make())
    return train(model, model)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "openxla"])
def test_a_compiled_model_trains_as_the_model_itself(
    backend: str, trained: dict[str, Tensor]
) -> None:
    torch._dynamo.reset()
    model = Model(make())
    assert_same(train(model, torch.compile(model, backend=backend)), trained)


def test_a_compiled_function_may_hold_the_three_calls(trained: dict[str, Tensor]) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Model(make())
    dense = torch.optim.SGD(model.head.parameters(), 0.1)

    @torch.compile(backend="eager")
    def forward_and_enqueue(features: dict[str, object]) -> Tensor:
        model.embedding.enqueue(features)
        rows = model.embedding.dequeue()
        return model.head(torch.cat([rows["user"], rows["seen"]], 1).relu()).square().sum()

    tables = tte.EmbeddingOptimizer(model.embedding)

    @torch.compile(backend="eager")
    def apply(user: int) -> None:
        if user == 1:
            model.embedding.apply_gradients()
        else:
            tables.step()

    for user in (1, 5):
        forward_and_enqueue(batch(user)).backward()
        apply(user)
        dense.step()
        dense.zero_grad()
        tte.runtime.sync()
    found = {key: value.cpu() for key, value in model.state_dict().items()}
    assert_same(found, trained)
    breaks = torch._dynamo.utils.counters["graph_break"]
    assert breaks, "the calls are no part of a graph"
    assert all("torch.compiler.disable" in reason for reason in breaks), [*breaks]


def test_a_compiled_function_may_hold_accumulation_and_clipping() -> None:
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        model = Model(make())
        tables = tte.EmbeddingOptimizer(model.embedding)

        def step(model: Model = model, tables: tte.EmbeddingOptimizer = tables) -> Tensor:
            model.embedding.freeze("users")
            model.embedding.unfreeze("users")
            for user in (1, 5):
                model(batch(user)).square().sum().backward()
                if user == 1:
                    model.embedding.accumulate_gradients()
            norm = model.embedding.clip_grad_norm_(0.1, dense_parameters=model.head.parameters())
            tables.step()
            model(batch(1)).sum().backward()
            tables.zero_grad()
            model.embedding.discard()
            return norm

        run = torch.compile(step, backend="eager") if compiled else step
        found.append([float(run()), float(run())])
        found[-1].append(float(model.embedding.state_dict()["users.weight"].square().sum()))
    assert found[0] == pytest.approx(found[1])


def test_functions_of_the_user_are_compiled_whatever_decorates_them() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    @torch.no_grad()
    def double(value: Tensor) -> Tensor:
        return value + value

    torch.compile(double, backend="eager", fullgraph=True)(torch.ones(2))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_model_serves_on_the_cpu_as_the_model_itself(backend: str) -> None:
    torch._dynamo.reset()
    model = Model(make("cpu")).eval()
    compiled = torch.compile(model, backend=backend)
    for user in (1, 5):
        torch.testing.assert_close(compiled(batch(user)), model(batch(user)))


def test_the_package_does_not_import_the_compiler() -> None:
    code = "import sys, torch_tpu_embedding; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": lambda value: torch.save(value, io.BytesIO()),
    "AveragedModel": AveragedModel,
}


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("way", [*COPIES])
def test_no_copy_is_made_of_tables_on_a_device(way: str, built: bool) -> None:
    embedding = make()
    if built:
        embedding.build()
    wanted = r"can be neither copied nor pickled.*load state_dict\(\) into another TPUEmbedding"
    for module in (embedding, nn.Sequential(embedding)):
        if way == "copy" and module is not embedding:
            continue  # a shallow copy of a model shares the embedding
        with pytest.raises(TypeError, match=wanted):
            COPIES[way](module)


def test_tables_are_averaged_copied_and_pickled_by_way_of_the_cpu() -> None:
    model = Model(make())
    mirror = make("cpu")
    mirror.load_state_dict(model.embedding.state_dict())
    averaged = AveragedModel(mirror, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    wanted = mirror.state_dict()["users.weight"].clone()
    averaged.update_parameters(mirror)  # the first one copies
    for _ in range(2):
        train(model, model)
        mirror.load_state_dict(model.embedding.state_dict())
        averaged.update_parameters(mirror)
        wanted = 0.5 * wanted + 0.5 * mirror.state_dict()["users.weight"]
    torch.testing.assert_close(averaged.module.embedding_tables[USERS].detach(), wanted)
    for way in ("deepcopy", "pickle"):
        other = COPIES[way](mirror)
        assert torch.equal(other(batch())["seen"], mirror(batch())["seen"])
        assert_same(other.state_dict(), mirror.state_dict())


def test_the_average_that_the_documents_show_runs() -> None:
    text = (DOCS / "wrappers.md").read_text()
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    embedding = make()
    names: dict[str, Any] = {"tte": tte, "features": FEATURES, "embedding": embedding}
    exec(block, names)
    names["update_average"]()
    wanted = embedding.state_dict()["users.weight"]
    assert torch.equal(names["averaged"].module.state_dict()["users.weight"], wanted)


MOVES: dict[str, Callable[[nn.Module], Any]] = {
    "half": lambda module: module.half(),
    "double": lambda module: module.double(),
    "bfloat16": lambda module: module.to(torch.bfloat16),
    "cpu": lambda module: module.cpu(),
    "meta": lambda module: module.to("meta"),
    "to_empty": lambda module: module.to_empty(device="cpu"),
}


@pytest.mark.parametrize("way", [*MOVES])
def test_tables_on_a_device_are_neither_moved_nor_converted(way: str) -> None:
    embedding = make()
    before = embedding.state_dict()
    for module in (embedding, nn.Sequential(embedding)):
        with pytest.raises(
            RuntimeError,
            match=rf"its tables stay torch.float32 on {DEVICE}:0, and cannot",
        ):
            MOVES[way](module)
    assert_same(embedding.state_dict(), before)


def test_moving_a_model_to_where_its_tables_are_changes_nothing_of_them() -> None:
    model = Model(make())
    before = model.embedding.state_dict()
    model.to(model.embedding.device).float().to(dtype=torch.float32)
    assert_same(model.embedding.state_dict(), before)
    serving = make("cpu").cpu().float()
    with pytest.raises(RuntimeError, match="its tables stay where they are on cpu"):
        serving.to(model.embedding.device)
    assert serving.half()(batch())["user"].dtype == torch.float16


def test_functional_call_and_transforms_take_the_tables_of_the_cpu_as_parameters() -> None:
    serving = make("cpu")
    parameters = {key: torch.ones_like(value) for key, value in serving.named_parameters()}
    found = torch.func.functional_call(serving, parameters, (batch(),))
    assert torch.equal(found["user"], torch.ones(2, 3))

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(serving, parameters, (batch(),))["seen"].sum()

    gradient = torch.func.grad(loss)(parameters)["items.weight"]
    wanted = torch.zeros(8, 2)
    wanted[1:4] = 1 / 3
    torch.testing.assert_close(gradient, wanted)


def test_functional_call_replaces_the_dense_parameters_of_a_model_on_the_device() -> None:
    model = Model(make()).eval()
    parameters = {key: torch.zeros_like(value) for key, value in model.named_parameters()}
    found = torch.func.functional_call(model, parameters, (batch(),))
    assert torch.equal(found.cpu(), torch.zeros(2, 1))


def test_a_table_may_have_the_name_of_an_attribute_or_dots() -> None:
    for name in ("device", "training", "a.b", "weight"):
        config = {"f": tte.FeatureConfig(tte.TableConfig(4, 2, name=name))}
        embedding = tte.TPUEmbedding(config, 2, tte.Adagrad(0.1), device="cpu")
        assert [key for key, _ in embedding.named_parameters()] == [f"{name}.weight"]
        keys = {f"{name}.weight", f"{name}.accumulators", "_extra_state"}
        assert embedding.state_dict().keys() == keys
        embedding.load_state_dict(embedding.state_dict())


LATE = """
import threading, torch
import torch_tpu_embedding as tte
torch.ones(1, requires_grad=True).sum().backward()  # autograd counts the devices now
table = tte.TableConfig(10, 4, name="t")
embedding = tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, 2, tte.SGD(1.0), seed=0)
before = embedding.state_dict()["t.weight"]
def step():
    embedding({"f": torch.tensor([1, 2])})["f"].sum().backward()
    embedding.apply_gradients()
    tte.runtime.sync()
step()
thread = threading.Thread(target=step)
thread.start()
thread.join()
moved = before - embedding.state_dict()["t.weight"]
wanted = torch.zeros(10, 4)
wanted[1:3] = 2.0
torch.testing.assert_close(moved, wanted)
"""


def test_a_backward_on_the_host_may_come_before_the_device_is_first_used(tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(LATE)
    subprocess.run([sys.executable, str(script)], check=True, timeout=60 * SLOW)


def test_an_activation_is_changed_in_place_by_way_of_a_copy() -> None:
    found = []
    for device in (None, "cpu"):
        embedding = make(device)
        rows = embedding(batch())["user"]
        if device is None:
            with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
                nn.ReLU(inplace=True)(rows)
        out = nn.ReLU(inplace=True)(rows.clone())
        out.square().sum().backward()
        gradient = rows.grad if device is None else embedding.embedding_tables[USERS].grad[1:3]
        found.append(gradient.cpu())
    torch.testing.assert_close(*found)
