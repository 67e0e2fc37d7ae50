"""The names in a function's code, whatever instructions this Python makes of it."""

from __future__ import annotations

from typing import Any

from torch_tpu_embedding.replaying.surroundings.code_names import _Reader, names_of


def step(self: Any, loss: Any) -> Any:
    """Names of all kinds, next to one another."""
    a = loss
    b = self.head.scale
    for each in self.others:
        each.step()
    c = [self.gain * i for i in range(3)]
    return self.scaled(loss), a, b, c


def test_attributes_of_an_argument_are_known_as_its_own_beside_assigned_names() -> None:
    names = names_of(step.__code__)
    inner = {chain for code in names.inner for chain in names_of(code).of_locals}
    assert {
        ("self", "head", "scale"), ("self", "others"), ("self", "scaled()"), ("self", "gain"),
        ("each", "step()"),
    } <= names.of_locals | inner  # fmt: skip
    assert names.of_globals >= {("range",)}
    assert not names.loose
    assert {"a", "b", "c", "each"} <= names.assigned <= {"a", "b", "c", "each", "i"}


def test_an_instruction_of_two_names_is_read_as_two() -> None:
    reader = _Reader()
    reader.read("STORE_FAST_LOAD_FAST", ("a", "self"), False)
    reader.read("LOAD_ATTR", "scale", False)
    reader.read("LOAD_FAST_LOAD_FAST", ("self", "loss"), False)
    reader.read("STORE_FAST_STORE_FAST", ("b", "c"), False)
    assert reader.chains["local"] == {("self", "scale"), ("self",), ("loss",)}
    assert reader.assigned == {"a", "b", "c"}
    assert not reader.loose
