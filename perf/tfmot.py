"""Prune, cluster and quantize a Keras 3 model by TensorFlow Model Optimization (TFMOT): the peer that ours is measured against.

TFMOT works on tf_keras alone, so the model is rebuilt there layer by layer with the same weights, and must compute the same.
Each step is TFMOT's public API as its guides have it. After `qat` the .tflite file has the ranges that were learned, otherwise
TFLiteConverter measures them; the file is read back by Edgewright's own reader, as every other file in this folder is.

The last line of stdout is one JSON object. What TFMOT, or a conversion to or from tf_keras, cannot do is a result too: its
status is "refused", with the stage and the reason. An error of this script exits with 1. Logs go to stderr.

    .venv/bin/python perf/tfmot.py mnist.keras --steps prune,qat --train train.npz --test test.npz --out mnist.tflite
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import deflated_bytes, raw_bytes
from edgewright.converters.readers.tflite import TfliteReader
from edgewright.converters.tflite_file import float_ops
from edgewright.errors import UnsupportedError, WorkerCrashError, WorkerMemoryError
from edgewright.receipts import is_kernel
from edgewright.runtime import open_session
from edgewright.worker import Worker, progress

if __name__ != "__main__":  # in the child: the parent needs none of them
    import keras
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

Array = np.ndarray[Any, Any]
EPOCHS = {"prune": 3, "cluster": 2, "qat": 2}
RATES = {"prune": 1e-3, "cluster": 5e-4, "qat": 3e-4}
PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "keras", "ai-edge-litert")
SAME = 1e-4  # largest difference of the translated model, in units of the output's largest value where that is above 1
COMPARED, CALIBRATION, WARM_UP = 32, 200, 5
EVERY, END, SMALLEST, TEMPERATURE = 10, 0.7, 64, 4.0  # as edgewright/optimizers has them

# --- from Keras 3 to tf_keras ------------------------------------------------------------------------------------------


def translated(model: Any) -> Any:
    """The same functional model in tf_keras, models within it as models, with the same weights."""
    graph = getattr(model, "_functional", None) or model
    if not hasattr(graph, "_run_through_graph"):
        raise UnsupportedError(f"'{model.name}' is a {type(model).__name__}, whose graph only its code knows")
    pairs: dict[int, tuple[Any, Any]] = {}

    def apply(operation: Any) -> Callable[..., Any]:
        if id(operation) not in pairs:
            pairs[id(operation)] = operation, counterpart(operation)
        own = pairs[id(operation)][1]
        # Keras 3 stores "training" with a call and overrides it; tf_keras would keep it.
        return lambda *args, **kwargs: own(*args, **{k: v for k, v in kwargs.items() if v is not None and k != "training"})

    inputs = [tf_keras.Input(t.shape[1:], t.shape[0], dtype=t.dtype, name=t._keras_history.operation.name) for t in graph.inputs]
    outputs = keras.tree.flatten(graph._run_through_graph(inputs, operation_fn=apply))
    made = tf_keras.Model(inputs, outputs, name=model.name)
    for operation, own in pairs.values():
        if isinstance(own, tf_keras.layers.Layer) and not isinstance(own, tf_keras.Model):
            own.set_weights([np.asarray(weight) for weight in operation.weights])
    return made


def counterpart(operation: Any) -> Any:
    """What stands in tf_keras in the place of a layer, or of a function of keras.ops."""
    kind = type(operation).__name__
    if isinstance(operation, keras.Model):
        return translated(operation)
    if not isinstance(operation, keras.layers.Layer):
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
        found = [getattr(module, name) for module in (tf, tf.math, tf.nn) if hasattr(module, name)]
        if not found:
            raise UnsupportedError(f"TensorFlow has no function for the operation {kind} ('{operation.name}')")
        return found[0]
    if kind == "Activation" and operation.activation is keras.activations.hard_silu:  # as MobileNetV3 of tf_keras has it
        relu, product = tf_keras.layers.ReLU(6.0, name=f"{operation.name}_relu"), tf_keras.layers.Multiply(name=operation.name)
        return lambda x: product([x, relu(x + 3.0) * (1.0 / 6.0)])
    if not hasattr(tf_keras.layers, kind):
        raise UnsupportedError(f"tf_keras has no layer {kind} ('{operation.name}')")
    return layer_of(getattr(tf_keras.layers, kind), operation.get_config())


def layer_of(cls: Any, config: Mapping[str, Any]) -> Any:
    """A layer of tf_keras from its configuration in Keras 3, without initializers, dtype policies and what is unknown there."""
    known = {name for base in cls.__mro__ for name in inspect.signature(base.__init__).parameters}
    renamed = {"negative_slope": "alpha"} if cls.__name__ == "LeakyReLU" else {}
    arguments = {}
    for key, value in config.items():
        name = renamed.get(key, key)
        if name not in known or name == "dtype" or name.endswith("_initializer"):
            continue
        if isinstance(value, dict) and "class_name" in value:
            inner = getattr(tf_keras.layers, value["class_name"], None)
            own = {part: value[part] for part in ("class_name", "config")}  # a regularizer or a constraint
            value = layer_of(inner, value["config"]) if inner else own
        arguments[name] = "swish" if value == "silu" else value
    return cls(**arguments)


# --- compression -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """Samples, and how the steps train with them: by Adam, the rate falling along a cosine, as ours.

    Args:
        feeds: arrays (samples, ...) of each input, in the model's order.
        targets: of each output: labels, or what the model computes.
        losses: likewise.
        options: the command line's.
    """

    feeds: list[Array]
    targets: list[Array]
    losses: list[Any]
    options: argparse.Namespace

    def steps(self, step: str) -> int:
        """Training steps of a compression step."""
        return int(self.options.epochs[step] * -(-len(self.feeds[0]) // self.options.batch))

    def fit(self, model: Any, step: str, callbacks: Sequence[Any] = ()) -> float | None:
        """Train; returns the median time from the end of a training step to the next one's in ms, None of too few."""
        ends: list[tuple[int, float]] = []
        epoch = [0]
        follow = tf_keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda number, logs: epoch.append(number),
            on_batch_end=lambda batch, logs: ends.append((epoch[-1], time.perf_counter())),
        )
        rate = tf_keras.optimizers.schedules.CosineDecay(float(self.options.rates[step]), max(1, self.steps(step)))
        model.compile(tf_keras.optimizers.Adam(rate), self.losses)
        epochs = int(self.options.epochs[step])
        model.fit(self.feeds, self.targets, self.options.batch, epochs, verbose=0, callbacks=[*callbacks, follow])
        times = [end - begin for (one, begin), (other, end) in pairwise(ends) if one == other][WARM_UP:]
        return round(1e3 * statistics.median(times), 3) if times else None


def load(path: Path, train: Mapping[str, Array], options: argparse.Namespace) -> tuple[Any, Training]:
    """The model in tf_keras, and its training; UnsupportedError if the translation fails or computes something else."""
    if path.is_dir():
        raise UnsupportedError("TFMOT takes Sequential and functional models of tf_keras, a SavedModel is neither")
    original = keras.models.load_model(path, compile=False)
    model = translated(original)
    feeds = [train[name] for name in model.input_names]
    flat = keras.Model(original.inputs, original.outputs)
    flat.compile(jit_compile=False)
    wanted = keras.tree.flatten(flat.predict(feeds, 256, verbose=0))
    found = keras.tree.flatten(model.predict([feed[:COMPARED] for feed in feeds], verbose=0))
    for name, ours, theirs in zip(model.output_names, wanted, found, strict=True):
        difference = float(np.abs(ours[:COMPARED] - theirs).max() / max(1.0, np.abs(ours).max()))
        if not difference < SAME:
            raise UnsupportedError(f"the translated model computes '{name}' {difference:.2g} off, {SAME:g} is allowed")
    labelled = len(wanted) == 1 and has_labels(train)
    losses = [loss_of(output, labels=labelled) for output in wanted]
    return model, Training(feeds, [train["y"]] if labelled else wanted, losses, options)


def has_labels(samples: Mapping[str, Array]) -> bool:
    """Whether samples have a class each."""
    return "y" in samples and samples["y"].dtype.kind in "iu"


def loss_of(output: Array, *, labels: bool) -> Any:
    """The loss that asks an output for labels, or for what it is before training: a classifier's is softened, as ours."""
    probabilities = output.shape[-1] > 1 and output.min() >= 0 and np.allclose(output.sum(axis=-1), 1.0, atol=1e-3)
    if labels:
        return tf_keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)

    def divergence(*shares: Any) -> Any:
        softened = [tf.nn.softmax(tf.math.log(tf.maximum(share, 1e-7)) / TEMPERATURE) for share in shares]
        return TEMPERATURE**2 * tf_keras.losses.kl_divergence(*softened)

    return divergence if probabilities else "mean_squared_error"


def prune(model: Any, training: Training, _: Sequence[str]) -> tuple[Any, float | None]:
    """The model with the smallest values of its kernels pruned, and the time of a training step."""
    own, total = tfmot.sparsity.keras, training.steps("prune")
    every = max(1, min(EVERY, round(END * total)))
    end = max(1, round(END * total / every)) * every  # between two choices the end is never reached
    schedule = own.PolynomialDecay(0.0, training.options.sparsity, begin_step=0, end_step=end, power=3, frequency=every)
    wrapped = wrap(model, lambda layer: own.prune_low_magnitude(layer, pruning_schedule=schedule))
    step_ms = training.fit(wrapped, "prune", [own.UpdatePruningStep()])
    return own.strip_pruning(wrapped), step_ms


def cluster(model: Any, training: Training, done: Sequence[str]) -> tuple[Any, float | None]:
    """The model with its kernels drawn from centroids, zeros kept if it was pruned, and the time of a training step."""
    own, count, zeros = tfmot.clustering.keras, training.options.clusters, "prune" in done

    def wrapped_or_frozen(layer: Any) -> Any:
        kernels = [np.asarray(weight) for weight in layer.trainable_weights if is_compressed(weight)]
        if any(kernel.size >= SMALLEST and len(np.unique(kernel)) > count for kernel in kernels):
            return own.cluster_weights(layer, count, own.CentroidInitialization.KMEANS_PLUS_PLUS, preserve_sparsity=zeros)
        layer.trainable = False  # nothing to cluster, and TFMOT fails to find more centroids than values
        return layer

    wrapped = wrap(model, wrapped_or_frozen)
    step_ms = training.fit(wrapped, "cluster")
    stripped = own.strip_clustering(wrapped)
    stripped.trainable = True
    return stripped, step_ms


def qat(model: Any, training: Training, done: Sequence[str]) -> tuple[Any, float | None]:
    """The model trained with rounding, still in its wrappers, and the time of a training step."""
    combine, own = tfmot.experimental.combine, tfmot.quantization.keras
    scheme = own.default_8bit.Default8BitQuantizeScheme()
    if "cluster" in done:
        scheme = combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity="prune" in done)
    elif "prune" in done:
        scheme = combine.Default8BitPrunePreserveQuantizeScheme()
    quantized = own.quantize_apply(own.quantize_annotate_model(model), scheme)
    step_ms = training.fit(quantized, "qat")
    return (combine.strip_clustering_cqat(quantized) if "cluster" in done else quantized), step_ms


def wrap(part: Any, wrapper: Callable[[Any], Any]) -> Any:
    """A model with what `wrapper` gives in the place of each layer that has a kernel, but for depthwise ones; or such a layer."""
    if isinstance(part, tf_keras.Model):
        return tf_keras.models.clone_model(part, clone_function=lambda layer: wrap(layer, wrapper))
    return wrapper(part) if any(map(is_compressed, part.trainable_weights)) else part


def is_compressed(weight: Any) -> bool:
    """Whether a variable is one of the kernels that are pruned and clustered."""
    name = weight.name.partition(":")[0].rpartition("/")[2]
    return name in {"kernel", "pointwise_kernel", "recurrent_kernel", "embeddings"} and len(weight.shape) > 1


def kernels_of(model: Any) -> Iterator[tuple[str, Array]]:
    """Names and values of a model's kernels, rounded where it is quantized: what its next layer takes."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from kernels_of(layer)
        rounded = [(weight, quantizer(weight, False, own)) for weight, quantizer, own in getattr(layer, "_weight_vars", ())]
        owner = layer.layer.name if hasattr(layer, "_weight_vars") else layer.name
        for weight, value in rounded or [(weight, weight) for weight in layer.weights]:
            if is_compressed(weight):
                name = weight.name.partition(":")[0]
                yield f"{owner}/{name.rpartition(f'{owner}/')[2]}", np.asarray(value)


# --- the file --------------------------------------------------------------------------------------------------------


def export(model: Any, training: Training, *, quantized: bool) -> bytes:
    """The model as an int8 .tflite file with float32 inputs and outputs."""
    if any(isinstance(layer, tf_keras.layers.RNN | tf_keras.layers.Bidirectional) for layer in model.layers):
        inputs = [tf_keras.Input(t.shape[1:], 1, dtype=t.dtype, name=t.name) for t in model.inputs]
        model = tf_keras.Model(inputs, model(inputs))  # the converter takes loops of a fixed batch only
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if not quantized:
        rows = range(min(CALIBRATION, len(training.feeds[0])))
        pairs = list(zip(model.input_names, training.feeds, strict=True))
        converter.representative_dataset = lambda: ({name: feed[row : row + 1] for name, feed in pairs} for row in rows)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return bytes(converter.convert())


def facts(path: Path) -> dict[str, Any]:
    """Zeros, clusters and sizes of the file, and whether all of it computes in integers."""
    kernels = [weight for weight in TfliteReader(path).info().weights if is_kernel(weight)]
    return {
        "sparsity": {kernel.name: kernel.sparsity for kernel in kernels},
        "clusters_per_channel": {kernel.name: kernel.unique_per_channel for kernel in kernels},
        "raw_bytes": raw_bytes(path),
        "deflated_bytes": deflated_bytes(path),
        "int8": not float_ops(path) and all(kernel.bits <= 8 for kernel in kernels),
    }


def accuracy(path: Path, test: Mapping[str, Array]) -> float | None:
    """Share of the samples that the file classifies as their labels say; None without labels or with several outputs."""
    with open_session(path, engine="litert") as session:
        names = [spec.name for spec in session.inputs]
        if len(session.outputs) > 1 or not has_labels(test):
            return None
        found = [session.run({name: test[name][row : row + 1] for name in names}) for row in range(len(test["y"]))]
    return float(np.mean([values.argmax() for outputs in found for values in outputs.values()] == test["y"]))


# --- in the child, and what starts it --------------------------------------------------------------------------------


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Tell the parent what is being done, and make a refusal of what libraries raise; an error of this script stays one."""
    progress(0.0, json.dumps({"stage": name}))
    try:
        yield
    except UnsupportedError:
        raise
    except Exception as error:
        if traceback.extract_tb(error.__traceback__)[-1].filename == __file__:
            raise
        traceback.print_exc()
        raise UnsupportedError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The line of an error that says what is wrong, without places in files."""
    text = str(error).partition("Call arguments received by layer")[0]
    first, *rest = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    # What is raised within a layer, or while TensorFlow traces a function, says so first and has its message last.
    inside = re.match(r"in user code:|Graph execution error:|Exception encountered when calling (layer .*)\.$", first)
    line = re.sub(r"^\S+\.py:\d+:\d+: error: |\{\{.*?\}\} ", "", rest[-1] if inside and rest else first)
    named = line if re.match(r"\w*(Error|Exception): ", line) else f"{type(error).__name__}: {line}"
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", f"{inside[1]}: {named}" if inside and inside[1] else named)[:300]


def work(**arguments: Any) -> dict[str, Any]:
    """Load, compress, write and measure; a job for a child process, which raises UnsupportedError of what cannot be done."""
    options = argparse.Namespace(**arguments)
    train, test, out = dict(np.load(options.train)), dict(np.load(options.test)) if options.test else {}, Path(options.out)
    tf.config.experimental.enable_op_determinism()
    tf_keras.utils.set_random_seed(options.seed)
    tf_keras.__internal__.enable_unsafe_deserialization()  # TFMOT makes Lambda layers and reads them back
    with stage("load"):
        model, training = load(Path(options.model), train, options)
    stages: dict[str, Any] = {}
    for step in options.steps:
        began = time.perf_counter()
        with stage(step):
            model, step_ms = {"prune": prune, "cluster": cluster, "qat": qat}[step](model, training, [*stages])
        kernels = dict(kernels_of(model))
        stages[step] = {
            "seconds": round(time.perf_counter() - began, 2),
            "step_ms": step_ms,
            "sparsity": {name: float(np.mean(values == 0)) for name, values in kernels.items()},
            "clusters": {name: len(np.unique(values)) for name, values in kernels.items()},
        }
        progress(0.0, json.dumps({"stages": stages}))
    with stage("export"):
        content = export(model, training, quantized="qat" in stages)
    out.write_bytes(content)
    return {"stage": None, "accuracy": accuracy(out, test), "file": facts(out)}


def command_line() -> argparse.Namespace:
    """What was asked for."""
    numbers = lambda text: {name: float(value) for name, value in (part.split("=") for part in text.split(","))}  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .keras file of Keras 3")
    parser.add_argument("--steps", default="qat", help="some of prune,cluster,qat, in this order (default: qat)")
    parser.add_argument("--train", required=True, help="inputs by name, and integer labels y if there are any")
    parser.add_argument("--test", help="likewise; without labels there is no accuracy")
    parser.add_argument("--epochs", type=numbers, default={}, help="default: prune=3,cluster=2,qat=2")
    parser.add_argument("--rates", type=numbers, default={}, help="of Adam; default: prune=1e-3,cluster=5e-4,qat=3e-4")
    for name, default in {"batch": 64, "sparsity": 0.8, "clusters": 16, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--out", required=True, help="the .tflite file")
    args = parser.parse_args()
    args.steps, args.epochs, args.rates = args.steps.split(","), EPOCHS | args.epochs, RATES | args.rates
    if args.steps != [step for step in EPOCHS if step in args.steps] or {*args.epochs, *args.rates} != set(EPOCHS):
        parser.error(f"steps are {','.join(EPOCHS)}, in this order")
    return args


def main() -> int:
    """Run `work` in a child, which a library may crash, and print its result as the last line of stdout."""
    args = command_line()
    logging.getLogger("edgewright").setLevel(logging.DEBUG)  # the child's stderr is then ours
    os.environ.update(TF_USE_LEGACY_KERAS="1", CUDA_VISIBLE_DEVICES="-1", PYTHONPATH=str(Path(__file__).parent))
    told: dict[str, Any] = {"status": "ok", "reason": None, "stage": None, "accuracy": None, "stages": {}, "file": None}
    with Worker() as worker:
        try:
            told |= worker.call("tfmot:work", what="it", on_progress=lambda _, text: told.update(json.loads(text)), **vars(args))
        except (UnsupportedError, WorkerCrashError, WorkerMemoryError) as error:
            told |= {"status": "refused", "reason": error.message}
    told["versions"] = {package: version(package) for package in PACKAGES}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
