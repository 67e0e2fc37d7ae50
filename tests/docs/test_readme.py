"""README.md and docs/: their Python runs as it stands, and what they link or name is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import DEVICE
from places import ROOT

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
Names = dict[str, Any]


def blocks_of(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_readmes_python_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = blocks_of("README.md")
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)  # it saves a checkpoint
    names: Names = {}
    for block in blocks:
        exec(block, names)
    assert float(names["loss"].cpu()) >= 0


def at_hand(dim: int = 32, **more: tte.TableConfig) -> Names:
    """Names that the examples of docs/ take for granted: an embedding of 'user' and more, a model, …"""
    tables = {"user": tte.TableConfig(200, dim, name="user"), **more}
    features = {name: tte.FeatureConfig(table) for name, table in tables.items()}
    embedding = tte.TPUEmbedding(features, batch_size=2, optimizer=tte.Adagrad(0.05))
    head = torch.nn.Linear(dim, 1).to(embedding.device)
    ids = {name: torch.tensor([7, 4]) for name in tables}

    def loss() -> torch.Tensor:
        return head(sum(embedding(ids).values())).square().mean()

    def step() -> None:
        loss().backward()
        embedding.apply_gradients()
        tte.runtime.sync()

    return {
        "torch": torch, "tte": tte, "checkpoint": checkpoint, "features": features, "ids": ids,
        "embedding": embedding, "head": head, "model": head, "loss": loss, "step": step,
    }  # fmt: skip


def save_and_load(blocks: list[str]) -> None:
    names = at_hand()
    exec(blocks[0], names)
    assert names["loaded"].extra["batch"] == 1000


def go_back(blocks: list[str]) -> None:
    names = at_hand()
    for step in (100, 110, 120):
        checkpoint.save(names["embedding"], "run", step)
    exec(blocks[1], names)
    assert checkpoint.complete_steps("run") == [100, 110]


def read_without_an_embedding(blocks: list[str]) -> None:
    names = at_hand(64)
    checkpoint.save(names["embedding"], "run", 1)
    exec(blocks[2], {**names, "array": torch.ones(4, 3).numpy()})
    assert Path("user.npy").exists()
    with checkpoint.open("start") as reader:
        assert reader.read("user", "weight", 0, 4).sum() == 12


def import_weights(blocks: list[str]) -> None:
    names = at_hand(item=tte.TableConfig(20, 32, name="item"))
    user, item = torch.nn.Embedding(200, 32), torch.nn.EmbeddingBag(20, 32)
    torchrec = torch.nn.Module()
    torchrec.ebc = torch.nn.Module()
    torchrec.ebc.embedding_bags = torch.nn.ModuleDict({"user": user, "item": item})
    dlrm = {"emb_l.0.weight": user.weight.detach(), "emb_l.1.weight": item.weight.detach()}
    given = {"torchrec_model": torchrec, "dlrm_state": dlrm, "nn_embedding": user}
    exec(blocks[3], {**names, **given, "state": {"user_table.weight": user.weight.detach()}})
    found = names["embedding"].state_dict()
    torch.testing.assert_close(found["user.weight"], user.weight.detach())
    torch.testing.assert_close(found["item.weight"], item.weight.detach())


def import_adagrad(blocks: list[str]) -> None:
    names = at_hand()
    w = torch.nn.Parameter(torch.ones(200, 32))
    optimizer = torch.optim.Adagrad([w], lr=0.0)
    w.sum().backward()
    optimizer.step()
    exec(blocks[4], {**names, "w": w, "optimizer": optimizer})
    state = names["embedding"].state_dict()
    assert state["user.weight"].eq(1).all()
    assert state["user.accumulators"].eq(1).all()


def train_in_processes(blocks: list[str]) -> None:
    names = at_hand(64)
    script, end = blocks[0].split("distributed.shutdown()")
    exec(script, names)
    names["step"](torch.arange(1024) % 200, torch.ones(1024))
    names["activations"] = names["embedding"]({"user": torch.arange(1024) % 200})
    names["activations"]["user"].sum().backward()
    exec(blocks[1], names)
    assert float(names["norm"].cpu()) > 0
    exec(f"distributed.shutdown(){end}", names)


def pipeline(blocks: list[str]) -> None:
    names = at_hand()
    given = {"config": names["features"], "batch_size": 2, "optimizer": tte.Adagrad(0.05)}
    exec(blocks[0], {**names, **given})
    batches = [{"ids": names["ids"], "labels": torch.ones(2)}] * 3
    before = names["embedding"].state_dict()["user.weight"]
    trained = "    activations['user'].sum().backward()\n"
    exec(blocks[1].replace("    ...\n", trained), {**names, "batches": batches})
    assert not torch.equal(before, names["embedding"].state_dict()["user.weight"])
    exec(blocks[2].replace("...\n", "step()\n"), names)
    exec(blocks[3], names)
    assert Path("steps.json").exists()


def average(blocks: list[str]) -> None:
    names = at_hand()
    exec(blocks[0], names)
    names["update_average"]()
    found = names["averaged"].module.state_dict()["user.weight"]
    torch.testing.assert_close(found, names["embedding"].state_dict()["user.weight"])


def read_write_and_search(blocks: list[str]) -> None:
    names = at_hand()
    for block in blocks:
        exec(block, names)
    assert names["rows"].shape == (2, 2, 32)
    assert names["weight"][[7, 42]].eq(0).all()
    assert torch.equal(names["part"], names["weight"][100:150])
    assert names["best"].shape == (10,)
    assert not torch.isin(names["best"], names["seen"]).any()


def replay(blocks: list[str]) -> None:
    names = at_hand()
    head, embedding = names["head"], names["embedding"]
    names |= {
        "model": lambda numbers, rows: head(rows["user"]) + numbers,
        "dense_optimizer": tte.dense_optimizers.SGD(head.parameters(), 0.1),
        "embedding_optimizer": tte.EmbeddingOptimizer(embedding),
        "loader": tte.EmbeddingLoader(
            [names["ids"]] * 12, embedding, prepare=lambda _: embedding.to_device(torch.ones(2, 1))
        ),
    }
    exec(blocks[0], names)
    assert (names["step"].replayed > 0) == (DEVICE == "xla")  # under torch_tpu it runs as it is
    assert torch.isfinite(names["loss"].cpu())


CHECKPOINTS = "docs/checkpoints.md"
CASES: list[tuple[str, Callable[[list[str]], None]]] = [
    (CHECKPOINTS, save_and_load),
    (CHECKPOINTS, go_back),
    (CHECKPOINTS, read_without_an_embedding),
    (CHECKPOINTS, import_weights),
    (CHECKPOINTS, import_adagrad),
    ("docs/distributed.md", train_in_processes),
    ("docs/pipelining.md", pipeline),
    ("docs/replay.md", replay),
    ("docs/tables.md", read_write_and_search),
    ("docs/wrappers.md", average),
]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[case.__name__ for _, case in CASES])
def test_the_python_blocks_of_docs_run(
    name: str, case: Callable[[list[str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case(blocks_of(name))


def test_no_block_of_docs_was_added_without_a_case_that_runs_it() -> None:
    """Two need a library of their own, and are run by none: TensorFlow's `restore` in checkpoints.md (it is
    tested by test_tensorflow.py), Lightning's module in wrappers.md (by test_training_libraries.py). The
    blocks of all other pages run in their order: test_pages.py."""
    assert {name: len(blocks_of(name)) for name, _ in CASES} == {
        "docs/checkpoints.md": 6,
        "docs/distributed.md": 2,
        "docs/pipelining.md": 4,
        "docs/replay.md": 1,
        "docs/tables.md": 4,
        "docs/wrappers.md": 2,
    }


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_documents_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # it names what is gone, too
    named = re.findall(
        r"\b((?:tests|scripts|examples|docs|torch_tpu_embedding)/[\w/]+\.\w+)\b", path.read_text()
    )
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_readme_links_every_document() -> None:
    """None is found by chance only; those of lab/ are linked from their summaries."""
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{path.name})" in readme, path.name
