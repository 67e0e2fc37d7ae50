"""Activations in bfloat16: the float32 ones rounded, with gradients summed in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.bfloat16 import SGD, as_samples, exact_gradients, ragged, random_ids
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.serialization import config_from_dict, config_to_dict
from torch_tpu_embedding.reference import ReferenceEmbedding

HALVES, FLOATS = torch.bfloat16, torch.float32
B = 4
DTYPES = [FLOATS, HALVES]


def config(output: torch.dtype, dtype: torch.dtype = FLOATS) -> list[tte.FeatureConfig]:
    """Features as in `models.bfloat16`, the last of which stays float32."""
    a, b, c = (
        tte.TableConfig(rows, dim, combiner="sum", name=name, dtype=dtype)
        for name, rows, dim in (("a", 7, 4), ("b", 5, 4), ("c", 9, 3))
    )
    return [
        tte.FeatureConfig(a, name="a0", output_dtype=output),
        tte.FeatureConfig(b, name="b0", output_dtype=output),
        tte.FeatureConfig(a, name="a1", output_dtype=output),
        tte.FeatureConfig(c, name="c0", output_dtype=output),
        tte.FeatureConfig(b, name="sequence", max_sequence_length=3),
    ]


def make(output: torch.dtype, dtype: torch.dtype = FLOATS, **options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(config(output, dtype), B, SGD, seed=0, **options)


def weights(embedding: tte.TPUEmbedding) -> dict[str, Tensor]:
    state = embedding.state_dict()
    return {key: value for key, value in state.items() if key != "_extra_state"}


def look_up(embedding: tte.TPUEmbedding, step: int, training: bool = True) -> list[Tensor]:
    embedding.enqueue(ragged(random_ids(step)), training=training)
    found: list[Tensor] = embedding.dequeue()
    return found


def gradients_of(activations: list[Tensor], step: int) -> list[Tensor]:
    """Multiples of 2^-9 below 2^-6, which bfloat16 has, too."""
    exact = exact_gradients([each.shape for each in activations], step)
    pairs = zip(exact, activations, strict=True)
    return [gradient.to(each.device, each.dtype) for gradient, each in pairs]


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_the_float32_ones_rounded_and_the_updates_the_same_bit_for_bit(
    dtype: torch.dtype, pipelined: bool
) -> None:
    options = {"pipeline_execution_with_tensor_core": pipelined}
    plain, rounded = make(FLOATS, dtype, **options), make(HALVES, dtype, **options)
    for step in range(3):
        wanted, found = look_up(plain, step), look_up(rounded, step)
        assert [each.dtype for each in found] == [HALVES] * 4 + [FLOATS]
        for one, other in zip(wanted, found, strict=True):
            assert other.is_leaf
            assert other.requires_grad
            assert torch.equal(one.detach().to(other.dtype).cpu(), other.detach().cpu())
        for embedding, activations in ((plain, wanted), (rounded, found)):
            embedding.apply_gradients(gradients_of(activations, step))
    one, other = weights(plain), weights(rounded)
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_they_and_the_updates_are_those_of_the_reference() -> None:
    embedding = make(HALVES, HALVES)
    reference = ReferenceEmbedding(config(HALVES, HALVES), SGD, weights(embedding), seed=0)
    for step in range(3):
        samples = as_samples(random_ids(step))
        wanted, found = reference.look_up(samples), look_up(embedding, step)
        for one, other in zip(wanted, found, strict=True):
            torch.testing.assert_close(other.detach().double().cpu(), one, rtol=2**-8, atol=1e-7)
        gradients = gradients_of(found, step)
        embedding.apply_gradients(gradients)
        reference.apply_gradients(samples, [each.cpu() for each in gradients])
    for key, value in weights(embedding).items():
        assert torch.equal(value.double(), reference.state[key]), key


def test_gradients_are_summed_in_float32_not_in_bfloat16() -> None:
    table = tte.TableConfig(3, 2, name="t", combiner="sum", initializer=torch.zeros)
    embedding = tte.TPUEmbedding(
        [tte.FeatureConfig(table, output_dtype=HALVES)], 257, tte.SGD(1.0), seed=0
    )
    embedding.enqueue([torch.ones(257, dtype=torch.int64)])
    (rows,) = embedding.dequeue()
    rows.sum().backward()
    assert rows.grad.dtype == HALVES
    embedding.apply_gradients()
    # 256 + 1 is no number of bfloat16
    assert weights(embedding)["t.weight"].tolist() == [[0, 0], [-257, -257], [0, 0]]


@pytest.mark.parametrize("layout", ["CPU", "TPU"])
def test_inference_the_cpu_and_what_is_exported_give_the_same(layout: Any) -> None:
    trained = make(HALVES, layout=layout)
    wanted = look_up(trained, 0, training=False)
    assert [each.dtype for each in wanted] == [HALVES] * 4 + [FLOATS]
    on_cpu = make(HALVES, device="cpu")
    on_cpu.load_state_dict(trained.state_dict())
    served = tte.export_serving(trained)
    bags = ragged(random_ids(0))
    names = [feature.name for feature in trained.resolved.features]
    by_name = served(dict(zip(names, bags, strict=True)))
    for found in (on_cpu(bags), [by_name[name] for name in names]):
        for one, other in zip(wanted, found, strict=True):
            assert one.dtype == other.dtype
            # sums in another order may fall on another side of a tie
            torch.testing.assert_close(one.cpu(), other, rtol=2**-7, atol=1e-6)


def test_accumulated_and_clipped_gradients_are_those_of_float32_activations() -> None:
    states = []
    for output in DTYPES:
        embedding = make(output)
        for step in range(2):
            activations = look_up(embedding, step)
            gradients = gradients_of(activations, step)
            if step == 0:
                embedding.accumulate_gradients(gradients)
                continue
            for each, gradient in zip(activations, gradients, strict=True):
                each.grad = gradient
        norm = embedding.clip_grad_norm_(1e9)
        assert norm.dtype == FLOATS
        embedding.apply_gradients()
        states.append(weights(embedding))
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_a_feature_without_a_gradient_counts_as_zero() -> None:
    plain, embedding = make(FLOATS), make(HALVES)
    plain.apply_gradients(
        [
            torch.zeros_like(each) if number == 0 else each
            for number, each in enumerate(gradients_of(look_up(plain, 0), 0))
        ]
    )
    activations = look_up(embedding, 0)
    with pytest.warns(RuntimeWarning, match="no gradient for the features"):
        embedding.apply_gradients([None, *gradients_of(activations, 0)[1:]])
    assert torch.equal(weights(embedding)["a.weight"], weights(plain)["a.weight"])


def test_gradients_of_another_dtype_than_the_activations_are_refused_and_autocast_gives_none() -> (
    None
):
    embedding = make(FLOATS)
    before = weights(embedding)
    activations = look_up(embedding, 0)
    with pytest.raises(ValueError, match=r"'a0': expected torch.float32 .* got torch.bfloat16"):
        embedding.apply_gradients([each.bfloat16() for each in activations])
    for key, value in weights(embedding).items():
        assert torch.equal(value, before[key])
    with torch.autocast("xla", dtype=HALVES):
        head = torch.ones(4, 2, device=embedding.device)
        loss = torch.stack([(each @ head).sum() for each in activations[:3]]).float().sum()
    loss.backward()
    assert activations[0].grad is not None
    assert activations[0].grad.dtype == FLOATS
    with pytest.warns(RuntimeWarning, match=r"no gradient for the features \['c0', 'sequence'\]"):
        embedding.apply_gradients()


def test_autocast_around_the_lookup_changes_no_dtype() -> None:
    for output in DTYPES:
        embedding = make(output)
        with torch.autocast("xla", dtype=HALVES):
            assert look_up(embedding, 0)[0].dtype == output


def test_a_configuration_keeps_it_on_the_way_through_json_and_float32_writes_nothing() -> None:
    described = config_to_dict(config(HALVES))
    again = config_from_dict(described)
    assert [each.output_dtype for each in again] == [HALVES] * 4 + [FLOATS]
    assert "output_dtype" not in str(config_to_dict(config(FLOATS)))


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"output_dtype must be torch.float32 or .* torch.float16"):
        tte.FeatureConfig(tte.TableConfig(3, 2), output_dtype=torch.float16)
