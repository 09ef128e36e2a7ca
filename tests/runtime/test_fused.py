"""Two sensors of different rates as one source of a stream."""

import numpy as np
import pytest

from edgewright.errors import UsageError
from edgewright.runtime import Flow, open_source, stream


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
