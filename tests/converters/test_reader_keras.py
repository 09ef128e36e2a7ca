"""The Keras reader against what Keras itself computed when it saved the models."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from keras_helpers import Models

from edgewright.converters.readers import find_reader
from edgewright.converters.tflite_file import layer_of
from edgewright.errors import MissingPackageError, ModelError, UnsupportedError, UntrustedCodeError

TRUSTED = {"trust": True, "custom": "custom_layers"}


@pytest.fixture
def models(tensorflow_child, keras_files, tmp_path):
    return Models(tensorflow_child, keras_files, tmp_path)


def with_config(models, name, change):
    """A copy of a .keras file whose configuration was changed."""
    source, target = models.folder / f"{name}.keras", models.out / "changed.keras"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, change(json.loads(content)) if member == "config.json" else content)
    return target


F = "float32"
SPECS = {
    "cnn.keras": ([("image", (None, 12, 12, 3), F)], [("cls", (None, 5), F)]),
    "cnn3.h5": ([("image", (None, 12, 12, 3), F)], [("cls", (None, 5), F)]),
    "cnn2.h5": ([("image", (None, 12, 12, 3), F)], [("cls", (None, 5), F)]),
    "keras2.keras": ([("image", (None, 12, 12, 3), F)], [("cls", (None, 5), F)]),
    "two.keras": ([("zeta", (None, 8), F), ("alpha", (None, 4, 4, 3), F)], [("aa", (None, 2), F), ("zz", (None, 3), F)]),
    "dict_inputs.keras": (
        [("angle", (None, 4), F), ("speed", (None, 4), F)],
        [("deep_0", (None, 4), F), ("deep_1", (None, 4), F), ("flat", (None, 4), F)],
    ),
    "nested.keras": ([("x", (None, 6), F)], [("head", (None, 2), F)]),
    "shared.keras": ([("b", (None, 5), F), ("a", (None, 5), F)], [("twin", (None, 3), F), ("twin_1", (None, 3), F)]),
    "tokens.keras": ([("tokens", (None, 7), "int32")], [("cls", (None, 2), F)]),
    "echo.keras": ([("signal", (None, 4), F)], [("signal_output", (None, 4), F)]),
    "free.keras": ([("recording", (None, None, 3), F)], [("global_average_pooling1d", (None, 4), F)]),
    "tf_ops.h5": ([("x", (None, 4), F)], [("tf.__operators__.add", (None, 3), F)]),
}
CUSTOM_SPECS = {
    "subclassed.keras": ([("input_0", (None, 6), F)], [("output_0", (None, 3), F)]),
    "pair.keras": ([("input_0", (None, 6), F), ("input_1", (None, 6), F)], [("gap", (None, 4), F), ("sum", (None, 4), F)]),
    "scaled.keras": ([("x", (None, 4), F)], [("d", (None, 2), F)]),
}
ANSWERS = {"cnn3.h5": "cnn", "keras2.keras": "cnn2"}


@pytest.mark.parametrize("name", SPECS)
def test_specs_and_reference(models, name):
    assert models.specs(name) == SPECS[name]
    check_reference(models, name)


@pytest.mark.parametrize("name", CUSTOM_SPECS)
def test_custom_objects(models, name):
    assert models.specs(name, **TRUSTED) == CUSTOM_SPECS[name]
    check_reference(models, name, **TRUSTED)


def check_reference(models, name, **trust):
    feeds, outputs = models.expected(ANSWERS.get(name, name.partition(".")[0]))
    found = models.reference(name, feeds, **trust)
    assert len(found) == len(outputs)
    for (label, value), wanted in zip(found.items(), outputs, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6, err_msg=label)


@pytest.mark.parametrize("name", ["cnn.keras", "cnn3.h5", "cnn2.h5"])
def test_info_of_a_cnn(models, name):
    found = models.info(name)
    # 12x12 outputs of 8 3x3x3 filters, 6x6 of 8 3x3 ones, 6x6 of 6 1x1x8 ones, and 6x5
    assert found["macs"] == 12 * 12 * 8 * 27 + 6 * 6 * 8 * 9 + 6 * 6 * 6 * 8 + 6 * 5
    assert found["macs_note"] == ""
    # kernels, depthwise with bias, pointwise with bias, dense with bias; gamma and beta but no moving statistics
    assert found["parameters"] == 27 * 8 + 2 * 8 + (9 * 8 + 8) + (8 * 6 + 6) + (6 * 5 + 5)
    assert found["ops"]["Conv2D"] == 2
    assert found["format"] == "keras"
    assert found["raw_bytes"] == (models.folder / name).stat().st_size
    first = next(weight for weight in found["weights"] if tuple(weight["shape"]) == (3, 3, 3, 8))
    assert (first["dtype"], first["channel_axis"], first["unique"]) == ("float32", 3, 216)


def test_info_of_shared_and_inner_layers(models):
    nested = models.info("nested.keras")
    assert nested["parameters"] == 42 + 28 + 8 + 10
    assert nested["ops"] == {"Dense": 3, "LayerNormalization": 1}
    assert nested["macs"] == 2 * 36 + 24 + 8
    assert models.info("shared.keras")["parameters"] == 18


@pytest.mark.parametrize("name", ["adapted.keras", "adapted.h5"])
def test_state_is_told_by_the_class_of_its_layer(models, name):
    found = models.info(name)
    assert found["parameters"] == 2 * 3 + (3 * 2 + 2)  # gamma and beta, although frozen; the dense layer
    assert found["ops"] == {"Normalization": 1, "BatchNormalization": 1, "Dropout": 1, "Dense": 1}


@pytest.mark.parametrize("name", ["wrapped.keras", "wrapped.h5"])
def test_cells_are_no_layers_and_wrappers_count_once(models, name):
    ops = {"LSTM": 1, "Bidirectional": 1, "GRU": 1, "TimeDistributed": 1, "Dense": 2, "RNN": 1}
    assert models.info(name)["ops"] == ops
    assert models.lower(name, integer=True)[1]["layers"] == ["imu", "memory", "both", "each", "inner", "stack", "cls"]


def test_ops_of_an_unrolled_layer_are_named_by_the_users_layer(models):
    from ai_edge_litert.interpreter import Interpreter

    file, said = models.lower("lstm.keras", integer=True)
    names = [tensor["name"] for tensor in Interpreter(str(file)).get_tensor_details()]
    inside = [name for name in names if "lstm_cell" in name.partition(";")[0]]
    assert inside
    assert {layer_of(name, said["layers"]) for name in inside} == {"memory"}


def test_the_training_script_counts_parameters_as_inspect_does():
    code = "import keras, train_watch as t; print(t.parameters(keras.models.load_model(t.OUT / 'watch.keras', compile=False)))"
    perf = Path(__file__).parents[2] / "perf"
    done = subprocess.run([sys.executable, "-c", code], cwd=perf, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["84103"], done.stderr[-2000:]


@pytest.mark.parametrize(
    ("name", "suffix"), [("cnn.keras", ".zip"), ("cnn2.h5", ".keras"), ("cnn.keras", ".h5"), ("cnn3.h5", "")]
)
def test_a_format_is_recognised_by_content(models, name, suffix):
    file = models.out / f"model{suffix}"
    shutil.copy(models.folder / name, file)
    assert find_reader(file) == "keras"
    assert models.specs(file) == SPECS[name]
    assert [path.name for path in models.out.iterdir()] == [file.name]


def test_a_file_with_weights_only_is_refused(models):
    with pytest.raises(ModelError, match=r"only\.weights\.h5 holds no model configuration, only weights"):
        models.info("only.weights.h5")


@pytest.mark.parametrize("name", ["lambda.keras", "lambda3.h5", "lambda2.h5"])
def test_lambda_needs_trust(models, name):
    with pytest.raises(UntrustedCodeError, match=r"carries code: a Lambda layer 'twice'") as caught:
        models.info(name)
    assert "--trust" in caught.value.hint
    assert models.info(name, trust=True)["ops"]["Lambda"] == 1


def test_custom_class_without_its_module(models):
    with pytest.raises(UntrustedCodeError, match=r"carries code: an object of module 'custom_layers' \(Scale\)") as caught:
        models.info("scaled.keras")
    assert "--custom MODULE" in caught.value.hint
    with pytest.raises(UntrustedCodeError, match="--custom custom_layers runs code"):
        models.info("cnn.keras", custom="custom_layers")
    with pytest.raises(ModelError, match=r"the module 'no_such_module' of custom objects cannot be imported"):
        models.info("scaled.keras", trust=True, custom="no_such_module")


def test_custom_class_that_is_trusted_but_not_registered(models):
    def rename(config):
        return json.dumps(config).replace("custom_layers", "elsewhere").replace("tests>Scale", "other>Scale")

    with pytest.raises(ModelError, match=r"uses the custom object 'Scale', which Keras does not know") as caught:
        models.info(with_config(models, "scaled", rename), trust=True)
    assert "register_keras_serializable" in caught.value.hint
    assert "--trust --custom MODULE" in caught.value.hint


def dense(config):
    """The configuration entry of the model's only dense layer."""
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense")


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


GADGETS = {
    "os": lambda d: d.update(module="os", class_name="system"),
    "subprocess": lambda d: d.update(module="subprocess", class_name="Popen", config={"args": ["touch", "x"]}),
    "custom_module": lambda d: d.update(module="keras_hub.models", class_name="Backbone"),
    "activation_os": lambda d: d["config"].update(activation=function("os", "system")),
    "get_file": lambda d: d["config"].update(activation=function("keras.utils", "get_file")),
    "get_file_dotted": lambda d: d["config"].update(activation=function("keras", "utils.get_file")),
    "class_dotted": lambda d: d.update(module="keras", class_name="utils.get_file"),
    "load_model": lambda d: d["config"].update(activation=function("keras.models", "load_model")),
    "load_model_root": lambda d: d["config"].update(activation=function("keras", "load_model")),
    "save_img": lambda d: d["config"].update(activation=function("keras.src.utils.image_utils", "save_img")),
    "saving": lambda d: d.update(module="keras.src.saving.saving_lib", class_name="load_model"),
    "lambda_function": lambda d: d["config"].update(activation={"class_name": "__lambda__", "config": {"value": "4wE="}}),
    "tfsm": lambda d: d.update(class_name="TFSMLayer", config={"filepath": "/tmp/x", "name": "d"}),
    "torch": lambda d: d.update(class_name="TorchModuleWrapper", config={"module": "gASV", "name": "d"}),
    "vocabulary": lambda d: d.update(class_name="StringLookup", config={"vocabulary": "/etc/passwd", "name": "d"}),
    "registered": lambda d: d.update(module=None, registered_name="evil>Dense"),
    "legacy_custom": lambda d: d.update(module=None, class_name="evil>Dense"),
    "write_file": lambda d: d.update(
        module="keras.layers", class_name="TFOpLambda", config={"function": "io.write_file", "name": "d"}
    ),
    "load_library": lambda d: d.update(class_name="TFOpLambda", config={"function": "load_op_library", "name": "d"}),
    "py_function": lambda d: d.update(class_name="TFOpLambda", config={"function": "compat.v1.py_func", "name": "d"}),
    "raw_ops": lambda d: d.update(class_name="TFOpLambda", config={"function": "raw_ops.WriteFile", "name": "d"}),
    "class_method": lambda d: d.update(class_name="ClassMethod", config={"cls_symbol": "io.TFRecordWriter", "name": "d"}),
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_what_reaches_for_code_is_refused(models, gadget):
    def change(config):
        GADGETS[gadget](dense(config))
        return json.dumps(config)

    with pytest.raises(UntrustedCodeError, match=r"changed\.keras carries code: "):
        models.info(with_config(models, "two", change))


def test_a_configuration_of_absurd_depth(models):
    for depth in (900, 100_000):
        file = with_config(models, "two", lambda _: '{"class_name":"X","config":' * depth + "1" + "}" * depth)  # noqa: B023
        with pytest.raises(ModelError, match=r"changed\.keras"):
            models.info(file)


def test_a_model_that_keras_cannot_build_is_not_called_corrupt(models):
    def change(config):
        dense(config)["config"]["units"] = -4
        return json.dumps(config)

    with pytest.raises(ModelError, match=r"^Keras cannot load .*changed\.keras: ") as caught:
        models.info(with_config(models, "two", change))
    assert "corrupt" not in str(caught.value)


def test_a_subclassed_model_without_shapes_says_what_to_do(models):
    def change(config):
        del config["build_config"]
        return json.dumps(config)

    with pytest.raises((UnsupportedError, ModelError)) as caught:
        models.info(with_config(models, "subclassed", change), **TRUSTED)
    assert "export" in caught.value.hint


def test_h5_that_refers_to_other_files_or_unpacks_to_much(models):
    import h5py

    file = models.out / "changed.h5"
    for name, options in {
        "external": {"shape": (4,), "dtype": "u1", "external": [(str(models.folder / "cnn.keras"), 0, 4)]},
        "huge": {"shape": (1 << 34,), "dtype": "u1", "chunks": (1 << 20,), "compression": "gzip"},
    }.items():
        shutil.copy(models.folder / "cnn3.h5", file)
        with h5py.File(file, "r+") as handle:
            handle.create_dataset(name, **options)
        with pytest.raises(ModelError, match="refers to another file" if name == "external" else "would unpack from"):
            models.info(file)


def test_missing_tensorflow_is_an_install_line(monkeypatch, keras_files):
    from edgewright.converters.readers.keras import KerasReader

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises((MissingPackageError, ModuleNotFoundError)):
        KerasReader(keras_files / "cnn3.h5")
