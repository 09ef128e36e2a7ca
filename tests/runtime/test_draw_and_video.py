"""What is drawn can be read, and what was written survives."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgewright.errors import ShapeError, SinkError, UsageError
from edgewright.runtime.address import parse_address
from edgewright.runtime.draw import draw
from edgewright.runtime.frames import Result
from edgewright.runtime.sinks import open_sink
from edgewright.runtime.sinks.video import VideoSink

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

FACE = {"box": [40.0, 30.0, 120.0, 110.0], "score": 0.93, "class": 0, "label": "face", "track": 3, "points": [[60.0, 60.0]]}
NAN = float("nan")


def result(index: int, image: np.ndarray | None, **values) -> Result:
    given = {"status": "done", "answer": {"boxes": [FACE]}} | values
    return Result(index, "cam", given.pop("status"), 0, 41_000_000, image=image, **given)


def frames_of(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (read := video.read())[0]:
        frames.append(read[1])
    video.release()
    return frames


def contrast(image: np.ndarray) -> int:
    return int(image.max()) - int(image.min())


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("light", [0, 128, 255])
@pytest.mark.parametrize("size", [(144, 176), (1080, 1920)])
def test_boxes_and_text_stand_out_on_light_and_dark(size, light):
    image = np.full((*size, 3), light, np.uint8)
    box = [0.25 * size[1], 0.4 * size[0], 0.75 * size[1], 0.9 * size[0]]
    drawn = draw(image, {"boxes": [FACE | {"box": box}]}, age_ms=41)
    assert (image == light).all() and drawn.shape == image.shape
    rows = slice(round(box[1]) - 4, round(box[1]) + 4)
    edge = drawn[rows, round(0.7 * size[1])]
    assert contrast(edge.astype(int).mean(axis=1)) > 60
    foot = drawn[-round(0.05 * size[0]) - 10 :, : round(0.1 * size[1])]
    assert contrast(foot) > 150
    changed = np.flatnonzero((drawn != light).any(axis=(1, 2)))
    assert changed[0] < box[1] - 8  # the label is above the box


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"boxes": []},
        {"boxes": [{"box": [-5e9, NAN, 5e9, 20]}, {"box": [170, 140, 180, 150], "points": [[NAN, 3], [1e12, 3]]}]},
        {"boxes": [FACE | {"label": "a very long label that no image of this width has room for"}]},
        {"label": "walking", "class": 3, "score": 0.93},
        {"class": 3},
        {"labels": ["dog", "cat"]},
        {"labels": []},
        {"anomaly": True, "score": 1.2, "threshold": 0.8},
        {"anomaly": None, "score": 1.2, "learning": True},
        {"values": [0.1, 22.5, NAN] * 5},
        {"outputs": {"y": [1.0]}},
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (20, 30), (144, 176)])
def test_any_answer_can_be_drawn(answer, size):
    assert draw(np.zeros((*size, 3), np.uint8), answer, age_ms=123456.0, late=True).shape == (*size, 3)
    assert draw(np.zeros(size, np.uint8), answer, error="no output 'x'; " * 40).shape == (*size, 3)


def test_every_kind_of_answer_is_seen():
    image = np.full((144, 176, 3), 90, np.uint8)
    answers = [{"label": "walking", "score": 0.9}, {"anomaly": True, "score": 2.0, "threshold": 1.0}, {"values": [1.5]}]
    pictures = [draw(image, answer) for answer in [*answers, {"anomaly": False, "score": 0.5, "threshold": 1.0}]]
    pictures += [draw(image, {}, error="boom"), draw(image, {}, age_ms=3.0), draw(image, {}, age_ms=3.0, late=True)]
    assert len({picture.tobytes() for picture in [image, *pictures]}) == 8


def test_labels_do_not_cover_each_other():
    image = np.zeros((144, 176, 3), np.uint8)
    one = draw(image, {"boxes": [FACE]})
    two = draw(image, {"boxes": [FACE, FACE | {"box": [41.0, 31.0, 121.0, 111.0], "score": 0.5, "track": 4}]})
    label = (slice(12, 28), slice(44, 100))
    assert contrast(one[label]) > 150 and np.array_equal(one[label], two[label])


def test_what_is_no_image_is_refused():
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\)"):
        draw(np.zeros((2, 3, 4), np.uint8), {})


# --- video ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ts", ".avi", ".mkv", ".mp4", ".webm"])
def test_every_container_gives_back_what_was_written(tmp_path, suffix):
    path = tmp_path / f"seen{suffix}"
    image = np.full((96, 128, 3), 128, np.uint8)
    with_box = draw(image, {"boxes": [FACE]}, age_ms=41.0)
    sink = open_sink(f"video:{path}?fps=10")
    for index in range(20):
        sink.write(result(index, image))
    assert sink.close() == 0 and sink.close() == 0
    frames = frames_of(path)
    assert len(frames) == 20 and (image == 128).all()
    assert np.abs(frames[-1].astype(int) - with_box).mean() < 8
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(10, abs=0.2)


def test_other_sizes_are_fitted_and_failures_shown(tmp_path):
    sink = VideoSink(tmp_path / "seen.avi")
    for image in (np.full((96, 128, 3), 128, np.uint8), np.full((200, 100, 3), 255, np.uint8), np.full((48, 64), 200, np.uint8)):
        sink.write(result(0, image, answer={}))
    sink.write(result(3, None, status="failed", answer={}, error="the engine broke off"))
    sink.close()
    first, tall, gray, failed = frames_of(tmp_path / "seen.avi")
    assert first.shape == (96, 128, 3)
    assert tall[48, 64].min() > 240 and tall[48, 20].max() < 20
    assert abs(int(gray[48, 64, 0]) - 200) < 10
    assert (failed[:30, :, 2] > 150).mean() > 0.2  # a red banner


def test_a_file_that_is_there_stays_until_there_is_something_to_write(tmp_path):
    path = tmp_path / "seen.ts"
    path.write_text("old")
    sink = open_sink(str(path))
    assert isinstance(sink, VideoSink) and sink.close() == 0
    assert path.read_text() == "old"


def test_what_cannot_be_written_is_told(tmp_path):
    for address, error, said in (
        (f"video:{tmp_path}/no/seen.ts", SinkError, "does not exist"),
        (f"video:{tmp_path}/seen.gif", SinkError, r"known: \.mkv"),
        (f"video:{tmp_path}/seen.ts?rate=3", UsageError, "known: fps, codec"),
        (f"video:{tmp_path}/seen.ts?codec=h264x", UsageError, "four letters"),
    ):
        with pytest.raises(error, match=said):
            VideoSink.of(parse_address(address))
    with pytest.raises(SinkError, match="no image to draw on"):
        VideoSink(tmp_path / "a.ts").write(result(0, None))
    with pytest.raises(SinkError, match="codec 'zzzz'"):
        VideoSink(tmp_path / "b.ts", codec="zzzz").write(result(0, np.zeros((96, 128, 3), np.uint8)))


CHILD = """
import sys, numpy as np
from pathlib import Path
from edgewright.runtime.frames import Result
from edgewright.runtime.sinks.video import VideoSink
sink = VideoSink(Path(sys.argv[1]))
noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1)
for index in range(1, 1000):
    sink.write(Result(index, "cam", "done", 0, 1, image=np.roll(noise, 3 * index, 1)))
    print(index, flush=True)
    if index == 150:
        sys.stdin.read()
"""


@pytest.mark.parametrize(("suffix", "lost"), [(".mkv", 0), (".ts", 60), (".avi", 60)])
def test_a_killed_writer_leaves_its_frames(tmp_path, suffix, lost):
    path = tmp_path / f"seen{suffix}"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if line.strip() == "150":
            break
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=20)
    assert 150 - len(frames_of(path)) <= lost


FULL = """
import resource, sys, numpy as np
from pathlib import Path
from edgewright.errors import SinkError
from edgewright.runtime.frames import Result
from edgewright.runtime.sinks.video import VideoSink
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sink, image = VideoSink(Path(sys.argv[1])), np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
written = lost = 0
for index in range(60):
    try:
        sink.write(Result(index, "cam", "done", 0, 1, image=image if index % 20 else np.zeros_like(image)))
        written += 1
    except SinkError as error:
        lost, said = lost + 1, str(error)
print(written, lost, sink.close(), said)
"""


def test_a_full_disk_is_told_and_what_fits_is_kept(tmp_path):
    path = tmp_path / "seen.mkv"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60, check=True)
    written, lost, at_the_end, said = done.stdout.split(maxsplit=3)
    assert int(written) > 2 and int(lost) > 2 and at_the_end == "0" and "File too large" in said
    assert len(frames_of(path)) == int(written)


def test_a_matroska_file_can_be_played_while_it_grows_and_knows_its_length_at_the_end(tmp_path):
    path, image = tmp_path / "seen.mkv", np.full((96, 128, 3), 128, np.uint8)
    sink = VideoSink(path, fps=12.5)
    for count in range(1, 301):
        sink.write(result(count, image))
        if count in {1, 2, 30}:
            assert len(frames_of(path)) == count
    sink.close()
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 300 and video.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    video.set(cv2.CAP_PROP_POS_FRAMES, 200)
    assert video.read()[0] and video.get(cv2.CAP_PROP_POS_MSEC) == pytest.approx(200 * 80, abs=81)
    video.release()


@pytest.mark.parametrize("codec", ["mp4v", "XVID"])
def test_other_codecs_go_through_opencv(tmp_path, codec):
    sink = open_sink(f"video:{tmp_path}/seen.mkv?codec={codec}")
    for index in range(10):
        sink.write(result(index, np.full((96, 128, 3), 128, np.uint8)))
    sink.close()
    assert len(frames_of(tmp_path / "seen.mkv")) == 10


@pytest.mark.parametrize("live", [True, False])
def test_frames_of_a_matroska_file_have_their_own_times(tmp_path, live):
    """Of the capture where a source is live, else of the recording; one that begins again goes on behind itself."""
    sink = VideoSink(tmp_path / "seen.mkv")
    sink.live = live
    times, image = [0, 30, 90, 100, 400], np.zeros((96, 128, 3), np.uint8)
    for index, ms in enumerate([*times, *times]):
        captured = (ms + (1000 if index >= len(times) else 0)) * 1_000_000 + 77
        own = {"captured_ns": captured} if live else {"captured_ns": 5, "recorded_ns": ms * 2_000_000}
        sink.write(Result(index, "cam", "done", finished_ns=captured, image=image, **own))
    sink.close()
    video, found = cv2.VideoCapture(str(tmp_path / "seen.mkv"), cv2.CAP_FFMPEG), []
    while video.read()[0]:
        found.append(video.get(cv2.CAP_PROP_POS_MSEC))
    video.release()
    again = 1000 if live else 840
    wanted = [*times, *(ms + 1000 for ms in times)] if live else [*(2 * ms for ms in times), *(2 * ms + again for ms in times)]
    np.testing.assert_allclose(found, wanted, atol=1)


def test_pictures_of_two_sources_in_one_video_are_told(tmp_path):
    sink, told = VideoSink(tmp_path / "seen.mkv"), []
    sink.tell = told.append
    for index in range(6):
        sink.write(dataclasses.replace(result(index, np.zeros((96, 128, 3), np.uint8)), source="ab"[index % 2]))
    sink.close()
    assert told == ["pictures of a and b take turns in one video"]
