"""Builds the Keras models and SavedModels that the reader tests open; run as a script, once per test session.

Usage: python keras_models.py FOLDER. Beside every model, `<name>.npz` holds inputs ("in:<name>") and what Keras itself
computed of them ("out:<number>", in the order of model.outputs). `custom_layers.py` is the module of custom objects.
"""

import contextlib
import os
import sys
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_HOME=f"{os.devnull}/x")

import keras
import numpy as np
import tensorflow as tf
import tf_keras

L = keras.layers

CUSTOM = """
import keras


@keras.saving.register_keras_serializable("tests")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, units=3, **options):
        super().__init__(**options)
        self.units = units
        self.scale = Scale(name="scale")
        self.head = keras.layers.Dense(units, name="head")

    def call(self, x):
        return self.head(keras.ops.relu(self.scale(x)))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Pair(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.left, self.right = keras.layers.Dense(4, name="left"), keras.layers.Dense(4, name="right")

    def call(self, inputs):
        a, b = inputs
        return {"sum": self.left(a) + self.right(b), "gap": self.left(a) - self.right(b)}
"""


def randomize(model):
    """Different values everywhere, variances positive."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        values = rng.normal(0, 0.3, weight.shape)
        if "seed" not in getattr(weight, "path", weight.name):
            weight.assign(np.abs(values) + 0.5 if "variance" in getattr(weight, "path", weight.name) else values)
    return model


def cnn(K=keras):
    """Of both Keras versions; multiply-adds by hand in the tests."""
    layers = K.layers
    return K.Sequential(
        [
            layers.Input((12, 12, 3), name="image"),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="act"),
            layers.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise"),
            layers.Conv2D(6, 1, name="pointwise"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(5, activation="softmax", name="cls"),
        ],
        name="cnn",
    )


def two():
    a = keras.Input((8,), name="zeta")
    b = keras.Input((4, 4, 3), name="alpha")
    x = L.Concatenate()([L.Dense(8, activation="relu")(a), L.Flatten()(L.Conv2D(4, 3)(b))])
    return keras.Model([a, b], {"zz": L.Dense(3, name="hz")(x), "aa": L.Dense(2, activation="softmax", name="ha")(x)}, name="two")


def dict_inputs():
    a, b = keras.Input((4,), name="speed"), keras.Input((4,), name="angle")
    x = L.Dense(4, name="on_speed")(a)
    return keras.Model({"speed": a, "angle": b}, {"deep": [x, L.Subtract(name="gap")([x, b])], "flat": L.ReLU(name="r")(x)})


def nested():
    inner_in = keras.Input((6,), name="inner_in")
    inner = keras.Model(inner_in, L.Dense(6, activation="tanh", name="inner_dense")(inner_in), name="inner")
    x = keras.Input((6,), name="x")
    block = keras.Sequential([keras.Input((6,)), L.Dense(4, name="narrow"), L.LayerNormalization(name="ln")], name="block")
    return keras.Model(x, L.Dense(2, name="head")(block(inner(inner(x)))), name="outer")


def shared():
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    dense = L.Dense(3, name="twin")
    return keras.Model([b, a], [dense(a), dense(b)], name="shared")


def tokens():
    x = keras.Input((7,), dtype="int32", name="tokens")
    return keras.Model(x, L.Dense(2, name="cls")(L.Flatten()(L.Embedding(20, 4, name="table")(x))))


def echo():
    x = keras.Input((4,), name="signal")
    return keras.Model(x, {"signal": L.Dense(4, name="d")(x)})


def recurrent(kind, steps):
    x = keras.Input((steps, 3), name="imu")
    return keras.Model(x, L.Dense(2, name="cls")(getattr(L, kind)(4, name="memory")(x)))


def wrapped(K=keras):
    """Recurrent layers, cells and wrappers of every kind."""
    layers = K.layers
    x = K.Input((6, 3), name="imu")
    y = layers.LSTM(4, return_sequences=True, name="memory")(x)
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(y)
    y = layers.TimeDistributed(layers.Dense(3, name="inner"), name="each")(y)
    y = layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)]), name="stack")(y)
    return K.Model(x, layers.Dense(2, name="cls")(y))


def adapted(K=keras):
    """State in layers whose names do not tell it, and parameters in one whose name does."""
    layers = K.layers
    norm = layers.Normalization(name="norm2")
    norm.adapt(np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32))
    x = K.Input((3,), name="x")
    y = layers.BatchNormalization(name="second", trainable=False)(norm(x))
    return K.Model(x, layers.Dense(2, name="d")(layers.Dropout(0.1, name="drop")(y)))


def erfinv():
    x = keras.Input((4,), name="x")
    return keras.Model(x, keras.ops.erfinv(L.Activation("tanh", name="squash")(x)))


def fft():
    x = keras.Input((16,), name="x")
    return keras.Model(x, keras.ops.fft((L.Dense(16, name="real")(x), L.Dense(16, name="imaginary")(x)))[0])


def free():
    x = keras.Input((None, 3), name="recording")
    return keras.Model(x, L.GlobalAveragePooling1D()(L.Conv1D(4, 3, name="conv")(x)))


def scaled(custom):
    x = keras.Input((4,), name="x")
    return keras.Model(x, L.Dense(2, name="d")(custom.Scale(name="my_scale")(x)))


def with_lambda(K=keras):
    x = K.Input((4,), name="x")
    return K.Model(x, K.layers.Dense(2, name="d")(K.layers.Lambda(lambda v: v * 2.0, name="twice", output_shape=(4,))(x)))


def tf_ops():
    """A tf_keras functional model with plain TensorFlow functions between its layers."""
    x = tf_keras.Input((4,), name="x")
    return tf_keras.Model(x, tf.math.tanh(tf_keras.layers.Dense(3, name="d")(x)) + 1.0)


def answers(model, path, batch=3):
    """Save random inputs and the model's own outputs beside it."""
    rng = np.random.default_rng(3)
    feeds = [
        rng.integers(0, 20, (batch, *t.shape[1:])).astype(np.int32)
        if "int" in str(t.dtype)
        else rng.normal(size=(batch, *(s or 9 for s in t.shape[1:]))).astype(np.float32)
        for t in model.inputs
    ]
    names = [t.name for t in model.inputs]
    keys = getattr(model, "_inputs_struct", None)
    fed = dict(zip(sorted(keys), feeds, strict=True)) if isinstance(keys, dict) else feeds if len(feeds) > 1 else feeds[0]
    found = tf.nest.flatten(model.predict(fed, verbose=0))
    save(path, dict(zip(names, feeds, strict=True)), found)


def save(path, feeds, outputs):
    arrays = {f"in:{name}": value for name, value in feeds.items()}
    np.savez(path.with_suffix(".npz"), **arrays, **{f"out:{i}": value for i, value in enumerate(outputs)})


class Module(tf.Module):
    """A plain TensorFlow module with two inputs and two outputs."""

    def __init__(self):
        super().__init__()
        self.matrix = tf.Variable(np.random.default_rng(5).normal(size=(4, 3)), dtype=tf.float32, name="matrix")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="wide"), tf.TensorSpec([None, 3], name="narrow")])
    def serve(self, wide, narrow):
        return {"product": wide @ self.matrix, "difference": wide @ self.matrix - narrow}


def python(x):
    return tf.numpy_function(lambda v: v * 2, [x], tf.float32)


def writes(x):
    tf.io.write_file(os.environ.get("MUST_NOT_APPEAR", "must_not_appear"), "written")
    return x * 2.0


def beta(x):
    with tf.name_scope("my_block"):
        return tf.math.betainc(x, x, x)


def save_function(path, function=None):
    """A module with one function as its signature, or with a variable and no function."""
    module = tf.Module()
    module.weight = tf.Variable([1.0])
    signatures = None
    if function:
        signatures = module.call = tf.function(function, input_signature=[tf.TensorSpec([1, 4], name="x")])
    tf.saved_model.save(module, str(path), signatures=signatures)


def save_saved_models(folder, model):
    model.export(str(folder / "exported"), verbose=False)
    with np.load(folder / "cnn.npz") as known:
        save(folder / "exported", {"image": known["in:image"]}, [known["out:0"]])
    loop = recurrent("GRU", 5)
    loop.export(str(folder / "exported_gru"), verbose=False)
    module, rng = Module(), np.random.default_rng(6)
    feeds = {"wide": rng.normal(size=(3, 4)).astype(np.float32), "narrow": rng.normal(size=(3, 3)).astype(np.float32)}
    found = module.serve(feeds["wide"], feeds["narrow"])
    save(folder / "module", feeds, [found["difference"], found["product"]])
    tf.saved_model.save(module, str(folder / "module"), signatures=module.serve)
    tf.saved_model.save(module, str(folder / "several"), signatures={"one": module.serve, "two": module.serve})
    for function in (python, writes, beta):
        save_function(folder / function.__name__, function)
    save_function(folder / "no_signature")


def save_subclassed(folder, custom):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 3, 6)).astype(np.float32)
    for name, model, feeds in (("subclassed", custom.Subclassed(), x), ("pair", custom.Pair(), (x, y))):
        model(feeds)
        found = randomize(model).predict(feeds, verbose=0)
        model.save(folder / f"{name}.keras")
        flat = [found[key] for key in sorted(found)] if isinstance(found, dict) else [found]
        save(folder / name, {f"input_{i}": v for i, v in enumerate([x, y] if name == "pair" else [x])}, flat)


def main(folder):
    (folder / "custom_layers.py").write_text(CUSTOM)
    sys.path.insert(0, str(folder))
    import custom_layers as custom

    models = {
        "cnn": cnn(),
        "two": two(),
        "dict_inputs": dict_inputs(),
        "nested": nested(),
        "shared": shared(),
        "tokens": tokens(),
        "echo": echo(),
        "lstm": recurrent("LSTM", 6),
        "gru_long": recurrent("GRU", 200),
        "lstm_free": recurrent("LSTM", None),
        "erfinv": erfinv(),
        "fft": fft(),
        "free": free(),
        "scaled": scaled(custom),
        "lambda": with_lambda(),
    }
    for name, model in models.items():
        randomize(model).save(folder / f"{name}.keras")
        answers(model, folder / name)
    models["cnn"].save(folder / "cnn3.h5")
    models["cnn"].save_weights(folder / "only.weights.h5")
    models["lambda"].save(folder / "lambda3.h5")
    old = randomize(cnn(tf_keras))
    old.save(folder / "cnn2.h5")
    old.save(folder / "keras2.keras")
    answers(old, folder / "cnn2")
    with_lambda(tf_keras).save(folder / "lambda2.h5")
    ops = randomize(tf_ops())
    ops.save(folder / "tf_ops.h5")
    answers(ops, folder / "tf_ops")
    for K, suffix in ((keras, "keras"), (tf_keras, "h5")):
        wrapped(K).save(folder / f"wrapped.{suffix}")
        adapted(K).save(folder / f"adapted.{suffix}")
    save_subclassed(folder, custom)
    save_saved_models(folder, models["cnn"])


if __name__ == "__main__":
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(sys.argv[1]))
