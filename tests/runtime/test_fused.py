"""Two sensors of different rates as one source of a stream."""

import threading

import numpy as np
import pytest

from edgewright.errors import SourceError, UsageError
from edgewright.runtime import Flow, Source, open_source, stream
from edgewright.runtime.fused import FusedSource


def write(path, times, columns):
    rows = [",".join(map(repr, map(float, (time, *values)))) for time, values in zip(times, columns, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return f"csv:{path}?time=0"


@pytest.fixture
def sensors(tmp_path):
    """100 Hz with three channels, 20 Hz with one, both straight lines in time."""
    quick, slow = np.arange(0, 5, 0.01), np.arange(0, 5, 0.05)
    first = write(tmp_path / "quick.csv", quick, [(t, 2 * t, -t) for t in quick])
    return first, write(tmp_path / "slow.csv", slow, [(10 * t,) for t in slow])


def test_recorded_sensors_are_fused_by_their_times(models, sensors):
    found = list(stream(models["tflite"], sensors, fuse="rate=50,skew=0.2"))
    times = np.asarray([one.recorded_ns for one in found]) / 1e9
    np.testing.assert_allclose(np.diff(times), 0.02, rtol=1e-6)
    wanted = np.stack([times, 2 * times, -times, 10 * times], axis=1)
    assert len(found) > 240
    np.testing.assert_allclose([one.outputs["y"] - 1 for one in found][:-20], wanted[:-20], atol=1e-4)


def test_live_sensors_are_fused(models):
    pair = ["synthetic:sensor?channels=3&rate=200&count=200", "synthetic:sensor?channels=1&rate=50&count=50"]
    running = stream(models["tflite"], pair, fuse="rate=100,skew=0.3,align=first", flow=Flow(policy="wait"))
    found = list(running)
    assert 80 <= len(found) <= 120 and all(one.outputs["y"].shape == (4,) for one in found)
    (lane,) = running.summary()["sources"].values()
    assert lane["live"] and lane["waiting"] == 0


def test_closing_ends_fused_live_sensors(models):
    pair = ["synthetic:sensor?channels=3&rate=200", "synthetic:sensor?channels=1&rate=50"]
    running = stream(models["tflite"], pair, fuse="rate=100,align=first")
    next(iter(running))
    running.close()
    assert not [lane for lane in running.lanes if lane.waiting]


@pytest.mark.parametrize(
    ("text", "said"), [("skew=0.2", "has no rate"), ("rate=fast", "number"), ("rate=50,speed=2", "speed"), ("rate=0", "above 0")]
)
def test_what_cannot_be_fused_is_refused(models, sensors, text, said):
    with pytest.raises(UsageError, match=said):
        stream(models["tflite"], sensors, fuse=text)
    with pytest.raises(UsageError, match="two or more"):
        stream(models["tflite"], sensors[:1], fuse="rate=50")
    with pytest.raises(UsageError, match="gives images"):
        stream(models["tflite"], [sensors[0], open_source("synthetic:image?count=1")], fuse="rate=50")


def test_recorded_sensors_of_different_zeros_are_fused_from_their_first_samples(models, tmp_path):
    quick, slow = np.arange(0, 5, 0.01), np.arange(0, 5, 0.05)
    first = write(tmp_path / "quick.csv", quick, [(t, 2 * t, -t) for t in quick])
    second = write(tmp_path / "slow.csv", slow + 1000, [(10 * t,) for t in slow])
    found = list(stream(models["tflite"], [first, second], fuse="rate=50,skew=0.2,align=first"))
    times = np.asarray([one.recorded_ns for one in found]) / 1e9
    np.testing.assert_allclose(times, np.arange(len(found)) / 50, atol=1e-6)
    wanted = np.stack([times, 2 * times, -times, 10 * times], axis=1)
    assert len(found) > 240
    np.testing.assert_allclose([one.outputs["y"] - 1 for one in found][:-20], wanted[:-20], atol=1e-4)


def test_recordings_without_a_sample_give_no_frame(tmp_path):
    (tmp_path / "empty.csv").write_text("t,x\n")
    pair = [(name, open_source(f"csv:{tmp_path / 'empty.csv'}?time=t")) for name in "ab"]
    with FusedSource.parse(pair, "rate=50") as fused:
        assert list(fused) == []


class Live(Source):
    """A live sensor without samples, which ends by an error, or when it is closed."""

    kind, live = "sensor", True

    def __init__(self, error=None, *, at_close=None):
        self.error, self.at_close, self.closed = error, at_close, threading.Event()

    @classmethod
    def of(cls, address):
        raise NotImplementedError

    def read(self, into=None):
        if self.error:
            self.tell("it is about to break")
            raise self.error
        self.closed.wait()

    def close(self):
        self.closed.set()
        if self.at_close:
            raise self.at_close


def test_a_live_sensor_that_breaks_off_is_the_streams_error(models):
    running = stream(models["tflite"], [Live(ValueError("half a row")), Live()], fuse="rate=50,skew=0.2")
    with pytest.raises(SourceError, match=r"Live broke off \(ValueError: half a row\)"):
        list(running)


def test_what_a_fused_sensor_tells_is_an_event_of_the_stream():
    sensors, told = [("left", Live(SourceError("it broke"))), ("right", Live())], []
    for _, sensor in sensors:
        sensor.live = False
    fused = FusedSource(sensors, 50, 0.2)
    fused.tell = told.append
    with pytest.raises(SourceError, match="it broke"):
        fused.read()
    assert told == ["left: it is about to break"]


def test_a_sensor_that_cannot_be_closed_keeps_nothing_else_open():
    bad, good = Live(at_close=OSError("the bus is gone")), Live()
    fused, read = FusedSource([("bad", bad), ("good", good)], 50, 0.2), []
    reading = threading.Thread(target=lambda: read.append(fused.read()), daemon=True)
    reading.start()
    with pytest.raises(OSError, match="the bus is gone"):
        fused.close()
    reading.join(5)
    assert good.closed.is_set() and read == [None]
