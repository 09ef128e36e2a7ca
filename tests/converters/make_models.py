"""Builds the small .tflite files that the reader tests open; run as a script, once per test session.

Usage: python make_models.py FOLDER. `expected.json` in the folder holds what Keras says of each model.
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

L = keras.layers


def randomize(model):
    """Different values everywhere, so that the converter merges no two constants."""
    rng = np.random.default_rng(1)
    for layer in model.weights:
        values = rng.normal(0, 0.3, layer.shape).astype(np.float32)
        layer.assign(np.abs(values) + 0.5 if "variance" in layer.path else values)
    return model


def cnn():
    image = keras.Input((16, 16, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU(name="act")(x)
    x = L.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(x)
    x = L.Conv2D(12, 1, name="pointwise")(x)
    x = L.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, activation="softmax", name="cls")(x), name="cnn")


def two():
    a = keras.Input((8,), name="zeta")
    b = keras.Input((4, 4, 3), name="alpha")
    x = L.Concatenate()([L.Dense(8, activation="relu")(a), L.Flatten()(L.Conv2D(4, 3)(b))])
    return keras.Model([a, b], {"zz": L.Dense(3, name="hz")(x), "aa": L.Dense(2, activation="softmax", name="ha")(x)}, name="two")


def lstm():
    imu = keras.Input((10, 6), name="imu")
    return keras.Model(imu, L.Dense(7, name="cls")(L.LSTM(16, name="rnn")(imu)), name="seq")


def dense():
    x = keras.Input((8,), name="x")
    return keras.Model(x, L.Dense(4, name="fc")(x), name="dense")


def freeze(model, batch):
    specs = [tf.TensorSpec([batch, *i.shape[1:]], i.dtype, name=i.name) for i in model.inputs]
    call = tf.function(lambda *a: model(list(a) if len(a) > 1 else a[0], training=False), autograph=False)
    return convert_variables_to_constants_v2(call.get_concrete_function(*specs), lower_control_flow=False)


def convert(model, batch=1, **options):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([freeze(model, batch)])
    for name, value in options.items():
        setattr(converter, name, value)
    return converter.convert()


def representative():
    rng = np.random.default_rng(2)
    for _ in range(8):
        yield [rng.normal(size=(1, 16, 16, 3)).astype(np.float32)]


class Twice(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])
    def double(self, x):
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])
    def triple(self, x):
        return {"y": x * 3.0}


def main(folder):
    models = {name: randomize(make()) for name, make in {"cnn": cnn, "two": two, "lstm": lstm, "dense": dense}.items()}
    default = [tf.lite.Optimize.DEFAULT]
    int8 = {
        "optimizations": default,
        "representative_dataset": representative,
        "inference_input_type": tf.int8,
        "inference_output_type": tf.int8,
    }
    files = {
        **{name: convert(model) for name, model in models.items()},
        "cnn_free": convert(models["cnn"], None),
        "cnn_batch4": convert(models["cnn"], 4),
        "cnn_int8": convert(models["cnn"], **int8),
        "cnn_float16": convert(
            models["cnn"],
            optimizations=default,
            target_spec=tf.lite.TargetSpec(supported_types=[tf.float16], supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS]),
        ),
        "cnn_dynamic": convert(models["cnn"], optimizations=default),
    }
    tf.saved_model.save(module := Twice(), str(folder / "twice"), signatures={"double": module.double, "triple": module.triple})
    files["signatures"] = tf.lite.TFLiteConverter.from_saved_model(
        str(folder / "twice"), signature_keys=["double", "triple"]
    ).convert()
    for name, content in files.items():
        (folder / f"{name}.tflite").write_bytes(content)
    expected = {}
    for name, model in models.items():
        values = {f"{w.path}": np.asarray(w).reshape(-1).tolist() for w in model.weights if name == "dense"}
        expected[name] = {"trainable": int(sum(np.prod(w.shape) for w in model.trainable_weights)), "values": values}
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
