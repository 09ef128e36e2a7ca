"""The models that the scripts in this folder measure: architectures with seeded random weights, and samples for them.

Random weights leave BatchNorm statistics and the classifier's scale meaningless, so both are set from the samples: the
statistics by a few passes in training mode, the last Dense layer so that its logits have a standard deviation of 2. The
figures then show arithmetic, not what a trained network would lose in accuracy.

    .venv/bin/python perf/models.py NAME FOLDER        writes FOLDER/NAME.keras (or a SavedModel FOLDER/NAME) and NAME.npz
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, tuple[int, ...]]

CLASSES = 10
VOCABULARY = 50
SAMPLES = 100


@dataclass(frozen=True)
class Case:
    """One model of the table.

    Args:
        name: file name and key.
        title: what the table calls it.
        build: makes the Keras model; called after seeding.
        inputs: shape of each input without the batch, in the model's order.
        outputs: likewise.
        samples: makes an array of (count, *shape) from a generator.
        saved_model: export it as a SavedModel instead of saving a .keras file.
    """

    name: str
    title: str
    build: Callable[[], Any]
    inputs: Shapes
    outputs: Shapes
    samples: Callable[[np.random.Generator, tuple[int, ...]], Array]
    saved_model: bool = False

    def path(self, folder: Path) -> Path:
        """Where `write` puts the model."""
        return folder / (self.name if self.saved_model else f"{self.name}.keras")

    def write(self, folder: Path) -> None:
        """Build the model and write it and its samples (`NAME.npz`, arrays by input name) to a folder."""
        import keras

        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        arrays = {name: self.samples(rng, (SAMPLES, *shape)) for name, shape in self.inputs.items()}
        model = self.build()
        fit_statistics(model, arrays)
        np.savez(folder / f"{self.name}.npz", allow_pickle=False, **arrays)
        if self.saved_model:
            model.export(str(self.path(folder)), verbose=False)
        else:
            model.save(self.path(folder))


def fit_statistics(model: Any, arrays: Mapping[str, Array], passes: int = 12) -> None:
    """Set BatchNorm statistics from the samples, and the last softmax layer's scale so that logits have a deviation of 2."""
    import keras

    feeds = list(arrays.values()) if len(arrays) > 1 else next(iter(arrays.values()))
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.5
    for index in range(passes if norms else 0):
        rows = np.arange(index * 16, index * 16 + 16) % SAMPLES
        model([feed[rows] for feed in feeds] if isinstance(feeds, list) else feeds[rows], training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    head = model.layers[-1] if getattr(model, "inputs", None) else None
    if isinstance(head, keras.layers.Dense) and head.activation is keras.activations.softmax:
        before = keras.Model(model.inputs, head.input)
        logits = before.predict(feeds, verbose=0) @ np.asarray(head.kernel)
        head.kernel.assign(head.kernel * 2.0 / max(float(logits.std()), 1e-6))


# ---- samples ----------------------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Standard normal values."""
    return rng.standard_normal(shape).astype(np.float32)


def pixels(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Images of large and small structure, values 0 to 255."""
    count, height, width, channels = shape
    coarse = rng.uniform(0, 255, (count, 4, 4, channels)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
    image = coarse[:, :height, :width] + rng.normal(0, 30, shape)
    return np.clip(np.round(image), 0, 255).astype(np.float32)


def images(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The same images with values -1 to 1."""
    return (pixels(rng, shape) / 127.5 - 1.0).astype(np.float32)


def tokens(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Indices into a vocabulary."""
    return rng.integers(0, VOCABULARY, shape).astype(np.int32)


# ---- models -----------------------------------------------------------------------------------------------------------


def _application(name: str, size: int) -> Callable[[], Any]:
    def build() -> Any:
        import keras

        return getattr(keras.applications, name)(
            weights=None, classes=CLASSES, input_shape=(size, size, 3), input_tensor=keras.Input((size, size, 3), name="image")
        )

    return build


def mobilenet_v2_224() -> Any:
    """MobileNetV2 at its own size with 1000 classes."""
    import keras

    image = keras.Input((224, 224, 3), name="image")
    return keras.applications.MobileNetV2(weights=None, input_shape=(224, 224, 3), input_tensor=image)


def _recurrent(kind: str, steps: int = 24) -> Callable[[], Any]:
    def build() -> Any:
        from keras import Input, Model, layers

        x = series = Input((steps, 6), name="series")
        if kind == "bidirectional":
            x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(x)
            x = layers.Bidirectional(layers.GRU(12))(x)
        else:
            x = getattr(layers, kind)(24)(x)
        return Model(series, layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))

    return build


def _attention() -> Any:
    from keras import Input, Model, layers

    x = series = Input((16, 32), name="series")
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 16)(y, y)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(64, activation="gelu")(y)
    x = layers.Add()([x, layers.Dense(32)(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return Model(series, layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))


def _u_net() -> Any:
    from keras import Input, Model, layers

    def block(x: Any, filters: int) -> Any:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    image = Input((32, 32, 3), name="image")
    one = block(image, 8)
    two = block(layers.MaxPooling2D()(one), 16)
    x = block(layers.MaxPooling2D()(two), 32)
    for skip, filters in ((two, 16), (one, 8)):
        x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same")(x)
        x = block(layers.Concatenate()([x, skip]), filters)
    return Model(image, layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x))


def _two_by_two() -> Any:
    from keras import Input, Model, layers

    image = Input((16, 16, 3), name="image")
    context = Input((5,), name="context")
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = layers.Flatten()(x)
    y = layers.Dense(16, activation="relu")(context)
    both = layers.Concatenate()([x, y])
    score = layers.Dense(CLASSES, activation="softmax")(both)
    box = layers.Dense(4)(both)
    return Model({"image": image, "context": context}, {"score": score, "box": box})


def _preprocessing() -> Any:
    from keras import Input, Model, layers

    x = image = Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.0524, 0.0502, 0.0506])(x)
    x = layers.Conv2D(12, 3, strides=2, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return Model(image, layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))


def _conv1d() -> Any:
    from keras import Input, Model, layers

    x = series = Input((64, 6), name="series")
    for filters, options in ((16, {"padding": "same"}), (24, {"padding": "causal", "dilation_rate": 2}), (32, {"strides": 2})):
        x = layers.Conv1D(filters, 3, use_bias=False, **options)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling1D()(x)
    x = layers.GlobalAveragePooling1D()(x)
    return Model(series, layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))


def _separable1d() -> Any:
    from keras import Input, Model, layers

    x = series = Input((64, 6), name="series")
    for filters in (16, 32):
        x = layers.SeparableConv1D(filters, 5, strides=2, padding="same")(x)
        x = layers.LeakyReLU(0.1)(layers.BatchNormalization()(x))
    x = layers.AveragePooling1D(2)(x)
    x = layers.GlobalMaxPooling1D()(x)
    return Model(series, layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))


def _separable2d() -> Any:
    from keras import Input, Model, layers

    x = image = Input((32, 32, 3), name="image")
    for filters in (16, 32):
        x = layers.SeparableConv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.Activation("swish")(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return Model(image, layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))


def _shared() -> Any:
    from keras import Input, Model, Sequential, layers

    left, right = Input((16, 16, 1), name="left"), Input((16, 16, 1), name="right")
    inner = Sequential(
        [Input((16, 16, 1)), layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten()], name="inner"
    )
    view = Input((16, 16, 1))
    encoder = Model(view, layers.Dense(16, activation="tanh")(inner(view)), name="encoder")
    a, b = encoder(left), encoder(right)
    x = layers.Concatenate()([layers.Subtract()([a, b]), layers.Multiply()([a, b])])
    return Model([left, right], layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))


def _embedding() -> Any:
    from keras import Input, Model, layers

    text = Input((20,), dtype="int32", name="text")
    x = layers.Embedding(VOCABULARY, 16)(text)
    x = layers.Conv1D(24, 3, activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    return Model(text, layers.Dense(CLASSES, activation="softmax", name="probabilities")(x))


def _subclassed() -> Any:
    import keras
    from keras import layers

    class Residual(keras.Model):
        """A convolution, a residual block and a classifier, written as a class."""

        def __init__(self) -> None:
            super().__init__()
            self.first = layers.Conv2D(16, 3, padding="same", activation="relu")
            self.second = layers.Conv2D(16, 3, padding="same")
            self.norm = layers.BatchNormalization()
            self.pool = layers.GlobalAveragePooling2D()
            self.head = layers.Dense(CLASSES, activation="softmax")

        def call(self, image: Any, training: bool = False) -> Any:
            """The class probabilities."""
            x = self.first(image)
            x = keras.ops.relu(x + self.norm(self.second(x), training=training))
            return self.head(self.pool(x))

    model = Residual()
    model(np.zeros((1, 16, 16, 3), np.float32))
    return model


def _sequential() -> Any:
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28, 1), name="image"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3, activation="relu6"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(CLASSES, activation="softmax", name="probabilities"),
        ]
    )


def _classifier(
    name: str, title: str, build: Callable[[], Any], inputs: Shapes, samples: Any, output: str = "probabilities"
) -> Case:
    return Case(name, title, build, inputs, {output: (CLASSES,)}, samples)


def _image_net(name: str, size: int, samples: Any) -> Case:
    inputs = {"image": (size, size, 3)}
    return _classifier(name.lower(), f"{name}, {size} px", _application(name, size), inputs, samples, "predictions")


SERIES = {"series": (24, 6)}

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        _classifier("sequential", "Sequential, Conv2D + DepthwiseConv2D", _sequential, {"image": (28, 28, 1)}, images),
        _classifier("conv1d", "Conv1D, causal and dilated", _conv1d, {"series": (64, 6)}, normal),
        _classifier("separable1d", "SeparableConv1D, LeakyReLU", _separable1d, {"series": (64, 6)}, normal),
        _classifier("separable2d", "SeparableConv2D, swish", _separable2d, {"image": (32, 32, 3)}, images),
        _classifier("preprocessing", "Rescaling + Normalization inside", _preprocessing, {"image": (32, 32, 3)}, pixels),
        Case(
            "two_by_two",
            "Two inputs, two outputs as a dict",
            _two_by_two,
            {"context": (5,), "image": (16, 16, 3)},
            {"box": (4,), "score": (CLASSES,)},
            normal,
        ),
        _classifier("shared", "Nested models, shared layers", _shared, {"left": (16, 16, 1), "right": (16, 16, 1)}, images),
        _classifier("embedding", "Embedding + Conv1D", _embedding, {"text": (20,)}, tokens),
        Case("u_net", "U-Net with Conv2DTranspose", _u_net, {"image": (32, 32, 3)}, {"mask": (32, 32, 1)}, images),
        _classifier("attention", "MultiHeadAttention, LayerNormalization, gelu", _attention, {"series": (16, 32)}, normal),
        _classifier("lstm", "LSTM, 24 steps", _recurrent("LSTM"), SERIES, normal),
        _classifier("gru", "GRU, 24 steps", _recurrent("GRU"), SERIES, normal),
        _classifier("bidirectional", "Bidirectional LSTM + GRU, 24 steps", _recurrent("bidirectional"), SERIES, normal),
        _classifier("lstm_long", "LSTM, 200 steps", _recurrent("LSTM", 200), {"series": (200, 6)}, normal),
        Case(
            "subclassed",
            "Subclassed model as SavedModel",
            _subclassed,
            {"args_0": (16, 16, 3)},
            {"output_0": (CLASSES,)},
            images,
            saved_model=True,
        ),
        _image_net("MobileNetV2", 96, images),
        _image_net("MobileNetV3Small", 96, pixels),
        _image_net("EfficientNetB0", 96, pixels),
        _image_net("ResNet50", 96, images),
        _image_net("DenseNet121", 96, images),
    )
}


def write_mobilenet(folder: Path) -> tuple[Path, Path]:
    """MobileNetV2 at 224 px as .keras and 100 images as .npz; both files are kept if they are there."""
    case = Case(
        "mobilenet_v2_224", "MobileNetV2, 224 px", mobilenet_v2_224, {"image": (224, 224, 3)}, {"predictions": (1000,)}, images
    )
    paths = case.path(folder), folder / f"{case.name}.npz"
    if not all(path.exists() for path in paths):
        case.write(folder)
    return paths


if __name__ == "__main__":
    CASES[sys.argv[1]].write(Path(sys.argv[2]))
