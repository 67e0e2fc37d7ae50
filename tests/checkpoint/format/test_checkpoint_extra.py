"""A caller's extra value comes back as it was, numpy included; one that cannot be taken is named."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.checkpoint_fakes import FakeEmbedding, table
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format.extra import _NUMPY, pack, unpack

DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", ">f4", ">i8"]
SCALARS = st.sampled_from(
    [np.bool_(True), np.int8(-3), np.uint64(2**64 - 1), np.float16(0.1), np.float32(0.1),
     np.float64("nan"), np.float64(np.inf), np.complex64(1 + 2j), np.str_("né"), np.bytes_(b"\xff")]
)  # fmt: skip
ARRAYS = st.builds(
    lambda dtype, shape: (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype),
    st.sampled_from(DTYPES), st.sampled_from([(), (0,), (3,), (2, 3)]),
)  # fmt: skip
LEAVES = SCALARS | ARRAYS | st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    LEAVES | st.builds(lambda n: torch.arange(n), st.integers(0, 3)),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=2) | st.integers() | st.just(_NUMPY), inner, max_size=3),
    max_leaves=8,
)


def there_and_back(extra: Any, folder: Path) -> Any:
    path = folder / "extra.pt"
    path.write_bytes(pack(extra))
    return unpack(path)


def assert_equal(found: Any, wanted: Any) -> None:
    """Types and bits."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert [*found] == [*wanted]
        for key in wanted:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, (np.ndarray, np.generic)):
        assert found.dtype == wanted.dtype.newbyteorder("=")
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
    else:
        assert found == wanted or (found != found and wanted != wanted)


@settings(max_examples=30)
@given(extra=VALUES)
def test_what_is_saved_comes_back_types_included(
    tmp_path_factory: pytest.TempPathFactory, extra: Any
) -> None:
    assert_equal(there_and_back(extra, tmp_path_factory.mktemp("extra")), extra)


def test_a_metric_of_numpy_goes_through_save_and_load(tmp_path: Path) -> None:
    tables = [table("t", 2, 2)]
    extra = {"epoch": 1, "auc": np.mean([0.7, 0.8]), "curve": np.linspace(0, 1, 5)[::-2]}
    checkpoint.save(FakeEmbedding(tables), tmp_path, 1, extra)
    assert_equal(checkpoint.load(FakeEmbedding(tables), tmp_path).extra, extra)
    with checkpoint.open(tmp_path) as reader:
        assert_equal(reader.extra(), extra)


def test_the_state_of_numpys_and_torchs_generators_comes_back(tmp_path: Path) -> None:
    one, other = np.random.RandomState(3), np.random.RandomState(4)
    rng = np.random.default_rng(3)
    found = there_and_back(
        {"old": one.get_state(), "new": rng.bit_generator.state, "torch": torch.get_rng_state()},
        tmp_path,
    )
    other.set_state(found["old"])
    assert other.rand() == one.rand()
    again = np.random.default_rng(9)
    again.bit_generator.state = found["new"]
    assert again.random() == rng.random()
    torch.set_rng_state(found["torch"])


def test_numbers_of_numpy_as_keys_find_the_same(tmp_path: Path) -> None:
    counts = {np.int64(3): 7, np.float32(0.1): np.int64(8)}
    found = there_and_back(counts, tmp_path)
    assert {type(key) for key in found} == {int, float}
    assert found == counts


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Progress:
    step: int


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Path("x"), "pathlib.PosixPath"),
        (Point(1, 2), f"{__name__}.Point"),
        (Progress(3), f"{__name__}.Progress"),
        (lambda: 3, "function"),
        (np.array([None, "x"]), "numpy.ndarray of dtype object"),
        (np.array(["x"]), "numpy.ndarray of dtype <U1"),
        (np.array(["2026-01-01"], "M8[D]"), "numpy.ndarray of dtype datetime64[D]"),
        (np.datetime64("2026-01-01"), "numpy.datetime64 of dtype datetime64[D]"),
        (np.longdouble(1), "numpy.longdouble of dtype float128"),
        (np.ma.masked_array([1.0], [True]), "numpy.ma.MaskedArray of dtype float64"),
        (np.random.default_rng(0), "numpy.random._generator.Generator"),
        ({Path("k"): 1}, "pathlib.PosixPath"),
    ],
)
def test_what_cannot_be_taken_is_named_with_its_way_and_type(
    tmp_path: Path, value: Any, kind: str
) -> None:
    extra = {"model": {"w": torch.zeros(2)}, "loop": [1, {"best": value}]}
    with pytest.raises(ValueError) as caught:
        checkpoint.save(FakeEmbedding([table("t", 2, 2)]), tmp_path, 1, extra)
    text = str(caught.value)
    assert text.startswith(
        "extra must hold tensors, numbers, strings, numpy's numbers and arrays of them"
    )
    assert f"extra['loop'][1]['best'] is, or has as a key, a {kind}" in text.replace(
        "numpy.ma.core", "numpy.ma"
    )
    assert not re.search(r"\x1b|torch\.load|weights_only|numpy\._core", text)
    assert checkpoint.complete_steps(tmp_path) == []


def test_remedies_work(tmp_path: Path) -> None:
    for value in (dict(Point(1, 2)._asdict()), dataclasses.asdict(Progress(3)), str(Path("x"))):
        assert_equal(there_and_back({"best": value}, tmp_path), {"best": value})


def test_a_structure_that_holds_itself_or_is_too_deep_is_an_error() -> None:
    circle: dict[str, Any] = {"a": [1]}
    circle["a"].append(circle)
    with pytest.raises(ValueError, match=re.escape("extra['a'][1] holds itself")):
        pack(circle)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="extra: nested too deeply to be written"):
        pack(deep)
    twice = [1]
    assert pack([twice, twice])


def test_a_tensor_without_values_is_an_error_that_names_it() -> None:
    with pytest.raises(
        ValueError, match=re.escape("extra['w']: a tensor on meta that cannot be copied")
    ):
        pack({"w": torch.empty(2, device="meta")})


@pytest.mark.parametrize("of", [torch.zeros, np.zeros])
def test_a_view_is_written_without_the_rest_of_its_storage(
    tmp_path: Path, of: Callable[..., Any]
) -> None:
    big = of((100_000, 8))
    for view in (big[5:6], big[:, 2][:10], big[:0], big.T[3, ::20_000]):
        assert len(pack({"row": view})) < 5000
        assert_equal(there_and_back({"row": view}, tmp_path), {"row": view})


def test_an_expanded_tensor_stays_small_and_one_used_twice_is_written_once(tmp_path: Path) -> None:
    assert len(pack(torch.zeros(1).expand(1 << 30))) < 5000
    one = torch.rand(10_000)
    assert len(pack([one] * 5)) < 45_000
    assert len(pack([one[:5000]] * 5)) < 25_000 + 45_000
    tied = there_and_back({"a": one, "b": one}, tmp_path)
    assert tied["a"].data_ptr() == tied["b"].data_ptr()


def test_a_file_that_is_no_data_is_an_error_without_terminal_codes(tmp_path: Path) -> None:
    path = tmp_path / "extra.pt"
    torch.save(Progress(3), path)
    with pytest.raises(
        checkpoint.CheckpointError, match=re.escape(f"{path}: the extra file cannot")
    ) as caught:
        unpack(path)
    assert "\x1b" not in str(caught.value)


def test_what_has_a_state_dict_is_refused_with_that_as_remedy(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    for each in (model, torch.optim.SGD(model.parameters(), 0.1)):
        with pytest.raises(ValueError, match=r"extra\['model'\] is, .* give its state_dict\(\)$"):
            checkpoint.save(FakeEmbedding([table("t", 2, 2)]), tmp_path, 1, {"model": each})
        state = dict(each.state_dict())
        assert_equal(there_and_back(state, tmp_path), state)
