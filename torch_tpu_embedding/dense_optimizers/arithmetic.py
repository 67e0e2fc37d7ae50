"""Out-of-place arithmetic with the numbers of an optimizer, equal to the bit to torch's operators in place.

torch's operators take Python numbers alone; on the device the number is a scalar tensor, and the formula is
that by which torch_xla lowers the operator.
"""

from __future__ import annotations

from torch import Tensor

from .sent_numbers import Number


def plus(value: Tensor, other: Tensor, factor: Number) -> Tensor:
    """value + factor · other."""
    if isinstance(factor, Tensor):
        return value.addcmul(other, _in_type(factor, other))
    return value.add(other, alpha=factor)


def plus_product(value: Tensor, one: Tensor, other: Tensor, factor: Number) -> Tensor:
    """value + factor · one · other."""
    if isinstance(factor, Tensor):
        return value.addcmul(one * other, _in_type(factor, one))
    return value.addcmul(one, other, value=factor)


def plus_ratio(value: Tensor, one: Tensor, other: Tensor, factor: Number) -> Tensor:
    """value + factor · one / other."""
    if isinstance(factor, Tensor):
        return value.addcmul(one / other, _in_type(factor, one))
    return value.addcdiv(one, other, value=factor)


def towards(value: Tensor, end: Tensor, weight: Number) -> Tensor:
    """value + weight · (end - value)."""
    return value.lerp(end, _typed(weight, value))


def times(value: Tensor, factor: Number) -> Tensor:
    """factor · value."""
    return value * _typed(factor, value)


def divided(value: Tensor, divisor: Number) -> Tensor:
    """value / divisor."""
    return value / _typed(divisor, value)


def increased(value: Tensor, number: Number) -> Tensor:
    """value + number."""
    return value + _typed(number, value)


def _typed(number: Number, like: Tensor) -> Number:
    return _in_type(number, like) if isinstance(number, Tensor) else number


def _in_type(number: Tensor, like: Tensor) -> Tensor:
    """A number of the device in the type of a tensor, in which torch's operators have theirs."""
    if number.dtype == like.dtype:
        return number  # `to` would give the same tensor, and be slow to find that out
    return number.to(like.dtype)
