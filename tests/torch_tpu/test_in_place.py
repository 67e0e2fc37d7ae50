"""Under torch_tpu every array is updated in place: no program makes anything of a table's size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT, SLOW

pytestmark = pytest.mark.torch_tpu

STEP = """
import json, sys, torch, torch_tpu_embedding as tte
rows, name, steps = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
table = tte.TableConfig(rows, 64, name="t", optimizer=getattr(tte, name)(0.01),
                        initializer=lambda shape, dtype: torch.zeros(shape, dtype=dtype))
features = {"one": tte.FeatureConfig(table), "bag": tte.FeatureConfig(table)}
embedding = tte.TPUEmbedding(features, 32, None, layout=sys.argv[4])
embedding.build()
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
def step():
    ids = {"one": torch.randint(rows, (32,)),
           "bag": tte.Ragged.from_lengths(torch.randint(rows, (96,)), torch.full((32,), 3))}
    embedding.enqueue(ids)
    (sum(each.square().sum() for each in embedding.dequeue().values()) + 1).backward()
    embedding.apply_gradients()
for _ in range(2):
    step()
tte.runtime.sync(wait=True)
before, compiled = peak(), tte.runtime.compile_count()
for _ in range(steps):
    step()
tte.runtime.sync(wait=True)
sizes = [each.numel() for arrays in embedding._tables.engine.store.arrays for each in arrays]
print(json.dumps({"grown": peak() - before, "sizes": sizes,
                  "compiled": tte.runtime.compile_count() - compiled}))
"""


def run(*arguments: object, compiles: bool, dump: Path | None = None) -> dict[str, Any]:
    """The report of a process of its own that takes steps."""
    environment = {**os.environ, "TPU_EMBEDDING_COMPILE": str(int(compiles))}
    if dump is not None:
        environment["XLA_FLAGS"] = f"--xla_dump_to={dump} --xla_dump_hlo_as_text"
    command = [sys.executable, "-c", STEP, *map(str, arguments)]
    process = subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 * SLOW,
        check=True,
    )
    report: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return report


def elements(shape: str) -> int:
    """The number of elements of `f32[8,4]`, without its brackets."""
    count = 1
    for size in filter(None, shape.split(",")):
        count *= int(size)
    return count


@pytest.mark.parametrize(
    ("optimizer", "layout", "compiles"),
    [
        ("SGD", "CPU", False),
        ("Adagrad", "CPU", True),
        ("Adagrad", "TPU", True),
        ("Adagrad", "TPU", False),
        ("Adam", "TPU", True),
        ("FTRL", "CPU", False),
    ],
)
def test_a_program_that_changes_an_array_is_given_its_memory_and_none_copies_one(
    tmp_path: Path, optimizer: str, layout: str, compiles: bool
) -> None:
    report = run(50_000, optimizer, 1, layout, compiles=compiles, dump=tmp_path)
    smallest = min(report["sizes"])
    writers = readers = 0
    for path in tmp_path.glob("*before_optimizations.txt"):
        text = path.read_text()
        head = text.splitlines()[0]
        arguments, results = head.split("entry_computation_layout=")[1].split("->", 1)
        given = [elements(each) for each in re.findall(r"\w+\[([\d,]*)\]", arguments)]
        made = [elements(each) for each in re.findall(r"\w+\[([\d,]*)\]", results)]
        if not any(size >= smallest for size in given):
            continue  # does not see an array, or fills one at the start
        if any(size >= smallest for size in made):
            writers += 1
            assert "buffer_donor" in head or "input_output_alias" in head, head[:300]
            assert " multiply(" not in text, "a pass over the changes"
        else:
            readers += 1
        compiled = path.with_name(
            path.name.replace("before_optimizations", "cpu_after_optimizations")
        )
        copies = re.findall(r"= f32\[([\d,]*)\][^ ]* copy\(", compiled.read_text())
        assert all(elements(each) < smallest for each in copies), compiled.name
    assert writers >= len(set(report["sizes"]))
    assert readers >= 1


@pytest.mark.parametrize("compiles", [False, True])
def test_steps_need_no_memory_of_a_tables_size_and_compile_nothing(compiles: bool) -> None:
    report = run(1_000_000, "Adagrad", 20, "CPU", compiles=compiles)
    table_mb = sum(report["sizes"]) * 4 / 1e6
    assert table_mb > 500
    assert report["grown"] < table_mb / 10
    assert report["compiled"] == 0
