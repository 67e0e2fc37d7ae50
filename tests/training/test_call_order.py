"""The order of calls on an XLA device. A wrong call raises and leaves tables and queue as they were.

Every wrong call below is checked by one law: the calls after it, and the tables at the end, are those
of the same script without it.
"""

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backends import DEVICE

import torch_tpu_embedding as tte

B = 2
RATE = {"items": 0.5}


@pytest.fixture(scope="module")
def built() -> tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]:
    """One embedding for the module, so that its few programs are compiled once."""
    user = tte.TableConfig(5, 2, name="user")
    items = tte.TableConfig(6, 3, name="items", optimizer=tte.Adam(lambda: RATE["items"]))
    features = {
        "user": tte.FeatureConfig(user),
        "seen": (tte.FeatureConfig(items),),
    }
    embedding = tte.TPUEmbedding(features, B, tte.Adagrad(0.1), seed=7)
    start = {key: value.clone() for key, value in embedding.state_dict().items()}
    return embedding, start


@pytest.fixture
def emb(built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]) -> tte.TPUEmbedding:
    return fresh(*built)


def fresh(embedding: tte.TPUEmbedding, start: dict[str, torch.Tensor]) -> tte.TPUEmbedding:
    for name in (None, "a", "b"):
        embedding.discard(name)
    embedding.load_state_dict(start)
    embedding._steps.gradients._warned.clear()  # a missing gradient is warned of once per embedding
    return embedding.train()


def batch(k: int) -> dict[str, tuple[tte.Ragged] | torch.Tensor]:
    """Batches of one shape; each looks up other rows."""
    return {
        "user": torch.tensor([k % 5, (k + 1) % 5]),
        "seen": (tte.Ragged.from_lists([[k % 6, (k + 2) % 6], [(k + 3) % 6]]),),
    }


def gradients(size: float = 1.0, **leaves: Any) -> dict[str, Any]:
    device = tte.runtime.device()
    parts = {
        "user": torch.full((B, 2), size, device=device),
        "seen": torch.full((B, 3), size, device=device),
        **leaves,
    }
    return {"user": parts["user"], "seen": (parts["seen"],)}


def tables(embedding: tte.TPUEmbedding) -> dict[str, list[list[float] | int]]:
    return {key: value.tolist() for key, value in embedding.state_dict().items()}


def read(activations: dict[str, tuple[torch.Tensor] | torch.Tensor]) -> list[list[list[float]]]:
    return [activations["user"].tolist(), activations["seen"][0].tolist()]


def step(
    embedding: tte.TPUEmbedding, k: int, name: str | None = None, size: float = 1.0
) -> list[list[list[float]]]:
    """A whole training step; gives its activations."""
    embedding.enqueue(batch(k), name=name)
    seen = read(embedding.dequeue(name))
    embedding.apply_gradients(gradients(size), name)
    return seen


# -- states ----------------------------------------------------------------------------------------

STATES = {  # name → (calls that lead there, what then awaits, what then waits)
    "new": ((), False, []),
    "waiting": (("enqueue",), False, [True]),
    "full": (("enqueue", "enqueue"), False, [True, True]),
    "inference_waiting": (("enqueue_inference",), False, [False]),
    "awaiting": (("enqueue", "dequeue"), True, []),
    "awaiting_and_waiting": (("enqueue", "enqueue", "dequeue"), True, [True]),
    "applied": (("enqueue", "dequeue", "apply"), False, []),
    "inferred": (("enqueue_inference", "dequeue"), False, []),
    "discarded": (("enqueue", "dequeue", "discard"), False, []),
}


def reach(embedding: tte.TPUEmbedding, state: str) -> tuple[bool, list[bool]]:
    calls, awaits, waiting = STATES[state]
    for k, call in enumerate(calls):
        if call.startswith("enqueue"):
            embedding.enqueue(batch(k), training=call == "enqueue")
        elif call == "dequeue":
            embedding.dequeue()
        elif call == "apply":
            embedding.apply_gradients(gradients())
        else:
            embedding.discard()
    return awaits, waiting


def finish(
    embedding: tte.TPUEmbedding, awaits: bool, waiting: list[bool]
) -> list[list[list[list[Any]]]]:
    """Do all that a state still asks for and one more step; gives all activations seen."""
    seen = []
    if awaits:
        embedding.apply_gradients(gradients(2.0))
    for training in waiting:
        seen.append(read(embedding.dequeue()))
        if training:
            embedding.apply_gradients(gradients())
    seen.append(step(embedding, 4))
    with pytest.raises(RuntimeError, match="no batch waits"):
        embedding.dequeue()
    return seen


def assert_refused(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]],
    state: str,
    wrong: Callable[..., Any],
    error: type[Exception],
    message: str,
) -> None:
    """`wrong(embedding)` raises, and what follows is as if it had not been called."""
    outcomes = []
    for refused in (False, True):
        embedding = fresh(*built)
        left = reach(embedding, state)
        before = tables(embedding)
        if refused:
            with pytest.raises(error, match=message):
                wrong(embedding)
        assert tables(embedding) == before
        embedding.train()
        outcomes.append((finish(embedding, *left), tables(embedding)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[1][1] != before, "the step after it must have had an effect"


# -- calls out of order ----------------------------------------------------------------------------

AWAITS = "still awaits its gradients; call apply_gradients .* or discard"


def enqueue(embedding: tte.TPUEmbedding) -> None:
    embedding.enqueue(batch(3))


def enqueue_inference(embedding: tte.TPUEmbedding) -> None:
    embedding.enqueue(batch(3), training=False)


def forward(embedding: tte.TPUEmbedding) -> None:
    embedding(batch(3))


def evaluate(embedding: tte.TPUEmbedding) -> None:
    embedding.eval()(batch(3))


def dequeue(embedding: tte.TPUEmbedding) -> None:
    embedding.dequeue()


def apply(embedding: tte.TPUEmbedding) -> None:
    embedding.apply_gradients(gradients())


def apply_grads(embedding: tte.TPUEmbedding) -> None:
    embedding.apply_gradients()


@pytest.mark.parametrize(
    ("state", "wrong", "message"),
    [
        ("new", dequeue, "^dequeue: no batch waits; call enqueue first"),
        ("applied", dequeue, "^dequeue: no batch waits; call enqueue first"),
        ("discarded", dequeue, "^dequeue: no batch waits; call enqueue first"),
        ("awaiting", dequeue, "^dequeue: no batch waits"),
        ("awaiting_and_waiting", dequeue, f"^dequeue: .*{AWAITS}"),
        (
            "full",
            enqueue,
            "^enqueue: 2 batches already wait.* enqueue_depth=2 .*call dequeue first",
        ),
        ("full", enqueue_inference, "^enqueue: 2 batches already wait"),
        (
            "new",
            apply,
            "^apply_gradients: no training batch was dequeued; call enqueue and dequeue",
        ),
        ("waiting", apply, "^apply_gradients: no training batch was dequeued"),
        ("discarded", apply, "^apply_gradients: no training batch was dequeued"),
        ("applied", apply, "^apply_gradients: it was already called for the training batch"),
        ("inferred", apply, "^apply_gradients: .*inference batch .*training=True to train"),
        ("inference_waiting", apply, "^apply_gradients: no training batch was dequeued"),
        (
            "awaiting",
            apply_grads,
            r"^apply_gradients: .*call loss\.backward\(\) first, or pass the grad",
        ),
        ("waiting", forward, "^forward: 1 enqueued batches wait; dequeue them first"),
        ("waiting", evaluate, "^forward: 1 enqueued batches wait"),
        ("inference_waiting", forward, "^forward: 1 enqueued batches wait"),
        ("full", forward, "^forward: 2 enqueued batches wait"),
        ("awaiting", forward, f"^forward: .*{AWAITS}"),
        ("awaiting_and_waiting", forward, "^forward: 1 enqueued batches wait"),
        ("waiting", lambda e: e.dequeue("a"), r"^dequeue\(name='a'\): no batch waits"),
        (
            "awaiting",
            lambda e: e.apply_gradients(gradients(), "a"),
            r"^apply_gradients\(name='a'\): no tr",
        ),
        ("awaiting", lambda e: e.embedding_tables, "^embedding_tables: .*state_dict.*device='cpu'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_call_out_of_order_says_what_to_do_and_changes_nothing(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]],
    state: str,
    wrong: Callable[..., Any],
    message: str,
) -> None:
    assert_refused(built, state, wrong, RuntimeError, message)


# -- wrong arguments -------------------------------------------------------------------------------


def changed(**parts: object) -> dict[str, object]:
    return {**batch(3), **parts}


@pytest.mark.parametrize(
    ("features", "weights", "error", "message"),
    [
        (
            changed(user=torch.tensor([1, 5])),
            None,
            ValueError,
            r"'user'.*id 5 at sample 1 .*\[0, 5\)",
        ),
        (changed(user=torch.tensor([1])), None, ValueError, "'user'.*got 1 samples.*batch_size=2"),
        (changed(user=torch.ones(2)), None, ValueError, "'user'.*ids must be integers"),
        (
            changed(user=torch.ones(B, 2, 1).long()),
            None,
            ValueError,
            r"'user'.*\[2, 2\].* settled before",
        ),
        (changed(user=None), None, ValueError, "'user'.*got NoneType"),
        (changed(seen=[1]), None, TypeError, "features at 'seen' must be a tuple.*got list"),
        (changed(seen=()), None, ValueError, "features at 'seen' must have 1 items"),
        ({"user": 1}, None, ValueError, r"features must have the keys .*missing \['seen'\]"),
        ([], None, TypeError, "features must be a dict"),
        (batch(3), {}, ValueError, "weights must have the keys"),
        (
            batch(3),
            {"user": torch.ones(2), "seen": (None,)},
            ValueError,
            "'user'.*weights were given",
        ),
        (
            batch(3),
            {"user": None, "seen": (torch.ones(2),)},
            ValueError,
            "'seen/0'.*weights must be",
        ),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("call", ["enqueue", "forward"])
def test_a_wrong_batch_is_refused_whole(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]],
    call: str,
    features: list[Any] | dict[str, Any],
    weights: Any,
    error: type[Exception],
    message: str,
) -> None:
    def wrong(embedding: tte.TPUEmbedding) -> None:
        getattr(embedding, call)(features, weights)

    state = "waiting" if call == "enqueue" else "applied"
    assert_refused(built, state, wrong, error, message)


def on_device(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(*shape, dtype=dtype, device=tte.runtime.device())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: [on_device(B, 2)], TypeError, "gradients must be a dict.*got list"),
        (lambda: {"user": None}, ValueError, r"gradients must have the keys .*missing \['seen'\]"),
        (lambda: gradients() | {"x": None}, ValueError, r"unexpected \['x'\]"),
        (lambda: {"user": None, "seen": [None]}, TypeError, "gradients at 'seen' must be a tuple"),
        (lambda: {"user": None, "seen": ()}, ValueError, "gradients at 'seen' must have 1 items"),
        (
            lambda: gradients(user=[on_device(B, 2)]),
            TypeError,
            "gradients at 'user' must be one item",
        ),
        (lambda: gradients(user=1.0), ValueError, "'user': expected a tensor or None, got float"),
        (
            lambda: gradients(seen=np.ones((B, 3))),
            ValueError,
            "'seen/0': expected a tensor or None, got nd",
        ),
        (
            lambda: gradients(user=on_device(B, 3)),
            ValueError,
            re.escape(f"'user': expected torch.float32 [2, 2] on {DEVICE}:0, the activation's, got")
            + rf" torch.float32 \[2, 3\] on {DEVICE}:0",
        ),
        (
            lambda: gradients(user=on_device(2 * B)),
            ValueError,
            rf"'user': expected .* \[4\] on {DEVICE}",
        ),
        (
            lambda: gradients(seen=on_device(B, 3, dtype=torch.float64)),
            ValueError,
            r"'seen/0': expected torch.float32 .* got torch.float64",
        ),
        (lambda: gradients(seen=torch.ones(B, 3)), ValueError, r"'seen/0': .* \[2, 3\] on cpu"),
    ],
    ids=range(12),
)
def test_wrong_gradients_name_the_feature_and_change_nothing(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]],
    given: Callable[..., Any],
    error: type[Exception],
    message: str,
) -> None:
    assert_refused(built, "awaiting", lambda e: e.apply_gradients(given()), error, message)


@pytest.mark.parametrize("rates", [[], [0.1], [0.1, 0.1, 0.1]], ids=len)
def test_another_number_of_learning_rates_than_tables_is_refused(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]], rates: list[float]
) -> None:
    def wrong(embedding: tte.TPUEmbedding) -> None:
        embedding.apply_gradients(gradients(), learning_rates=rates)

    message = f"learning_rates must have one rate for each of the 2 tables, got {len(rates)}"
    assert_refused(built, "awaiting", wrong, ValueError, message)


@pytest.mark.parametrize("rate", [math.nan, math.inf, "fast", None], ids=repr)
@pytest.mark.parametrize("place", [0, 1])
def test_a_learning_rate_that_is_no_finite_number_is_refused_before_any_table_changes(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]], rate: float | str | None, place: int
) -> None:
    rates = [0.1, 0.1]
    rates[place] = rate

    def wrong(embedding: tte.TPUEmbedding) -> None:
        embedding.apply_gradients(gradients(), learning_rates=rates)

    assert_refused(built, "awaiting", wrong, ValueError, "learning rate must be")


@pytest.mark.parametrize("rate", [math.nan, "fast"], ids=repr)
def test_a_callable_learning_rate_that_gives_no_finite_number_is_refused(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]], rate: float | str
) -> None:
    def wrong(embedding: tte.TPUEmbedding) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(RATE, "items", rate)
            apply(embedding)

    assert_refused(built, "awaiting", wrong, ValueError, "'items': learning rate must be")


# -- what is in order ------------------------------------------------------------------------------


def test_batches_come_out_in_the_order_they_went_in(emb: tte.TPUEmbedding) -> None:
    expected = []
    for k in (0, 1):
        emb.enqueue(batch(k), training=False)
        expected.append(read(emb.dequeue()))
    emb.enqueue(batch(0), training=False)
    emb.enqueue(batch(1), training=False)
    assert [read(emb.dequeue()), read(emb.dequeue())] == expected
    assert expected[0] != expected[1]


def test_a_training_batch_gives_leaves_that_require_grad_and_an_inference_batch_does_not(
    emb: tte.TPUEmbedding,
) -> None:
    emb.enqueue(batch(0), training=False)
    inferred = emb.dequeue()
    emb.enqueue(batch(0))
    trained = emb.dequeue()
    assert [inferred["user"].requires_grad, inferred["seen"][0].requires_grad] == [False, False]
    for leaf in (trained["user"], trained["seen"][0]):
        assert leaf.requires_grad
        assert leaf.is_leaf
        assert leaf.dtype == torch.float32
        assert leaf.device == tte.runtime.device()
    assert read(inferred) == read(trained)


def test_inference_batches_may_come_between_a_training_batch_and_its_gradients(
    emb: tte.TPUEmbedding, built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]
) -> None:
    emb.enqueue(batch(0))
    emb.dequeue()
    before = tables(emb)
    for k in (2, 3):
        emb.enqueue(batch(k), training=False)
        emb.dequeue()
        assert tables(emb) == before
    emb.apply_gradients(gradients())
    after = tables(emb)
    fresh(*built)
    step(emb, 0)
    assert tables(emb) == after


def test_inference_alone_never_changes_the_tables(emb: tte.TPUEmbedding) -> None:
    before = tables(emb)
    emb.eval()
    for k in range(3):
        emb(batch(k))
    assert tables(emb) == before


def test_gradients_of_backward_and_the_same_gradients_given_do_the_same(
    emb: tte.TPUEmbedding, built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]
) -> None:
    activations = emb(batch(0))
    (activations["user"].sum() + activations["seen"][0].sum()).backward()
    emb.apply_gradients()
    by_backward = tables(emb)
    fresh(*built)
    step(emb, 0)
    assert tables(emb) == by_backward


def test_forward_may_follow_forward_once_the_gradients_are_applied(emb: tte.TPUEmbedding) -> None:
    for k in range(2):
        emb(batch(k))
        emb.apply_gradients(gradients())
    emb.eval()(batch(2))
    emb(batch(2))


def test_learning_rates_given_take_the_place_of_the_optimizers_own(
    emb: tte.TPUEmbedding, built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]
) -> None:
    step(emb, 0)
    own = tables(emb)
    fresh(*built)
    emb(batch(0))
    emb.apply_gradients(gradients(), learning_rates=[RATE["items"], 0.1])
    assert tables(emb) == own
    start = fresh(*built).state_dict()
    emb(batch(0))
    emb.apply_gradients(gradients(), learning_rates=[0.0, 0.0])
    end = emb.state_dict()
    assert torch.equal(end["user.weight"], start["user.weight"])
    assert torch.equal(end["items.weight"], start["items.weight"])
    assert not torch.equal(end["user.accumulators"], start["user.accumulators"])


def test_tables_loaded_between_dequeue_and_apply_are_those_that_the_update_starts_from(
    emb: tte.TPUEmbedding, built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]
) -> None:
    _, start = built
    other = {key: value + 1 if value.is_floating_point() else value for key, value in start.items()}
    emb(batch(0))
    emb.load_state_dict(other)
    emb.apply_gradients(gradients())
    loaded_late = tables(emb)
    emb.load_state_dict(other)
    step(emb, 0)
    assert tables(emb) == loaded_late


# -- gradients that are missing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        (["user"], r"\['user'\]"),
        (["seen"], r"\['seen/0'\]"),
        (["user", "seen"], r"\['seen/0', 'user'\]"),
    ],
    ids=["user", "seen", "both"],
)
def test_a_missing_gradient_warns_and_counts_as_zero(
    emb: tte.TPUEmbedding,
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]],
    missing: list[str],
    names: str,
) -> None:
    zeros = {"user": on_device(B, 2) * 0, "seen": on_device(B, 3) * 0}
    runs = []
    for absent in ({name: zeros[name] for name in missing}, dict.fromkeys(missing)):
        fresh(*built)
        step(emb, 0)  # so that Adam has momenta
        before = emb.state_dict()
        emb(batch(0))
        if absent[missing[0]] is None:
            message = f"no gradient for the features {names}; it counts as zero"
            with pytest.warns(RuntimeWarning, match=message) as caught:
                emb.apply_gradients(gradients(**absent))
            assert [caught[0].filename, len(caught)] == [__file__, 1]
        else:
            emb.apply_gradients(gradients(**absent))
        runs.append(tables(emb))
    assert runs[0] == runs[1]
    moved = not torch.equal(emb.state_dict()["items.weight"], before["items.weight"])
    assert moved, "rows looked up still take their Adam step"


def test_a_feature_that_the_loss_does_not_use_counts_as_zero(
    emb: tte.TPUEmbedding, built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]
) -> None:
    emb(batch(0))["user"].sum().backward()
    with pytest.warns(RuntimeWarning, match=r"no gradient for the features \['seen/0'\]"):
        emb.apply_gradients()
    unused = tables(emb)
    emb(batch(0))["user"].sum().backward()
    emb.apply_gradients()  # said once: no second warning, which would be an error here
    fresh(*built)
    emb(batch(0))
    emb.apply_gradients(gradients(seen=on_device(B, 3) * 0))
    assert tables(emb) == unused


def test_a_warning_made_an_error_leaves_the_tables_as_they_were(
    built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]],
) -> None:
    def wrong(embedding: tte.TPUEmbedding) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            embedding.apply_gradients(gradients(user=None))

    assert_refused(built, "awaiting", wrong, RuntimeWarning, "it counts as zero")


# -- discard and names -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(STATES))
def test_discard_forgets_every_batch_and_changes_no_table(
    emb: tte.TPUEmbedding, built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]], state: str
) -> None:
    reach(emb, state)
    before = tables(emb)
    emb.discard()
    assert tables(emb) == before
    with pytest.raises(RuntimeError, match="no batch waits"):
        emb.dequeue()
    with pytest.raises(RuntimeError, match="no training batch was dequeued"):
        emb.apply_gradients(gradients())
    for k in range(2):
        emb.enqueue(batch(k), training=False)
    emb.discard()
    step(emb, 1)
    assert tables(emb) != before


def test_names_have_queues_of_their_own(emb: tte.TPUEmbedding) -> None:
    emb.enqueue(batch(0), training=False)
    plain = read(emb.dequeue())
    emb.enqueue(batch(1), training=False)
    other = read(emb.dequeue())
    for _ in range(2):  # enqueue_depth counts for each name
        emb.enqueue(batch(0), name="a")
        emb.enqueue(batch(1), name="b")
    with pytest.raises(RuntimeError, match=r"^enqueue\(name='b'\): 2 batches already wait"):
        emb.enqueue(batch(2), name="b")
    assert read(emb.dequeue("b")) == other
    assert read(emb.dequeue("a")) == plain
    with pytest.raises(RuntimeError, match=rf"^dequeue\(name='a'\): .*{AWAITS}"):
        emb.dequeue("a")


def test_training_batches_of_two_names_update_in_the_order_of_apply(
    emb: tte.TPUEmbedding, built: tuple[tte.TPUEmbedding, dict[str, torch.Tensor]]
) -> None:
    step(emb, 1, size=2.0)
    step(emb, 0)
    one_after_the_other = tables(emb)
    fresh(*built)
    for k, name in enumerate("ab"):
        emb.enqueue(batch(k), name=name)
        emb.dequeue(name)
    emb.apply_gradients(gradients(2.0), "b")
    emb.apply_gradients(gradients(), "a")
    assert tables(emb) == one_after_the_other


def test_discarding_one_name_leaves_the_others(emb: tte.TPUEmbedding) -> None:
    for name in ("a", "b"):
        emb.enqueue(batch(0), name=name)
        emb.enqueue(batch(1), name=name)
        emb.dequeue(name)
    emb.discard("a")
    with pytest.raises(RuntimeError, match=r"^apply_gradients\(name='a'\): no training batch"):
        emb.apply_gradients(gradients(), "a")
    emb.apply_gradients(gradients(), "b")
    emb.dequeue("b")
    emb.apply_gradients(gradients(), "b")
    with pytest.raises(RuntimeError, match=r"^dequeue\(name='a'\): no batch waits"):
        emb.dequeue("a")


def test_a_waiting_batch_of_another_name_is_no_obstacle_to_forward(emb: tte.TPUEmbedding) -> None:
    emb.enqueue(batch(0), name="a")
    emb(batch(1))
    emb.apply_gradients(gradients())
    emb.dequeue("a")
    emb.apply_gradients(gradients(), "a")


# -- the CPU, and the constructor ------------------------------------------------------------------


def cpu_embedding(**options: float | str | bool) -> tte.TPUEmbedding:
    config = tte.FeatureConfig(tte.TableConfig(5, 2, name="user"))
    arguments = {"batch_size": B, "optimizer": tte.SGD(0.1), "device": "cpu", **options}
    return tte.TPUEmbedding(config, **arguments)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [("enqueue", (torch.tensor([0, 1]),)), ("dequeue", ()), ("apply_gradients", ())],
)
def test_the_calls_of_training_are_refused_on_the_cpu_with_a_remedy(
    call: str, arguments: tuple[Any]
) -> None:
    embedding = cpu_embedding()
    before = tables(embedding)
    message = rf"^{call}: .*on the CPU.*call it directly \(forward\).*without device='cpu' to train"
    with pytest.raises(RuntimeError, match=message):
        getattr(embedding, call)(*arguments)
    assert tables(embedding) == before
    assert embedding(torch.tensor([0, 1])).tolist() == before["user.weight"][:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an int of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be an int of at least 1, got 2.0"),
        ({"batch_size": True}, "batch_size must be an int of at least 1, got True"),
        ({"enqueue_depth": 0}, "enqueue_depth must be an int of at least 1, got 0"),
        (
            {"id_bounds": "clip"},
            "id_bounds must be one of 'raise', 'drop', 'warn_and_drop', got 'clip'",
        ),
        ({"layout": "GPU"}, "layout must be None, 'CPU' or 'TPU', got 'GPU'"),
        ({"device": "meta"}, "device must be an XLA device or 'cpu', got meta"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_an_error_naming_it_and_what_is_allowed(
    options: dict[str, bool | float | str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"TPUEmbedding: {message}"):
        cpu_embedding(**options)


def test_enqueue_depth_is_how_many_batches_may_wait() -> None:
    config = tte.FeatureConfig(tte.TableConfig(5, 2))
    embedding = tte.TPUEmbedding(config, B, None, enqueue_depth=1)
    embedding.enqueue(torch.tensor([0, 1]), training=False)
    with pytest.raises(RuntimeError, match=r"1 batches already wait.* enqueue_depth=1"):
        embedding.enqueue(torch.tensor([0, 1]), training=False)
