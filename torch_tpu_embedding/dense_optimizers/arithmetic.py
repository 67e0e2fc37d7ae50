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
        return value + other * factor.to(other.dtype)
    return value.add(other, alpha=factor)


def plus_product(value: Tensor, one: Tensor, other: Tensor, factor: Number) -> Tensor:
    """value + factor · one · other."""
    if isinstance(factor, Tensor):
        return value + (one * other) * factor.to(one.dtype)
    return value.addcmul(one, other, value=factor)


def plus_ratio(value: Tensor, one: Tensor, other: Tensor, factor: Number) -> Tensor:
    """value + factor · one / other."""
    if isinstance(factor, Tensor):
        return value + (one / other) * factor.to(one.dtype)
    return value.addcdiv(one, other, value=factor)


def towards(value: Tensor, end: Tensor, weight: Number) -> Tensor:
    """value + weight · (end - value)."""
    if isinstance(weight, Tensor):
        weight = weight.to(value.dtype)
    return value.lerp(end, weight)


def times(value: Tensor, factor: Number) -> Tensor:
    """factor · value."""
    return value * (factor.to(value.dtype) if isinstance(factor, Tensor) else factor)


def divided(value: Tensor, divisor: Number) -> Tensor:
    """value / divisor."""
    return value / (divisor.to(value.dtype) if isinstance(divisor, Tensor) else divisor)


def increased(value: Tensor, number: Number) -> Tensor:
    """value + number."""
    return value + (number.to(value.dtype) if isinstance(number, Tensor) else number)
