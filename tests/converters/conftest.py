"""Model files for the reader tests, made once per session."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MAKER = Path(__file__).with_name("make_models.py")
KERAS_MAKER = Path(__file__).with_name("keras_models.py")


@pytest.fixture(scope="session")
def tflite_files(tmp_path_factory):
    """Folder of .tflite files that TensorFlow's converter made; see make_models.py."""
    folder = tmp_path_factory.mktemp("tflite")
    done = subprocess.run([sys.executable, MAKER, folder], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def keras_says(tflite_files):
    """What Keras says of the models: number of trainable values, and the values of the smallest."""
    return json.loads((tflite_files / "expected.json").read_text())


@pytest.fixture(scope="session")
def build_tflite():
    """A function that writes .tflite content straight through the schema, for what no converter would write.

    tensors: (name, shape, TensorType name, content or None, scales, zero points); ops: (name, inputs, outputs).
    """
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as S

    def tensor(name, shape, kind, buffer, scales=(), zeros=(), axis=0):
        quantization = S.QuantizationParametersT(
            scale=np.asarray(scales, np.float32), zeroPoint=np.asarray(zeros, np.int64), quantizedDimension=axis
        )
        return S.TensorT(
            shape=np.asarray(shape, np.int32),
            type=getattr(S.TensorType, kind),
            buffer=buffer,
            name=name,
            quantization=quantization if len(scales) else None,
        )

    def build(tensors, ops, inputs, outputs, signatures=None, options=None):
        buffers, made, codes = [S.BufferT()], [], []
        for name, shape, kind, content, *rest in tensors:
            if content is None:
                made.append(tensor(name, shape, kind, 0, *rest))
            else:
                buffers.append(S.BufferT(data=np.frombuffer(bytes(content), np.uint8)))
                made.append(tensor(name, shape, kind, len(buffers) - 1, *rest))
        operators = []
        for at, (op, ins, outs) in enumerate(ops):
            code = getattr(S.BuiltinOperator, op)
            codes.append(S.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=1))
            given = (options or {}).get(at)
            operators.append(
                S.OperatorT(
                    opcodeIndex=at,
                    inputs=np.asarray(ins, np.int32),
                    outputs=np.asarray(outs, np.int32),
                    builtinOptionsType=getattr(S.BuiltinOptions, type(given).__name__[:-1]) if given else 0,
                    builtinOptions=given,
                )
            )
        graph = S.SubGraphT(
            tensors=made,
            inputs=np.asarray(inputs, np.int32),
            outputs=np.asarray(outputs, np.int32),
            operators=operators,
            name="main",
        )
        model = S.ModelT(version=3, operatorCodes=codes, subgraphs=[graph], buffers=buffers, signatureDefs=signatures)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    return build


@pytest.fixture(scope="session")
def keras_files(tmp_path_factory):
    """Folder of Keras models and SavedModels, and of what Keras says of them; see keras_models.py."""
    folder = tmp_path_factory.mktemp("keras")
    done = subprocess.run([sys.executable, KERAS_MAKER, folder], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def tensorflow_child(keras_files):
    """One child process for all tests that need TensorFlow; it runs in the models' folder."""
    from edgewright.worker import Limits, Worker

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(keras_files)
        child = Worker(Limits(timeout_s=120))
    with child:
        yield child


@pytest.fixture(scope="session")
def convert_files(tmp_path_factory):
    """Folder of Keras models and their float32 TFLite artifacts; see convert_models.py."""
    folder = tmp_path_factory.mktemp("convert")
    maker = Path(__file__).with_name("convert_models.py")
    done = subprocess.run([sys.executable, maker, folder], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder
