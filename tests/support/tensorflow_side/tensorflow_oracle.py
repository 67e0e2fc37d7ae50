"""TensorFlow's answers to a file of cases: lookups on its CPU path, and steps of its optimizer kernels.

Run by the Python of a TensorFlow environment, not by that of this package, which it does not import:

    python tests/support/tensorflow_side/tensorflow_oracle.py cases.npz answers.npz

Both files hold arrays by name. 'cases' is a JSON list; case n has its arrays under 'n/…', and so has
answer n: 'n/activations' and 'n/gradient', or 'n/weight' and 'n/<slot>', or 'n/error' (a class name).
`test_tensorflow.py` writes the cases and reads the answers.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def ids_and_weights(tf: Any, case: dict[str, Any], arrays: Arrays) -> tuple[Any, Any]:
    """The inputs of one feature, as tensors of the case's kind."""
    ids, weights = tf.constant(arrays["ids"]), arrays.get("weights")
    if case["kind"] == "dense":
        return ids, None
    if case["kind"] == "sparse":

        def make(values: Any) -> Any:
            return tf.SparseTensor(arrays["indices"], values, case["shape"])
    else:

        def make(values: Any) -> Any:
            return tf.RaggedTensor.from_row_splits(values, arrays["splits"])

    return make(ids), None if weights is None else make(tf.constant(weights))


def look_up(tf: Any, case: dict[str, Any], arrays: Arrays) -> Arrays:
    """Activations of one feature, and the gradient of Σ activations · cotangent for its table."""
    embedding = tf.tpu.experimental.embedding
    quantization = case["quantization"] and embedding.QuantizationConfig(*case["quantization"])
    table = embedding.TableConfig(
        *arrays["table"].shape,
        combiner=case["combiner"],
        name="table",
        quantization_config=quantization,
    )
    feature = embedding.FeatureConfig(
        table,
        max_sequence_length=case["length"],
        validate_weights_and_indices=case["validate"],
        output_shape=case["output_shape"],
    )
    variable = tf.Variable(arrays["table"])
    ids, weights = ids_and_weights(tf, case, arrays)
    with tf.GradientTape() as tape:
        (activations,) = embedding.serving_embedding_lookup(
            (ids,), None if weights is None else (weights,), {table: variable}, (feature,)
        )
        total = tf.reduce_sum(activations * arrays["cotangent"])
    gradient = tape.gradient(total, variable)
    return {
        "activations": activations.numpy(),
        "gradient": tf.convert_to_tensor(gradient).numpy(),
    }


def train(tf: Any, case: dict[str, Any], arrays: Arrays) -> Arrays:
    """The table and its slots after one step for each row of ids, by TensorFlow's own kernels."""
    options = case["options"]
    held = {"weight": tf.Variable(arrays["table"])}
    for name, start in case["slots"].items():
        held[name] = tf.Variable(tf.fill(arrays["table"].shape, np.float32(start)))
    rule = {"SGD": sgd, "Adagrad": adagrad, "FTRL": ftrl, "Adam": adam}.get(
        case["optimizer"], adagrad_momentum
    )
    for ids, gradients in zip(arrays["ids"], arrays["gradients"], strict=True):
        rule(tf, held, tf.constant(ids), tf.constant(gradients), options)
    return {name: variable.numpy() for name, variable in held.items()}


def sgd(tf: Any, held: dict[str, Any], ids: Any, gradients: Any, options: dict[str, Any]) -> None:
    dense = tf.scatter_nd(ids[:, None], gradients, held["weight"].shape)
    tf.raw_ops.ResourceApplyGradientDescent(
        var=held["weight"].handle, alpha=options["learning_rate"], delta=dense
    )


def adagrad(
    tf: Any, held: dict[str, Any], ids: Any, gradients: Any, options: dict[str, Any]
) -> None:
    tf.raw_ops.ResourceSparseApplyAdagradV2(
        var=held["weight"].handle,
        accum=held["accumulators"].handle,
        lr=options["learning_rate"],
        epsilon=0.0,
        grad=gradients,
        indices=ids,
    )


def ftrl(tf: Any, held: dict[str, Any], ids: Any, gradients: Any, options: dict[str, Any]) -> None:
    """The kernel has no beta; it adds to the divisor what an l2 of beta/(2 lr) adds."""
    rate = options["learning_rate"]
    tf.raw_ops.ResourceSparseApplyFtrlV2(
        var=held["weight"].handle,
        accum=held["accumulators"].handle,
        linear=held["linears"].handle,
        grad=gradients,
        indices=ids,
        lr=rate,
        l1=options["l1_regularization_strength"],
        l2=options["l2_regularization_strength"] + options["beta"] / (2.0 * rate),
        l2_shrinkage=0.0,
        lr_power=options["learning_rate_power"],
        multiply_linear_by_lr=options["multiply_linear_by_learning_rate"],
    )


def adam(tf: Any, held: dict[str, Any], ids: Any, gradients: Any, options: dict[str, Any]) -> None:
    """Powers of 0 switch the kernel's bias correction off. It is dense: a lazy step gets its rows alone."""
    lazy = options["lazy_adam"]
    names = ("weight", "momenta", "velocities")
    if lazy:
        parts = {name: tf.Variable(tf.gather(held[name], ids)) for name in names}
    else:
        parts = held
        gradients = tf.scatter_nd(ids[:, None], gradients, held["weight"].shape)
    tf.raw_ops.ResourceApplyAdam(
        var=parts["weight"].handle,
        m=parts["momenta"].handle,
        v=parts["velocities"].handle,
        beta1_power=0.0,
        beta2_power=0.0,
        lr=options["learning_rate"],
        beta1=options["beta_1"],
        beta2=options["beta_2"],
        epsilon=options["epsilon"],
        grad=gradients,
    )
    if lazy:
        for name in names:
            held[name].scatter_nd_update(ids[:, None], parts[name])


def adagrad_momentum(
    tf: Any, held: dict[str, Any], ids: Any, gradients: Any, options: dict[str, Any]
) -> None:
    """TensorFlow has a kernel for the momentum only; the accumulator is written out before it."""
    beta2, squared = options["beta2"], gradients * gradients
    before = tf.gather(held["accumulators"], ids)
    after = before + squared if beta2 == 1 else beta2 * before + (1 - beta2) * squared
    held["accumulators"].scatter_nd_update(ids[:, None], after)
    tf.raw_ops.ResourceSparseApplyMomentum(
        var=held["weight"].handle,
        accum=held["momenta"].handle,
        lr=options["learning_rate"],
        grad=gradients * tf.pow(after + options["epsilon"], -1.0 / options["exponent"]),
        indices=ids,
        momentum=options["momentum"],
        use_nesterov=options["use_nesterov"],
    )


def answer(tf: Any, case: dict[str, Any], arrays: Arrays) -> Arrays:
    """The results of a case, or the class of TensorFlow's error."""
    try:
        return (train if "optimizer" in case else look_up)(tf, case, arrays)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        return {"error": np.array(type(error).__name__), "text": np.array(str(error))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", type=Path, help="the .npz file of cases to read")
    parser.add_argument("answers", type=Path, help="the .npz file of answers to write")
    paths = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    import tensorflow as tf  # not at the top: --help, and pytest's collection, do without it

    held = np.load(paths.cases)
    cases = json.loads(str(held["cases"]))
    parts: list[Arrays] = [{} for _ in cases]
    for name in held.files:
        number, _, array = name.partition("/")
        if array:
            parts[int(number)][array] = held[name]
    answers: Arrays = {"version": np.array(tf.__version__)}
    for number, (case, arrays) in enumerate(zip(cases, parts, strict=True)):
        for name, value in answer(tf, case, arrays).items():
            answers[f"{number}/{name}"] = value
    np.savez(paths.answers, **answers)


if __name__ == "__main__":
    main()
