"""What passes promise while they train: pruned weights are 0 in what a layer computes, clusters stay clusters, passes keep both.

Run as a script in a child (python test_invariants.py FOLDER KIND:SEED...), this file draws a model and the options of its
passes from kind and seed, trains, looks at the kernels that the layers see in every step, and writes a JSON line per case.
"""

import json
import os
import random
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

SAMPLES, BATCH = 32, 8

# --- models, in the child --------------------------------------------------------------------------------------------


def conv(draw, L, keras):
    x = keras.Input((7, 6, draw.randint(2, 4)), name="x")
    y = L.Conv2D(draw.choice([6, 8]), 3, use_bias=False)(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.DepthwiseConv2D(3, padding="same", activation="relu")(y)
    y = L.SeparableConv2D(draw.choice([5, 8]), 3, padding="same")(y)
    y = L.Conv2DTranspose(4, 2, strides=2)(L.LeakyReLU()(y))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))


def signal(draw, L, keras):
    x = keras.Input((10, draw.randint(3, 5)), name="x")
    y = L.Conv1D(9, 3, padding="causal", activation="relu")(x)
    y = L.SeparableConv1D(8, 3)(y)
    y = L.Conv1DTranspose(6, 3, strides=2, activation="relu")(y)
    y = L.TimeDistributed(L.Dense(5))(y)
    return keras.Model(x, L.Dense(2)(L.Flatten()(y)))


def dense(draw, L, keras):
    x = keras.Input((draw.randint(10, 24),), name="x")
    inner = keras.Sequential([keras.Input((12,)), L.Dense(13, "relu"), L.Dense(12)], name="inner")
    shared = L.Dense(12, "tanh")
    y = inner(shared(shared(L.Dense(12)(x))))
    return keras.Model(x, L.EinsumDense("ab,bc->ac", 4, bias_axes="c")(y))


def attention(draw, L, keras):
    x = keras.Input((5, 8), name="x")
    y = L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)])
    y = L.Dense(8)(L.Dense(16, "gelu")(L.LayerNormalization()(y)))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(y)))


def recurrent(draw, L, keras):
    x = keras.Input((4,), name="x", dtype="int32")
    kind = draw.choice([L.LSTM, L.GRU, L.SimpleRNN])
    y = kind(6, return_sequences=True)(L.Embedding(12, 8)(x))
    return keras.Model(x, L.Dense(3)(L.Bidirectional(L.LSTM(4))(y)))


MODELS = {"conv": conv, "signal": signal, "dense": dense, "attention": attention, "recurrent": recurrent}


def axes(layer, name, rank):
    """Axes of a kernel that one output value sums over, and the others, by what the layer's documentation says of them."""
    kind = type(layer).__name__
    if name == "embeddings":
        outputs = []
    elif "depthwise" in name or kind.startswith("DepthwiseConv"):
        outputs = [rank - 2, rank - 1]
    elif "Transpose" in kind:
        outputs = [rank - 2]
    elif kind == "EinsumDense" and rank == 3:  # attention: (inputs, heads, width) and (heads, width, outputs)
        outputs = [2] if layer.name == "attention_output" else [1, 2]
    else:
        outputs = [rank - 1]
    return [axis for axis in range(rank) if axis not in outputs], outputs


def matrix(layer, name, values):
    """A kernel as (inputs, output channels)."""
    inputs, outputs = axes(layer, name, values.ndim)
    return values.transpose(inputs + outputs).reshape(int(np.prod([values.shape[axis] for axis in inputs])), -1)


# --- what is watched -------------------------------------------------------------------------------------------------


def kernels_within(layer):
    """(path, owner, variable) of every kernel of a layer or model."""
    for owner in [layer, *layer._flatten_layers(include_self=False, recursive=True)]:
        for variable in owner._trainable_variables + owner._non_trainable_variables:
            if variable.name.endswith(("kernel", "embeddings")) and len(variable.shape) > 1:
                yield variable.path, owner, variable


def spy_class():
    """A Trainer that keeps what every kernel is within its layer's call, in each step of the training itself and at the end."""
    import keras
    import tensorflow as tf

    from edgewright.optimizers.training import Trainer

    class Spy(Trainer):
        outputs, history = None, ()

        def fit(self, model, what, each_step=None, **more):
            self.history, self.heard = [{}], []
            for shaped in (layer for layer in model.layers if type(layer).__name__ == "Shaped"):
                self.listen(shaped.layer)

            def step(number):
                if each_step:
                    each_step(number)
                self.history.append({})

            result = super().fit(model, what, step, **more)
            self.history = [*self.history[1:], {}]
            probe = [self.data.inputs[tensor._keras_history.operation.name][:2] for tensor in model.inputs]
            self.outputs = np.asarray(model(probe, training=False))
            for layer in self.heard:
                object.__delattr__(layer, "call")
            return result

        def listen(self, layer):
            call, own = layer.call, list(kernels_within(layer))

            def heard(*args, **kwargs):
                for path, _, variable in own:
                    value = keras.ops.convert_to_tensor(variable)
                    if tf.executing_eagerly():
                        self.keep(path, np.asarray(value))
                    else:
                        tf.numpy_function(lambda array, path=path: self.keep(path, array), [value], tf.int64)
                return call(*args, **kwargs)

            object.__setattr__(layer, "call", heard)
            self.heard.append(layer)

        def keep(self, path, value):
            self.history[-1][path] = value.copy()
            return np.int64(0)

    return Spy


def ran(name, options, model, data, seed):
    """A pass on a model: the model that comes out, its kernels by path in every step, and what it gives for two samples."""
    from edgewright.optimizers.passes import PASSES, Task

    cls = PASSES.get(name)
    step = cls(cls.Options(**options))
    spy = spy_class()(step.options, data, seed)
    outcome = step.transform(Task(model, spy, model, seed, []))
    return outcome.model, spy


def owners(model):
    return {path: (owner, variable) for path, owner, variable in kernels_within(model)}


# --- what must hold --------------------------------------------------------------------------------------------------


def shares(options, steps):
    """Share of the final sparsity that each step trains with, by the formula of M. Zhu and S. Gupta, and the last one."""
    found, now = [], 0.0
    power = {"cubic": 3.0, "polynomial": options["power"]}.get(options["curve"])
    for step in range(steps + 1):
        done = step / steps
        if step % options["every"] == 0 or step >= options["end"] * steps:
            if done >= options["end"] - 1e-9:
                now = 1.0
            elif done >= options["begin"]:
                now = (
                    1.0
                    if power is None
                    else 1.0 - (1.0 - (done - options["begin"]) / (options["end"] - options["begin"])) ** power
                )
        found.append(now)
    return found


def blocks(values, tall, wide):
    """Values in the order of their blocks, padded with nan: (blocks, tall * wide)."""
    rows, columns = values.shape
    padded = np.pad(values, ((0, -rows % tall), (0, -columns % wide)), constant_values=np.nan)
    return padded.reshape(padded.shape[0] // tall, tall, -1, wide).transpose(0, 2, 1, 3).reshape(-1, tall * wide)


def whole_blocks(values, block):
    """Whether the blocks of a matrix (inputs, channels) are 0 as a whole or not at all."""
    groups = blocks((values == 0).astype(float), *block)
    return all(len(set(group[~np.isnan(group)])) == 1 for group in groups)


def zeros_of(values, width, pattern):
    """How many zeros a matrix (inputs, channels) of an n:m pattern has, of `width` neighbours each; None if it is none."""
    keep, of = map(int, pattern.split(":"))
    groups = [spot[start : start + of] for spot in values.reshape(-1, width, values.shape[1]) for start in range(0, width, of)]
    if any((group != 0).sum(axis=0).max() > keep for group in groups):
        return None
    return sum(max(0, len(group) - keep) for group in groups) * values.shape[1]


def pruned(case, model, spy, before):
    """What is wrong after pruning."""
    options, history = case["passes"][0][1], spy.history
    if not options["epochs"]:
        return
    steps = options["epochs"] * -(-SAMPLES // BATCH)
    wanted = shares(options, steps)
    for path, (owner, variable) in owners(model).items():
        if path not in history[0] or ("depthwise" in path and not options["depthwise"]):
            continue
        result = np.asarray(variable)
        whole = matrix(owner, variable.name, result)
        plain = options["pattern"] == "unstructured" and options["scope"] == "layer"
        count = lambda share, size=result.size: min(round(share * options["sparsity"] * size), size - 1)  # noqa: E731
        # after the last step, pruning may still have to come to its end
        for step, seen in enumerate(history[:-1] if options["end"] == 1.0 else history):
            if step >= options["end"] * steps and ((seen[path] == 0) != (result == 0)).any():
                yield f"{path}: other zeros in step {step} than at the end"
            if plain and (seen[path] == 0).sum() != count(wanted[step]):
                yield f"{path}: {(seen[path] == 0).sum()} zeros of {result.size} in step {step}, share {wanted[step]:.3f}"
        if plain and (result == 0).sum() != count(1.0):
            yield f"{path}: {(result == 0).sum()} zeros of {result.size}, share {options['sparsity']}"
        if options["pattern"].startswith("block:"):
            block = tuple(map(int, options["pattern"].removeprefix("block:").split("x")))
            if not whole_blocks(whole, block):
                yield f"{path}: blocks are cut"
        elif options["pattern"] != "unstructured":
            width = result.shape[axes(owner, variable.name, result.ndim)[0][-1]]
            needed = zeros_of(whole, width, options["pattern"])
            if needed != (result == 0).sum():
                yield f"{path}: {(result == 0).sum()} zeros, {needed} are needed for {options['pattern']}"
        if options["scope"] == "layer" and (result == before[path])[result != 0].all():  # global may leave nothing of a layer
            yield f"{path}: what is left was not trained"


def scaled(values):
    """A matrix in units of its channels' largest absolute values."""
    largest = np.abs(values).max(axis=0)
    return values.astype(np.float64) / np.where(largest > 0, largest, 1.0)


def different(values):
    """How many different values there are, but for what division by a scale does to their last digits."""
    return 1 + int((np.diff(np.sort(values, axis=None)) > 1e-5).sum())


def parts(values, per):
    """The arrays of a matrix (inputs, channels) that have clusters of their own, in the units that these are counted in."""
    return list(values.T) if per == "channel" else [scaled(values) if per == "scaled" else values]


def clustered(case, model, spy, before):
    """What is wrong after clustering."""
    options, history = next(o for name, o in case["passes"] if name == "cluster"), spy.history
    moved = 0
    for path, (owner, variable) in owners(model).items():
        if path not in history[0] or history[0][path].size < options["smallest"]:
            continue
        first, result = history[0][path], np.asarray(variable)
        zero = before[path] == 0 if path in before else np.zeros(result.shape, bool)  # other paths are folded: no zeros left
        keeps = options["preserve_zeros"] == "yes" or zero.mean() >= 0.05
        for step, values in enumerate([*(seen[path] for seen in history), result]):
            now = parts(matrix(owner, variable.name, values), options["per"])
            if (count := max(map(different, now))) > options["clusters"]:
                yield f"{path}: {count} clusters in step {step}, at most {options['clusters']} are promised"
            if keeps and (values[zero] != 0).any():
                yield f"{path}: zeros are lost in step {step}"
            if keeps and (values[~zero] == 0).any() and not (first[~zero] == 0).any():
                yield f"{path}: zeros are made in step {step}"
        moved += int((np.abs(result - first) > 1e-6).any())
    if not moved and (case["case"].startswith("linear") or (options.get("init"), options["per"]) != ("linear", "scaled")):
        yield "no centroid moved"


def kept(case, model, spy, before):
    """What is wrong after quantization-aware training of a pruned and clustered model, whose kernels are `before`."""
    options = next((o for name, o in case["passes"] if name == "cluster"), None)
    found = owners(model)
    if set(found) != set(before):
        yield f"kernels are {sorted(found)}, they were {sorted(before)}"
    for path in set(found) & set(before):
        (owner, variable), values = found[path], before[path]
        result = np.asarray(variable)
        steps = [*(seen[path] for seen in spy.history if path in seen), result]
        whole = [matrix(owner, variable.name, one) for one in steps]
        if (values == 0).mean() >= 0.05 and any((one[values == 0] != 0).any() for one in steps):
            yield f"{path}: zeros are lost"
        if options and values.size >= options["smallest"]:
            for one in whole:
                count = max(map(different, parts(one, "scaled" if options["per"] == "scaled" else "channel")))
                if count > options["clusters"]:
                    yield f"{path}: {count} clusters, {options['clusters']} before"
        steps_of_scale = scaled(whole[-1]) * 127
        if np.abs(steps_of_scale - np.round(steps_of_scale)).max() > 0.01:
            yield f"{path}: is not on the grid of 127 steps"


# --- cases -----------------------------------------------------------------------------------------------------------


PRUNE = {
    "epochs": 3,
    "batch": BATCH,
    "sparsity": 0.8,
    "curve": "cubic",
    "power": 1.0,
    "begin": 0.0,
    "end": 0.75,
    "every": 3,
    "scope": "layer",
    "depthwise": True,
    "pattern": "unstructured",
}
CLUSTER = {"epochs": 1, "batch": BATCH, "clusters": 4, "per": "scaled", "preserve_zeros": "yes", "smallest": 16}
QAT = {"epochs": 2, "batch": BATCH, "learning_rate": 0.01}
LIMITS = {
    "pattern at the step before its end": [("prune", {**PRUNE, "end": 0.7, "pattern": "2:4"})],
    "sparsity with patience": [
        ("prune", {**PRUNE, "epochs": 6, "learning_rate": 0.1, "patience": 2, "end": 0.25, "sparsity": 0.95})
    ],
    "two clusters and zeros": [("prune", {**PRUNE, "epochs": 0}), ("cluster", {**CLUSTER, "clusters": 2})],
    "linear starts": [("prune", {**PRUNE, "epochs": 0}), ("cluster", {**CLUSTER, "clusters": 6, "init": "linear"})],
    "clusters of channels and qat": [("cluster", {**CLUSTER, "clusters": 6, "per": "channel", "smallest": 64}), ("qat", QAT)],
    "forty clusters and qat": [("cluster", {**CLUSTER, "clusters": 40, "smallest": 64}), ("qat", QAT)],
}
"""Cases at the limits of options: the passes that show them."""


def drawn(kind, seed):
    """A case: a model and passes with their options."""
    if kind in LIMITS:
        return {"case": f"{kind}:{seed}", "model": "dense", "passes": LIMITS[kind]}
    draw = random.Random(f"{kind}:{seed}")
    epochs = draw.choice([2, 3])
    base = {"epochs": epochs, "batch": BATCH, "learning_rate": 0.01}
    begin = draw.choice([0.0, 0.2])
    prune = {
        **base,
        "sparsity": draw.choice([0.3, 0.5, 0.8, 0.93]),
        "curve": draw.choice(["cubic", "polynomial", "constant"]),
        "power": draw.choice([1.0, 2.0]),
        "begin": begin,
        "end": draw.choice([0.5, 0.75, 1.0]),
        "every": draw.choice([1, 2, 3]),
        "scope": draw.choice(["layer", "layer", "global"]),
        "depthwise": draw.random() < 0.5,
        "pattern": draw.choice(["unstructured", "unstructured", "2:4", "1:4", "3:8", "block:2x2", "block:4x1"]),
    }
    count = draw.choice([4, 6, 9])
    cluster = {
        **base,
        "clusters": count,
        "init": draw.choice(["kmeans++", "linear", "density"]),
        "per": draw.choice(["scaled", "tensor", "channel"] if kind == "cluster" else ["scaled", "tensor"]),
        "preserve_zeros": draw.choice(["auto", "yes"]),
        "smallest": 16 if kind == "cluster" else 4 * count,
    }
    qat = {**base, "learning_rate": 0.003}
    passes = {
        "prune": [("prune", prune)],
        "cluster": [("cluster", cluster)],
        "prune, cluster": [("prune", prune), ("cluster", cluster)],
        "prune, qat": [("prune", prune), ("qat", qat)],
        "prune, cluster, qat": [("prune", prune), ("cluster", cluster), ("qat", qat)],
    }[kind]
    return {"case": f"{kind}:{seed}", "model": list(MODELS)[seed % len(MODELS)], "passes": passes}


def checked(case):
    """What is wrong with a case, in words."""
    import keras

    from edgewright.optimizers.training_data import TrainingData

    seed = int(case["case"].rpartition(":")[2])
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = MODELS[case["model"]](random.Random(case["case"]), keras.layers, keras)
    shape = tuple(model.inputs[0].shape[1:])
    if model.inputs[0].dtype == "int32":
        x = rng.integers(0, 12, (SAMPLES, *shape)).astype(np.int32)
    else:
        x = rng.normal(size=(SAMPLES, *shape)).astype(np.float32)
    y = rng.normal(size=(SAMPLES, *model.outputs[0].shape[1:])).astype(np.float32)
    data = TrainingData({"x": x}, (y,), ("values",), None, (False,))
    problems = []
    for name, options in case["passes"]:
        before = {path: np.array(variable) for path, (_, variable) in owners(model).items()}
        model, spy = ran(name, options, model, data, seed)
        check = {"prune": pruned, "cluster": clustered, "qat": kept}[name]
        problems += [f"{name}: {text}" for text in check(case, model, spy, before)]
        if spy.outputs is None or options.get("end") == 1.0:  # not trained, or pruned after the last step
            continue
        off = np.abs(np.asarray(model(x[:2], training=False)) - spy.outputs).max()
        if off > 1e-4 * max(1.0, np.abs(spy.outputs).max()):
            problems.append(f"{name}: the model gives something else than the one that was trained ({off:.2g})")
    return problems


def main(folder, asked):
    folder.mkdir(parents=True, exist_ok=True)
    for text in asked:
        kind, _, seed = text.rpartition(":")
        case = drawn(kind, int(seed))
        try:
            case["problems"] = checked(case)
        except Exception:
            case["problems"] = [traceback.format_exc()[-3000:]]
        with (folder / "found.jsonl").open("a") as file:  # libraries print
            file.write(json.dumps(case) + "\n")


# --- tests -----------------------------------------------------------------------------------------------------------


def train(folder, cases):
    """The script's answers by case."""
    command = [sys.executable, __file__, folder, *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(line) for line in (folder / "found.jsonl").read_text().splitlines()]
    assert [answer["case"] for answer in answers] == list(cases)
    return {answer["case"]: answer for answer in answers}


def check(answer):
    """Fail with the whole case and how to repeat it."""
    told = "\n".join(answer["problems"][:20])
    assert not answer["problems"], (
        f"{told}\nrepeat: python {Path(__file__).name} FOLDER '{answer['case']}'\n{json.dumps(answer)[:3000]}"
    )


FEW = ("prune:0", "prune:1", "prune:3", "cluster:2", "cluster:13", "prune, cluster, qat:5")
MANY = (
    *(f"{kind}:{seed}" for kind in ("prune", "cluster") for seed in range(20, 28)),
    *(f"{kind}:{seed}" for kind in ("prune, cluster, qat", "prune, qat", "prune, cluster") for seed in range(20, 23)),
)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return train(tmp_path_factory.mktemp("few"), (*FEW, *(f"{kind}:0" for kind in LIMITS)))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return train(tmp_path_factory.mktemp("many"), MANY)


@pytest.mark.parametrize("case", FEW)
def test_what_passes_promise_holds_in_every_step(few, case):
    check(few[case])


@pytest.mark.parametrize("kind", LIMITS)
def test_what_passes_promise_holds_at_their_limits(few, kind):
    check(few[f"{kind}:0"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", MANY)
def test_what_passes_promise_holds_in_many_cases(many, case):
    check(many[case])


if __name__ == "__main__":
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    main(Path(sys.argv[1]), sys.argv[2:])
