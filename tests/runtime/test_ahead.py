"""Keeping the engine and both cores busy: inferences that are started ahead, room for frames, and who prepares them."""

import threading
import time
import weakref

import numpy as np
import pytest
from test_stream import Rows, adds_up, only, rows

from edgewright import testing
from edgewright.errors import EngineError
from edgewright.preprocess import Preprocess
from edgewright.runtime import Flow, Frame, Source, open_session, stream
from edgewright.runtime.engine_choice import engine_of
from edgewright.runtime.prepare import Prepare


class Counted(np.ndarray):
    """An array that can be a member of a set."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Pictures(Source):
    """Random pictures, as a capture would decode them: into the array that is given, if one is, or each into its own."""

    kind, live = "image", False

    def __init__(self, count, seconds=0.0, *, own=False):
        self.count, self.seconds, self.own, self.place = count, seconds, own, 0
        self.alive = weakref.WeakSet()
        self.shown = np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)

    @classmethod
    def of(cls, address):
        raise NotImplementedError

    def read(self, into=None):
        if self.place == self.count:
            return None
        time.sleep(self.seconds)
        self.place += 1
        picture = self.shown[self.place - 1]
        if into is None or self.own:
            into = Counted(picture.shape, np.uint8)
            into[...] = picture
            self.alive.add(into)
        else:
            into[...] = picture
        return Frame(into, self.place - 1, time.monotonic_ns())

    def close(self):
        self.count = self.place


@pytest.fixture
def underway(models, monkeypatch):
    """How many inferences of OpenVINO are underway when one is finished."""
    kind, found = engine_of(models["openvino"]), []
    finish = kind.finish
    monkeypatch.setattr(kind, "finish", lambda session: (found.append(session._underway), finish(session))[1])
    return found


def slowly(monkeypatch, kind, seconds):
    """Sessions of this kind take so long to begin."""
    begin = kind._begin
    monkeypatch.setattr(kind, "_begin", lambda session, *args: (time.sleep(seconds), begin(session, *args))[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_recording_has_the_next_inference_waiting(models, underway, monkeypatch, workers):
    slowly(monkeypatch, engine_of(models["openvino"]), 0.0005)  # slower than the rows come
    data = rows(400)
    running = stream(models["openvino"], Rows(data), flow=Flow(workers=workers))
    found = list(running)
    assert [one.index for one in found] == list(range(400))
    np.testing.assert_array_equal([one.outputs["y"] for one in found], data + 1)
    adds_up(running.summary())
    assert max(underway) == 2 and underway.count(2) > 300


def test_live_results_never_wait_for_the_next_frame(models, underway):
    running = stream(models["openvino"], Rows(rows(30), live=True, rate=100))
    assert len(list(running)) + sum(only(running.summary())["dropped"].values()) == 30
    assert set(underway) == {1}


def test_a_slow_recording_holds_no_result_back(models):
    """Where frames come one by one, a result is there long before the next frame is."""
    running = stream(models["openvino"], Rows(rows(8), rate=10))
    ages = [(time.monotonic_ns() - one.captured_ns) / 1e6 for one in running]
    assert len(ages) == 8 and np.median(ages) < 80, ages  # all but the last would be 100 ms old


def test_what_fails_between_two_inferences_keeps_its_place(models, underway):
    data = rows(60)
    data[::7, 1] = np.nan
    running = stream(models["openvino"], Rows(data))
    found = list(running)
    assert [one.index for one in found] == list(range(60))
    assert [one.index for one in found if one.status == "failed"] == list(range(0, 60, 7))
    good = [one for one in found if one.status == "done"]
    np.testing.assert_array_equal([one.outputs["y"] for one in good], data[[one.index for one in good]] + 1)


def test_an_engine_that_fails_later_fails_that_frame_alone(models, monkeypatch):
    """Errors of a computation come out where it is waited for."""
    kind, ended = engine_of(models["openvino"]), []
    end = kind._end

    def failing(session):
        found = end(session)
        ended.append(1)
        if len(ended) in (5, 6):
            raise RuntimeError("the device went away")
        return found

    monkeypatch.setattr(kind, "_end", failing)
    data = rows(40)
    found = list(stream(models["openvino"], Rows(data)))
    assert [one.index for one in found if one.status == "failed"] == [4, 5]
    assert all("device went away" in one.error for one in found if one.status == "failed")
    good = [one for one in found if one.status == "done"]
    np.testing.assert_array_equal([one.outputs["y"] for one in good], data[[one.index for one in good]] + 1)


def test_stopping_with_two_inferences_underway_adds_up(models, monkeypatch):
    kind, underway = engine_of(models["openvino"]), []
    end = kind._end
    monkeypatch.setattr(kind, "_end", lambda one: (underway.append(len(one._busy)), time.sleep(0.02), end(one))[2])
    running = stream(models["openvino"], Rows(rows(1000)))
    running.stop_after(0.3)
    start = time.monotonic()
    list(running)
    assert time.monotonic() - start < 1.3
    adds_up(running.summary())
    assert max(underway) == 2


def test_an_inference_counts_without_waiting_for_the_one_before(tmp_path):
    """Of two that are underway, the second one waits for half of its time: its own is that of any other."""
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset8
    rng = np.random.default_rng(0)
    x = node = ops.parameter([1, 900], np.float32, name="x")
    for _ in range(12):
        node = ops.matmul(node, rng.normal(size=(900, 900)).astype(np.float32) / 30, False, False)
    path = tmp_path / "wide.xml"
    openvino.save_model(openvino.Model([node], [x]), path, compress_to_fp16=False)
    seconds, whole = [], []
    with open_session(path) as session:
        feeds = {session.inputs[0].name: np.ones((1, 900), np.float32)}
        for _ in range(30):
            start = time.monotonic_ns()
            session.start(feeds)
            session.start(feeds)
            session.finish()
            first = session.computed_ns
            session.finish()
            whole.append(time.monotonic_ns() - start)
            seconds.append(session.computed_ns)
            assert 0 < first + seconds[-1] <= whole[-1], "the time that the second one waited counts twice"
    assert 0.2 < np.median(np.divide(seconds, whole)) < 0.7


def test_models_with_state_are_not_started_ahead(tmp_path):
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset8
    x = ops.parameter([1, 4], np.float32, name="x")
    before = ops.read_value(ops.constant(np.zeros((1, 4), np.float32)), "sum")
    total = ops.add(x, before)
    path = tmp_path / "sum.xml"
    openvino.save_model(openvino.Model([ops.result(total)], [ops.assign(total, "sum")], [x]), path, compress_to_fp16=False)
    data = rows(50)
    with open_session(path) as session:
        assert session.stateful and session.ahead == 1
        session.start({session.inputs[0].name: data[:1]})
        with pytest.raises(EngineError, match="1 batches are underway"):
            session.start({session.inputs[0].name: data[:1]})
    found = list(stream(path, Rows(data)))
    got = [next(iter(one.outputs.values())) for one in found]
    np.testing.assert_allclose(got, np.cumsum(data, axis=0), rtol=1e-4, atol=1e-4)


def test_models_are_compiled_for_one_sample_where_they_can_be(models, tmp_path):
    with open_session(models["openvino_free"], batch=1) as session:
        assert session.inputs[0].shape == (1, 4)
    with open_session(models["openvino_free"]) as session:
        assert session.inputs[0].shape == (None, 4)
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    x = ops.parameter([-1, 4], np.float32, name="x")
    y = ops.reshape(x, ops.constant(np.array([3, 4], np.int64)), False)
    openvino.save_model(openvino.Model([ops.result(y)], [x], "of three"), tmp_path / "three.xml", compress_to_fp16=False)
    with open_session(tmp_path / "three.xml", batch=1) as session:
        data = rows(3)
        (found,) = session.run({session.inputs[0].name: data}).values()
        np.testing.assert_array_equal(found, data)
    found = list(stream(tmp_path / "three.xml", Rows(rows(5))))
    assert [one.status for one in found] == ["failed"] * 5 and "three.xml" in found[0].error


# --- room for frames, and who prepares them -----------------------------------------------------------------------------


def captured_ahead(model, flow=None, source=None, **settings):
    """Frames that a source gives before the first of them has been answered; and how many of its own arrays are kept then."""
    pytest.importorskip("cv2")  # importing it later would look as if the source stood still
    source = source or Pictures(200)
    release = threading.Event()
    declared = Preprocess(size=(12, 10), color="rgb")
    engine = engine_of(model)
    begin, most = engine._begin, []

    def held(session, *args):
        release.wait(20)
        return begin(session, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_begin", held)
        with stream(model, source, flow=flow, preprocess=declared, **settings) as running:
            while not source.place or source.place != (most or [0])[-1]:  # until it stands still
                most.append(source.place)
                time.sleep(0.5)
            kept = len(source.alive)
            release.set()
            found = list(running)
    assert len(found) == 200
    return most[-1], kept


def test_frames_wait_in_numbers_where_only_inputs_are_kept(tmp_path):
    small = testing.plus_one_tflite(tmp_path / "small.tflite", sample=(12, 10, 3))
    assert 32 <= captured_ahead(small)[0] <= 36
    assert captured_ahead(small, keep_images=True)[0] <= 8
    assert captured_ahead(small, Flow(deadline_ms=10_000))[0] <= 8
    assert captured_ahead(small, Flow(buffer=2))[0] <= 5


def test_frames_that_wait_prepared_keep_no_image(tmp_path):
    """Sources may give each image in an array of its own: it does not wait along."""
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(12, 10, 3))
    places, kept = captured_ahead(model, None, Pictures(200, own=True))
    assert places >= 32 and kept <= 6


def test_large_inputs_wait_in_small_numbers(tmp_path):
    sized = testing.plus_one_tflite(tmp_path / "large.tflite", sample=(12, 10, 3))
    spec = open_session(sized).inputs[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewright.runtime.crew._INPUT_BYTES", 10 * 12 * 10 * 3 * np.dtype(spec.dtype).itemsize)
        assert 10 <= captured_ahead(sized)[0] <= 14


@pytest.mark.parametrize(("frame_s", "model_s", "who"), [(0.01, 0.0, "infer"), (0.0, 0.01, "capture")])
@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_frames_are_prepared_by_whoever_has_time(tmp_path, monkeypatch, frame_s, model_s, who, engine):
    """A worker that waits prepares what it is given; frames that wait for a worker come prepared. No array is overwritten."""
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(12, 10, 3))
    prepared = []
    call = Prepare.__call__
    monkeypatch.setattr(Prepare, "__call__", lambda *args: (prepared.append(threading.current_thread().name), call(*args))[1])
    slowly(monkeypatch, engine_of(model, engine), model_s)
    source = Pictures(120, frame_s)
    found = list(stream(model, source, engine=engine, preprocess=Preprocess(size=(12, 10), color="rgb")))
    assert sum(name.startswith(who) for name in prepared) > 100, prepared
    got = np.stack([next(iter(one.outputs.values())) for one in found])
    np.testing.assert_array_equal(got, source.shown[..., ::-1].astype(np.float32) + 1)


def test_threads_that_take_turns_in_preparing_overwrite_nothing(tmp_path, monkeypatch):
    """With times that change, frames come prepared and not, in any order."""
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(12, 10, 3))
    kind, rng = engine_of(model, "openvino"), np.random.default_rng(1)
    begin = kind._begin
    monkeypatch.setattr(kind, "_begin", lambda one, *args: (time.sleep(rng.choice([0, 0, 0.004])), begin(one, *args))[1])
    source = Pictures(600, 0.0005)
    declared = Preprocess(size=(12, 10), color="rgb")
    found = list(stream(model, source, engine="openvino", flow=Flow(workers=2), preprocess=declared))
    assert [one.index for one in found] == list(range(600))
    got = np.stack([next(iter(one.outputs.values())) for one in found])
    np.testing.assert_array_equal(got, source.shown[..., ::-1].astype(np.float32) + 1)
