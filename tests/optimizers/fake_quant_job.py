"""Draws small models, gives them learned ranges, exports them to int8 and compares LiteRT with Keras; run as a script.

Usage: python fake_quant_job.py FOLDER KIND:SEED... Every case is drawn from its kind and seed alone, so KIND:SEED repeats
it. Writes one JSON line per case to FOLDER/found.jsonl: what was drawn, and the largest difference in steps of the output's
scale by engine and by data: "inside" are samples that ranges were learned from, "beyond" reach further; or an "error".
Cases stand side by side in models of four dozen, because training and lowering one costs seconds whatever its size.
"""

import itertools
import json
import os
import random
import sys
import traceback
import zlib
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import numpy as np

GROUP = 48
SHOWN, ASKED = 48, 12
"""Samples that ranges are learned from; how many of them are compared, and as many that reach further."""

ENGINES = ("xnnpack", "reference")

DATA = {
    "plain": lambda rng, shape: rng.normal(0, 1, shape),
    "uniform": lambda rng, shape: rng.uniform(0, 1, shape),
    "high": lambda rng, shape: rng.normal(3, 0.8, shape),
    "negative": lambda rng, shape: -np.abs(rng.normal(1, 2, shape)),
    "low": lambda rng, shape: rng.normal(-2, 1.5, shape),
    "tiny": lambda rng, shape: rng.normal(0, 1e-3, shape),
    "large": lambda rng, shape: rng.normal(20, 200, shape),
    "heavy": lambda rng, shape: rng.standard_t(3, shape),
}
FUSED = [None, None, "relu", "relu6"]
BOUNDED = ("softmax", "sigmoid", "tanh")
OWN_OP = ["sigmoid", "tanh", "softmax", "elu", "gelu", "swish", "hard_swish", "leaky_relu"]


def size(draw, low=3, high=11):
    return draw.randint(low, high)


def window(draw, dims):
    """Kernel size, and strides or a dilation, for a layer over `dims` axes."""
    kernel = [draw.randint(1, 4) for _ in range(dims)]
    found = {"kernel_size": kernel, "padding": draw.choice(["valid", "same"])}
    how = draw.choice(["plain", "strides", "dilation"])
    if how == "strides":
        found["strides"] = draw.randint(2, 3)
    elif how == "dilation" and found["padding"] == "valid":
        found["dilation_rate"] = 2
    return found


def space(draw, dims):
    """A shape that any `window` fits into."""
    return [size(draw, 8, 14) for _ in range(dims)]


def conv(dims):
    def make(draw):
        more = {"groups": 2} if dims == 2 and draw.random() < 0.15 else {}
        channels = draw.choice([2, 4, 6]) if more else size(draw, 1, 7)
        config = {"filters": 2 * size(draw, 1, 5), "use_bias": draw.random() < 0.7, "activation": draw.choice(FUSED)}
        config |= window(draw, dims) | more
        if dims == 1 and draw.random() < 0.25:
            config["padding"] = "causal"
        return [[*space(draw, dims), channels]], [(f"Conv{dims}D", config)]

    return make


def transposed(dims, activations=(None,), biased=0.7):
    def make(draw):
        kernel = [draw.randint(1, 4) for _ in range(dims)]
        config = {
            "filters": size(draw, 1, 6),
            "kernel_size": kernel,
            "strides": draw.randint(1, 3),
            "padding": draw.choice(["valid", "same"]),
            "use_bias": draw.random() < biased,
            "activation": draw.choice(activations),
        }
        return [[*[size(draw, 3, 7) for _ in range(dims)], size(draw, 1, 5)]], [(f"Conv{dims}DTranspose", config)]

    return make


def depthwise(dims):
    def make(draw):
        config = {"depth_multiplier": draw.randint(1, 2), "use_bias": draw.random() < 0.7, "activation": draw.choice(FUSED)}
        return [[*space(draw, dims), size(draw, 2, 8)]], [(f"DepthwiseConv{dims}D", config | window(draw, dims))]

    return make


def separable(dims):
    def make(draw):
        config = {"filters": size(draw, 2, 8), "depth_multiplier": draw.randint(1, 2), "activation": draw.choice(FUSED)}
        return [[*space(draw, dims), size(draw, 2, 6)]], [(f"SeparableConv{dims}D", config | window(draw, dims))]

    return make


def dense(draw):
    shape = [size(draw, 1, 40)] if draw.random() < 0.6 else [size(draw, 2, 6), size(draw, 2, 12)]
    return [shape], [("Dense", {"units": size(draw, 1, 24), "use_bias": draw.random() < 0.7, "activation": draw.choice(FUSED)})]


def pooled(kind, dims):
    def make(draw):
        config = {
            "pool_size": draw.randint(2, 4),
            "strides": draw.choice([None, 1, 2]),
            "padding": draw.choice(["valid", "same"]),
        }
        return [[*space(draw, dims), size(draw, 1, 6)]], [(f"{kind}Pooling{dims}D", config)]

    return make


def pooled_whole(kind, dims, keep=0.4):
    def make(draw):
        return [[*space(draw, dims), size(draw, 1, 6)]], [(f"Global{kind}Pooling{dims}D", {"keepdims": draw.random() < keep})]

    return make


def merged(kind, most=2, least=2):
    def make(draw):
        shape = [*([size(draw, 2, 5)] if draw.random() < 0.5 else []), size(draw, 2, 6), size(draw, 2, 8)]
        count = draw.randint(least, most)
        shapes = [list(shape) for _ in range(count)]
        if kind == "Concatenate":
            for own in shapes:
                own[-1] = size(draw, 1, 5)
        elif kind in {"Multiply", "Add"} and count == 2 and draw.random() < 0.3:
            shapes[1][:-1] = [1] * (len(shape) - 1)  # as squeeze-and-excitation multiplies
        return shapes, [(kind, {})]

    return make


def scaled(draw):
    return [[size(draw), size(draw, 1, 4)]], [
        ("Rescaling", {"scale": draw.choice([1 / 255, 2.0, -0.5, 1 / 127.5]), "offset": draw.choice([0.0, -1.0, 0.3])})
    ]


def normalized(draw):
    channels = size(draw, 1, 5)
    config = {
        "mean": [round(draw.uniform(-1, 1), 3) for _ in range(channels)],
        "variance": [round(draw.uniform(0.1, 4), 3) for _ in range(channels)],
    }
    return [[size(draw), channels]], [("Normalization", config)]


def alone(kind, **config):
    def make(draw):
        return [[size(draw, 4, 9), size(draw, 2, 8)]], [(kind, dict(config))]

    return make


def leaky(draw):
    return [[size(draw), size(draw, 1, 8)]], [("LeakyReLU", {"negative_slope": draw.choice([0.01, 0.1, 0.3])})]


def embedded(draw):
    words = size(draw, 4, 40)
    return [[size(draw, 2, 9)]], [("Embedding", {"input_dim": words, "output_dim": size(draw, 2, 12)})]


def padded(draw):
    return [[size(draw, 3, 8), size(draw, 3, 8), size(draw, 1, 5)]], [("ZeroPadding2D", {"padding": draw.randint(1, 2)})]


def enlarged(draw):
    config = {"size": draw.randint(2, 3), "interpolation": draw.choice(["nearest", "bilinear"])}
    return [[size(draw, 2, 6), size(draw, 2, 6), size(draw, 1, 5)]], [("UpSampling2D", config)]


def folded(*makes):
    """A kernel layer, BatchNorm, activation: rounded once."""

    def make(draw):
        shapes, ((kind, config),) = draw.choice(makes)(draw)
        after = [("ReLU", {}), ("ReLU", {"max_value": 6.0}), ("Activation", {"activation": "relu6"})]
        return shapes, [(kind, {**config, "activation": None}), ("BatchNormalization", {}), draw.choice(after)]

    return make


def activated(draw):
    """A kernel layer with an activation that is an op of its own in the file."""
    shapes, ((kind, config),) = draw.choice([conv(2), depthwise(1), dense])(draw)
    return shapes, [(kind, {**config, "activation": draw.choice(OWN_OP)})]


def classified(draw):
    """What ends most classifiers."""
    shape = [size(draw, 3, 7), size(draw, 3, 7), size(draw, 2, 6)]
    return [shape], [("Flatten", {}), ("Dense", {"units": size(draw, 2, 12), "activation": "softmax"})]


def dead(*makes):
    """Kernel layers of which some channels are nothing, or next to nothing, but a bias."""

    def make(draw):
        shapes, ((kind, config),) = draw.choice(makes)(draw)
        for name in {"filters", "units"} & set(config):
            config[name] = max(2, config[name])
        shapes[0][-1] = max(2, shapes[0][-1])
        return shapes, [(kind, {**config, "use_bias": True, "activation": None})]

    return make


def dead_layer(draw):
    """A layer of which nothing is left, and one behind it."""
    return [[size(draw, 3, 9)]], [
        ("Dense", {"units": 4, "activation": "relu", "kernel_initializer": "zeros"}),
        ("Dense", {"units": 3, "bias_initializer": "ones"}),
    ]


def attention(draw):
    return [[size(draw, 2, 6), size(draw, 3, 9)]], [
        ("MultiHeadAttention", {"num_heads": draw.randint(1, 3), "key_dim": size(draw, 2, 5)})
    ]


def recurrent(kind):
    def make(draw):
        return [[size(draw, 2, 5), size(draw, 1, 5)]], [
            (kind, {"units": size(draw, 2, 6), "return_sequences": draw.random() < 0.5})
        ]

    return make


def chain(draw):
    """Layers one behind the other: what one rounds differently, the next one amplifies."""
    shape = [*space(draw, 2), size(draw, 1, 4)]
    first = {"filters": 4, "kernel_size": 3, "padding": "same", "activation": "relu"}
    last = {"units": size(draw, 1, 6)}
    return [shape], [
        ("Conv2D", first),
        ("MaxPooling2D", {}),
        ("DepthwiseConv2D", {"kernel_size": 3}),
        ("BatchNormalization", {}),
        ("ReLU", {"max_value": 6.0}),
        ("Flatten", {}),
        ("Dropout", {"rate": 0.3}),
        ("Dense", last),
    ]


SIMPLE = "plain uniform high low".split()
NARROW = (
    *"exponential selu softplus mish swish chain ReLU ReLU6 LayerNormalization SimpleRNN LSTM GRU MultiHeadAttention".split(),
    *("dead channels", "dead channels, transposed", "faint channels", "dead layer", "Flatten, Dense with softmax"),
    *("Conv2DTranspose with activation", "Conv2DTranspose with relu, no bias"),
)
"""Kinds that are drawn with simple data: others make infinities, or nothing but zeros, or lose all digits."""

KINDS = {
    **{f"Conv{d}D": conv(d) for d in (1, 2)},
    **{f"Conv{d}DTranspose": transposed(d) for d in (1, 2)},
    **{f"DepthwiseConv{d}D": depthwise(d) for d in (1, 2)},
    **{f"SeparableConv{d}D": separable(d) for d in (1, 2)},
    "Dense": dense,
    "Conv, BatchNorm, ReLU": folded(conv(1), conv(2), depthwise(1), depthwise(2), dense),
    "SeparableConv, BatchNorm, ReLU": folded(separable(1), separable(2)),
    "Conv2DTranspose, BatchNorm, ReLU": folded(transposed(2)),
    "Conv2DTranspose with activation": transposed(2, ("relu", "relu6"), biased=1.0),
    "Conv2DTranspose with relu, no bias": transposed(2, ("relu",), biased=0.0),
    "kernel with activation": activated,
    "Flatten, Dense with softmax": classified,
    "dead channels": dead(conv(2), conv(1), depthwise(2), depthwise(1), dense),
    "dead channels, transposed": dead(transposed(2), transposed(1)),
    "faint channels": dead(conv(2), conv(1), depthwise(2), depthwise(1), dense),
    "dead layer": dead_layer,
    "chain": chain,
    "MultiHeadAttention": attention,
    **{kind: recurrent(kind) for kind in ("SimpleRNN", "LSTM", "GRU")},
    **{f"{k}Pooling{d}D": pooled(k, d) for k in ("Average", "Max") for d in (1, 2)},
    **{f"Global{k}Pooling{d}D": pooled_whole(k, d) for k in ("Average", "Max") for d in (1, 2)},
    **{kind: merged(kind) for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
    "Concatenate": merged("Concatenate", 3),
    "Concatenate, Flatten": merged("Concatenate", 3),
    "GlobalAveragePooling2D, Flatten": pooled_whole("Average", 2, keep=1.0),
    **{f"{kind} of three": merged(kind, 3, least=3) for kind in ("Add", "Multiply", "Average", "Maximum")},
    "Rescaling": scaled,
    "Normalization": normalized,
    "BatchNormalization": alone("BatchNormalization"),
    "LayerNormalization": alone("LayerNormalization"),
    "ReLU": alone("ReLU"),
    "ReLU6": alone("ReLU", max_value=6.0),
    "LeakyReLU": leaky,
    "PReLU": alone("PReLU", shared_axes=[1]),
    "Softmax": alone("Softmax"),
    **{
        name: alone("Activation", activation=name)
        for name in "elu selu gelu swish hard_swish hard_sigmoid sigmoid tanh softplus mish exponential".split()
    },
    "Embedding": embedded,
    "ZeroPadding2D": padded,
    "UpSampling2D": enlarged,
}


ENDS = {
    "kernel with activation": ["Identity", "Flatten"],
    "Flatten, Dense with softmax": ["none"],
    **{kind: ["none", "Identity"] for kind in ("Concatenate", "GlobalAveragePooling1D", "GlobalAveragePooling2D")},
    **{kind: ["Flatten"] for kind in ("Concatenate, Flatten", "GlobalAveragePooling2D, Flatten")},
}
"""What stands behind the layers of a kind, where not everything may."""


def drawn(kind, seed):
    """A case: shapes of the inputs, layers with their configurations, what data look like and what stands behind."""
    draw = random.Random(f"{kind}:{seed}")
    shapes, layers = KINDS[kind](draw)
    plain = kind in NARROW or "BatchNorm" in kind
    data = [draw.choice(SIMPLE if plain else list(DATA)) for _ in shapes]
    fixed = {"faint channels": "faint", "dead layer": "none", "SimpleRNN": "even", "LSTM": "even", "GRU": "even"}
    fixed |= {"dead channels": "dead", "dead channels, transposed": "dead"}
    weights = fixed.get(kind) or draw.choice(["even", "spread", "even" if plain else "small"])
    return {
        "case": f"{kind}:{seed}",
        "shapes": shapes,
        "layers": layers,
        "data": data,
        "weights": weights,
        "end": draw.choice(ENDS.get(kind, ["none", "Identity", "Flatten"])),
    }


def rows(case, index, shape, count, rng, wider=1.0):
    """Samples of one input."""
    kind, config = case["layers"][0]
    if kind == "Embedding":
        return rng.integers(0, config["input_dim"], (count, *shape)).astype(np.int32)
    values = DATA[case["data"][index]](rng, (count, *shape))
    return (values * wider).astype(np.float32)


def fill(layer, how, largest, rng):
    """Weights of a layer: channels as `how` says, biases about as large as what the kernel makes of `largest`."""
    channels = np.ones(1)
    for variable in layer.weights:
        shape, name = tuple(variable.shape), variable.name
        values = rng.normal(0, 1, shape)
        if name.endswith(("kernel", "embeddings")):
            split = "depthwise" in name or "Transpose" in type(layer).__name__ or type(layer).__name__.startswith("Depthwise")
            axis = len(shape) - 2 if split else len(shape) - 1
            channels = np.ones(shape[axis])
            if how == "spread":
                channels = 10 ** rng.uniform(-2, 0.5, shape[axis])
            elif how == "small":
                channels = channels * 1e-2
            elif how in {"dead", "faint"}:
                channels[:: max(2, shape[axis] // 2)] = {"dead": 0.0, "faint": 1e-9}[how]
            form = [-1 if i == axis else 1 for i in range(len(shape))]
            values = values * channels.reshape(form) / np.sqrt(max(1, values.size / shape[axis]))
        elif name == "bias":
            values = values * 0.3 * largest * channels.max()
        elif name in {"gamma", "moving_variance"}:
            values = rng.uniform(0.3, 2.0, shape)
        elif name == "alpha":
            values = rng.uniform(0.0, 0.6, shape)
        elif name not in {"beta", "moving_mean"}:
            continue
        variable.assign(values.astype(np.float32))


def made(cases):
    """A Keras model of several cases side by side, samples to learn from and samples to compare: by input."""
    import keras

    inputs, outputs, shown, asked = [], [], {}, {}
    for number, case in enumerate(cases):
        rng = np.random.default_rng(zlib.crc32(case["case"].encode()))
        own = []
        for index, shape in enumerate(case["shapes"]):
            values = rows(case, index, shape, SHOWN, rng)
            name = f"c{number}_x{index}"
            own.append(keras.Input(shape, name=name, dtype=str(values.dtype)))
            shown[name] = values
            asked[name] = np.concatenate([values[:ASKED], rows(case, index, shape, ASKED, rng, wider=1.6)])
        largest = float(np.abs(shown[own[0].name]).max())
        value = own if len(own) > 1 else own[0]
        behind = [] if case["end"] == "none" else [(case["end"], {})]
        layers = [
            getattr(keras.layers, kind)(**config, name=f"c{number}_{at}_{kind.lower()}")
            for at, (kind, config) in enumerate([*case["layers"], *behind])
        ]
        values = []
        for layer in layers:
            value = layer(value, value) if type(layer).__name__ == "MultiHeadAttention" else layer(value)
            values.append(value)
        for _ in range(20):
            for layer in layers if case["weights"] != "none" else []:
                fill(layer, case["weights"], largest, rng)
            found = keras.Model(own, values)([shown[x.name][:ASKED] for x in own])
            if all(np.ptp(one) > 0 for one in found):
                break  # what is 0 everywhere has no range
        inputs += own
        outputs.append(value)
    return keras.Model(inputs, outputs), shown, asked


def exported(model, shown, folder):
    """The model after the pass `qat` without training, loaded again, and its int8 file."""
    from edgewright.converters.quantize import quantize_tflite
    from edgewright.converters.readers import READERS, LowerOptions
    from edgewright.optimizers.passes import Task
    from edgewright.optimizers.passes.qat import Qat, QatOptions
    from edgewright.optimizers.training import Trainer
    from edgewright.optimizers.training_data import TrainingData
    from edgewright.pass_job import save_keras

    count = len(model.outputs)
    options = QatOptions(epochs=0, batch=SHOWN // 2)
    data = TrainingData(shown, (None,) * count, ("values",) * count, None, (False,) * count)
    outcome = Qat(options).transform(Task(model, Trainer(options, data, 0), model, 0, []))
    save_keras(outcome.model, folder / "model.keras")
    reader = READERS.get("keras")(folder / "model.keras")
    reader.lower(folder / "float.tflite", LowerOptions(batch=1, unroll=128))
    np.savez(folder / "shown.npz", **shown)
    samples = {"source": str(folder / "shown.npz")}
    arguments = {"precision": "int8", "io": "int8", "samples": samples, "metadata": {}}
    left = quantize_tflite(str(folder / "float.tflite"), str(folder / "int8.tflite"), **arguments)["float_ops"]
    return reader, folder / "int8.tflite", left


def stored(values, detail):
    """Floating values as the integers of a tensor."""
    if detail["dtype"] == np.int32:
        return values
    scale, zero = detail["quantization"]
    return np.clip(np.round(values.astype(np.float64) / scale) + zero, -128, 127).astype(np.int8)


def on_grid(values, detail):
    """Values as the tensor holds them, so that no two roundings disagree about a half; those beyond its range as they are."""
    if detail["dtype"] == np.int32:
        return values
    scale, zero = detail["quantization"]
    integers = np.round(values.astype(np.float64) / scale)
    within = (integers + zero >= -128) & (integers + zero <= 127)
    return np.where(within, integers * scale, values).astype(np.float32)


def runner(path, engine):
    """The file's signature in LiteRT, with its default kernels or its reference kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if engine == "reference" else OpResolverType.AUTO
    return Interpreter(str(path), experimental_op_resolver_type=resolver).get_signature_runner()


def answers(run, feeds):
    """What the file gives on every row, by output."""
    details, found = run.get_input_details(), {name: [] for name in run.get_output_details()}
    for row in range(2 * ASKED):
        for name, value in run(**{n: stored(v[row : row + 1], details[n]) for n, v in feeds.items()}).items():
            found[name].append(value.copy())
    return {name: np.concatenate(values) for name, values in found.items()}


def ends(layers, number, case):
    """The layers that hold the case's ranges: those of its inputs, those within, and that of its output or None."""
    last = f"c{number}_{len(case['layers']) - 1}_{case['layers'][-1][0].lower()}"
    split = [name for name, layer in layers.items() if name.startswith(f"{last}_") and type(layer).__name__ == "Activation"]
    outer = f"{(split or [last])[0]}_range"  # an activation may have become a layer of its own
    own = {name: layer for name, layer in layers.items() if name.startswith(f"c{number}_") and name.endswith("_range")}
    inputs = {name: layer for name, layer in own.items() if name.startswith(f"c{number}_x")}
    inner = [layer for name, layer in own.items() if name != outer and name not in inputs]
    return inputs, inner, own.get(outer)


def scale(layer):
    """The scale of the integers that a FakeQuant rounds to."""
    return (float(layer.high) - float(layer.low)) / 255


def compared(cases, folder):
    """The JSON lines of several cases that are one model; the reference kernels have no ELU."""
    import keras

    model, shown, asked = made(cases)
    reader, file, left = exported(model, shown, folder)
    run = runner(file, "xnnpack")
    taken, given = run.get_input_details(), run.get_output_details()
    asked = {name: on_grid(values, taken[name]) for name, values in asked.items()}
    wanted = [np.asarray(v) for v in keras.tree.flatten(reader.model([asked[n] for n in asked], training=False))]
    layers = {layer.name: layer for layer in reader.model.layers}
    found = {"xnnpack": answers(run, asked)}
    if not any(has_elu(case) for case in cases):
        found["reference"] = answers(runner(file, "reference"), asked)
    lines = []
    for number, (case, spec, values) in enumerate(zip(cases, reader.specs()[1], wanted, strict=True)):
        want = stored(values, given[spec.name]).astype(int)
        line = {**case, "levels": len(np.unique(want))}
        line["float_ops"] = [op for op, *place in left if any(f"c{number}_" in text for text in place)]
        inputs, inner, outer = ends(layers, number, case)
        last = given[spec.name]["quantization"][0]
        line["steps"] = [taken[name.removesuffix("_range")]["quantization"][0] / scale(layer) for name, layer in inputs.items()]
        line["steps"] += [] if outer is None or case["end"] == "none" else [last / scale(outer)]
        line["gain"] = max((scale(layer) / last for layer in inner), default=0.0)
        for engine, outputs in found.items():
            off = np.abs(outputs[spec.name].astype(int) - want).reshape(2, -1)
            share = round(float((off > 0).mean()), 4)
            line[engine] = {"inside": int(off[0].max()), "beyond": int(off[1].max()), "share": share}
        lines.append(line)
    return lines


def has_elu(case):
    """Whether the file of a case has an ELU op."""
    return any(config.get("activation") == "elu" for _, config in case["layers"])


def family(case):
    """Cases of one family share a model."""
    return has_elu(case), case["layers"][0][0] in {"SimpleRNN", "LSTM", "GRU"}, case["weights"] == "none"


def main(folder, asked):
    folder.mkdir(parents=True, exist_ok=True)
    cases = [drawn(kind, int(seed)) for kind, _, seed in (text.rpartition(":") for text in asked)]
    parts = [list(part) for _, part in itertools.groupby(sorted(cases, key=family), key=family)]
    groups = [part[start : start + GROUP] for part in parts for start in range(0, len(part), GROUP)]
    while groups:
        group = groups.pop(0)
        (folder / "last.json").write_text(json.dumps(group))  # a crash leaves no more than this
        try:
            lines = compared(group, folder)
        except Exception:
            if len(group) > 1:
                groups = [[case] for case in group] + groups
                continue
            lines = [{**group[0], "error": traceback.format_exc()[-3000:]}]
        with (folder / "found.jsonl").open("a") as file:  # libraries print
            file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
