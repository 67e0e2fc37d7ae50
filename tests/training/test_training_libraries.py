"""Lightning and Accelerate train an embedding as a loop of one's own does. Needs the extra `wrappers`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backends import DEVICE
from torch import Tensor, nn

import torch_tpu_embedding as tte

STEPS = [{"user": torch.tensor([1, 2])}, {"user": torch.tensor([2, 5])}]


class Model(nn.Module):
    """An embedding and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = {"user": tte.FeatureConfig(tte.TableConfig(10, 3, name="users"))}
        self.embedding = tte.TPUEmbedding(config, 2, tte.Adagrad(0.1), seed=0)
        self.head = nn.Linear(3, 1).to(self.embedding.device)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.head(self.embedding(features)["user"]).square().sum()
        return out

    def optimizers(self) -> tuple[tte.EmbeddingOptimizer, torch.optim.Optimizer]:
        dense = torch.optim.SGD(self.head.parameters(), 0.1)
        return tte.EmbeddingOptimizer(self.embedding), dense


@pytest.fixture
def trained() -> dict[str, Tensor]:
    """The numbers that a loop of one's own gives."""
    model = Model()
    tables, dense = model.optimizers()
    for features in STEPS:
        model(features).backward()
        tables.step()
        dense.step()
        dense.zero_grad()
        tte.runtime.sync()
    return state_of(model)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.cpu() for key, value in model.state_dict().items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, msg=key)


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_trains_it_and_averages_no_activation(
    processes: int, trained: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerate = pytest.importorskip("accelerate")
    averaged: list[torch.Size] = []

    def all_reduce(kind: str, values: list[Tensor], **_: Any) -> None:
        averaged.extend(each.shape for each in values)

    if processes > 1:
        import torch_xla.core.xla_model as xm
        import torch_xla.runtime as xr

        monkeypatch.setattr(xr, "world_size", lambda: processes)
        monkeypatch.setattr(xm, "all_reduce", all_reduce)
    accelerator = accelerate.Accelerator()
    model = Model()
    wrapped, tables, dense = accelerator.prepare(model, *model.optimizers())
    for features in STEPS:
        accelerator.backward(wrapped(features))
        tables.step()
        dense.step()
        tables.zero_grad()
        dense.zero_grad()
        tte.runtime.sync()
    assert_same(state_of(accelerator.unwrap_model(wrapped)), trained)
    if processes > 1:
        assert set(averaged) == {torch.Size([1, 3]), torch.Size([1])}, "the dense layer's alone"


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_it_by_hand_where_the_module_stays_on_its_device(
    trained: dict[str, Tensor], tmp_path: Any
) -> None:
    lightning = pytest.importorskip("lightning")
    trainer, module = make_lightning(lightning)
    data = torch.utils.data.DataLoader(STEPS, batch_size=None)
    with pytest.raises(RuntimeError, match=rf"its tables stay torch\.float32 on {DEVICE}:0"):
        lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit(
            module, data
        )
    trainer.fit(module, data)
    found = {key.removeprefix("model."): value for key, value in state_of(module).items()}
    assert_same(found, trained)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert_same(
        {k.removeprefix("model."): v.cpu() for k, v in saved["state_dict"].items()}, trained
    )


def make_lightning(lightning: Any) -> tuple[Any, Any]:
    """A trainer for the device of the embedding, and a module as docs/distributed.md shows it."""
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy

    class Anywhere(CPUAccelerator):  # type: ignore[misc]
        """Lightning's accelerator for XLA takes nothing but a TPU."""

        def setup_device(self, device: torch.device) -> None:
            pass

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()
            self.automatic_optimization = False

        def training_step(self, features: dict[str, Tensor], number: int) -> None:
            tables, dense = self.optimizers()
            self.manual_backward(self.model(features))
            tables.step()
            dense.step()
            dense.zero_grad()
            tte.runtime.sync()

        def configure_optimizers(self) -> Any:
            return self.model.optimizers()

        def transfer_batch_to_device(self, batch: Any, device: torch.device, loader: int) -> Any:
            return batch  # ids are for the host

        def cpu(self) -> Any:
            return self  # Lightning calls it at the end; tables stay on their device

    module = Module()
    strategy = SingleDeviceStrategy(module.model.embedding.device, accelerator=Anywhere())
    trainer = lightning.Trainer(
        max_epochs=1, strategy=strategy, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    return trainer, module
