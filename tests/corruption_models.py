"""One small sound model of every format, and damaged copies of them: each a function of the seed alone."""

import random
import shutil
import struct
import zipfile
import zlib
from pathlib import Path


def make(folder):
    """Write the sound models; runs in a child with TensorFlow. Two of some kinds, as their structures differ."""
    import keras
    import numpy as np
    import onnx
    import openvino

    from edgewright.converters.readers import READERS, LowerOptions
    from edgewright.converters.readers.keras import KerasReader

    folder = Path(folder)
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = keras.Input((8, 8, 3), name="image")
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, name="conv")(x))
    y = layers.Dense(3, activation="softmax", name="cls")(layers.GlobalAveragePooling2D()(layers.ReLU()(y)))
    model = keras.Model(x, y, name="small")
    model.save(folder / "small.keras")
    model.save(folder / "small.h5")
    model.export(str(folder / "small_saved"), verbose=False)
    assert READERS.get("keras") is KerasReader
    KerasReader(folder / "small.keras").lower(folder / "small.tflite", LowerOptions())
    openvino.save_model(openvino.convert_model(str(folder / "small.tflite")), str(folder / "small.xml"), compress_to_fp16=False)
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 4)), "v": rng.normal(size=(64, 64))}
    tensors = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["h"], name="first"), onnx.helper.make_node("Relu", ["h"], ["y"])]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, ["N", 8])], [info("y", 1, ["N", 4])], tensors)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), folder / "small.onnx"
    )


def damaged(content, rng, count):
    """Name and content of damaged copies: cut short, single bits, bursts, in the head, anywhere, or in the tail."""
    for number in range(count):
        kind = ("cut", "bit", "burst", "cut", "bits", "bit")[number % 6]
        size = len(content)
        spans = ((0, min(64, size)), (0, size), (max(0, size - 256), size), (0, min(2048, size)), (0, size))
        low, high = spans[number % 5]
        at = rng.randrange(low, high)
        copy = bytearray(content)
        if kind == "cut":
            del copy[at:]
        elif kind == "burst":
            copy[at : at + 16] = rng.randbytes(len(copy[at : at + 16]))
        else:
            for position in (at, *(rng.randrange(low, high) for _ in range(7 if kind == "bits" else 0))):
                copy[position] ^= 1 << rng.randrange(8)
        yield f"{kind}_{at}_{number}", bytes(copy)


FLIPS = {
    "keras": ("small.keras", ("small.keras",), 24),
    "h5": ("small.h5", ("small.h5",), 36),
    "saved_model": (
        "small_saved",
        (
            "small_saved/saved_model.pb",
            "small_saved/variables/variables.index",
            "small_saved/variables/variables.data-00000-of-00001",
        ),
        12,
    ),
    "tflite": ("small.tflite", ("small.tflite",), 36),
    "onnx": ("small.onnx", ("small.onnx",), 30),
    "openvino": ("small.xml", ("small.xml", "small.bin"), 18),
}
"""By reader: the model, the files of it to damage, and how many damaged copies of each."""


def write_cases(sound, out):
    """Write all damaged models: (reader, path, whether it must be refused)."""
    rng = random.Random(20261123)
    cases = []
    for reader, (model, victims, count) in FLIPS.items():
        for victim in victims:
            for name, content in damaged((sound / victim).read_bytes(), rng, count):
                folder = out / f"{reader}_{Path(victim).suffix[1:8]}_{name}"
                path = folder / model
                if (sound / model).is_dir():
                    shutil.copytree(sound / model, path)
                else:
                    folder.mkdir()
                    for file in sound.glob(f"{Path(model).stem}.[xb]*" if model.endswith(".xml") else model):
                        shutil.copy(file, folder)
                (folder / victim).write_bytes(content)
                cut = name.startswith("cut") and len(content) < 0.9 * (sound / victim).stat().st_size
                cases.append((reader, path, cut))
    special = out / "special"
    special.mkdir()
    cases += [
        (reader, path, True) for reader, path in (*wrong_kinds(sound, special), *bombs(sound, special), *parts(sound, special))
    ]
    return cases


def wrong_kinds(sound, out):
    """Files that are not what their names say, and empty ones."""
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
    contents = {"png": png, "text": b"these are not weights\n" * 50, "empty": b"", "zeros": bytes(5000)}
    kinds = {"keras": "keras", "h5": "h5", "tflite": "tflite", "onnx": "onnx", "xml": "openvino"}
    for suffix, reader in kinds.items():
        for name, content in contents.items():
            path = out / f"{name}_as.{suffix}"
            path.write_bytes(content)
            yield reader, path
    heads = {
        "keras": b"PK\x03\x04config.json",
        "h5": b"\x89HDF\r\n\x1a\n",
        "tflite": b"\x1c\0\0\0TFL3",
        "onnx": b"\x08\x08\x3a\x05ab",
    }
    for suffix, head in heads.items():
        path = out / f"head_and_noise.{suffix}"
        path.write_bytes(head + random.Random(1).randbytes(3000))
        yield kinds[suffix], path
    folders = {"empty_folder": {}, "nonsense": {"a.txt": b"a", "variables": b"no folder"}, "png_in": {"saved_model.pb": png}}
    for name, files in {**folders, "empty_pb": {"saved_model.pb": b""}, "text_pb": {"saved_model.pbtxt": b"graph {"}}.items():
        (out / name).mkdir()
        for file, content in files.items():
            (out / name / file).write_bytes(content)
        yield "saved_model", out / name
    (out / "folder.keras").mkdir()
    yield "keras", out / "folder.keras"


def zip_of(path, members):
    """A zip file of raw members: name -> (method, stored bytes, declared size, CRC)."""
    body, directory = b"", b""
    for name, (method, data, size, crc) in members.items():
        common = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, crc, len(data), size, len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\x03\x04" + common + name.encode() + data
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\x05\x06" + end)
    return path


def deflated(block, times):
    """A raw deflate stream of a block repeated, without compressing it more than once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(b"")
    one = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return one * times + packer.flush()


def bombs(sound, out):
    """Archives that unpack to gigabytes, honestly declared or not, and archives in archives."""
    with zipfile.ZipFile(sound / "small.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    plain = {name: (0, data, len(data), zlib.crc32(data)) for name, data in parts.items()}
    four_gib = deflated(bytes(1 << 24), 256)
    for member in ("model.weights.h5", "config.json"):
        for size in (0xFFFFFFFE, 1 << 20):
            yield "keras", zip_of(out / f"bomb_{member[:5]}_{size}.keras", {**plain, member: (8, four_gib, size, 0)})
    brackets = deflated(b"[" * (1 << 20), 60)
    crc = zlib.crc32(b"[" * (60 << 20))
    yield "keras", zip_of(out / "bomb_brackets.keras", {**plain, "config.json": (8, brackets, 60 << 20, crc)})
    inner = (sound / "small.keras").read_bytes()
    for name, members in {
        "nested": {"small.keras": (0, inner, len(inner), zlib.crc32(inner))},
        "zip_for_weights": {**plain, "model.weights.h5": (0, inner, len(inner), zlib.crc32(inner))},
        "unknown_method": {**plain, "config.json": (77, inner, len(inner), zlib.crc32(inner))},
    }.items():
        yield "keras", zip_of(out / f"{name}.keras", members)
    for name, member, data in (
        ("short_h5", "model.weights.h5", parts["model.weights.h5"][:9000]),
        ("no_weights", "model.weights.h5", b""),
        ("flipped_h5", "model.weights.h5", parts["model.weights.h5"].replace(b"TREE", b"TRAP")),
        ("no_json", "config.json", b"{"),
        ("wrong_json", "config.json", b"[1, 2, 3]"),
        ("null_json", "config.json", b'{"module": "keras", "class_name": "Sequential", "config": null}'),
        ("latin_json", "config.json", "{'ä': 1}".encode("latin-1")),
    ):
        yield "keras", zip_of(out / f"{name}.keras", {**plain, member: (0, data, len(data), zlib.crc32(data))})


def parts(sound, out):
    """Models of several files of which one is missing or hostile."""
    xml = (sound / "small.xml").read_bytes()
    for name, weights in {"no_bin": None, "empty_bin": b"", "short_bin": (sound / "small.bin").read_bytes()[:100]}.items():
        path = out / f"{name}.xml"
        path.write_bytes(xml)
        if weights is not None:
            path.with_suffix(".bin").write_bytes(weights)
        yield "openvino", path
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY l0 "lol">{laughs}]><net name="&l11;" version="11"></net>'
    outside = '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;" version="11"/>'
    deep = "<net>" + "<layers>" * 100_000
    for name, text in {"laughs": bomb, "outside": outside, "deep": deep}.items():
        (out / f"{name}.xml").write_text(text)
        yield "openvino", out / f"{name}.xml"
    for name, change in {
        "no_variables": lambda p: shutil.rmtree(p / "variables"),
        "no_graph": lambda p: (p / "saved_model.pb").unlink(),
    }.items():
        change(shutil.copytree(sound / "small_saved", out / name))
        yield "saved_model", out / name
