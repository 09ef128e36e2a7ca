"""Sources of images against real clips, image files, an HTTP server and an RTSP server of GStreamer."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgewright.errors import SourceError, UsageError
from edgewright.runtime.capture import decoded
from edgewright.runtime.sources import open_source

cv2 = pytest.importorskip("cv2")

SYSTEM_PYTHON = "/usr/bin/python3"
BITS = 6


def picture(number: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture that says its number: a white or black block for each bit, which any codec keeps."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image[:, bit * width // BITS : (bit + 1) * width // BITS] = 255
    return image


def number_of(image: np.ndarray) -> int:
    """The number that `picture` wrote."""
    width = image.shape[1]
    centers = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(centers) if image[image.shape[0] // 2, x].mean() > 127)


def clip(path: Path, frames: int = 30, rate: float = 25, codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (64, 48))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(picture(number))
    writer.release()
    return path


def opened(address: str) -> tuple:
    """A source, and what it tells."""
    source = open_source(address)
    told: list[str] = []
    source.tell = told.append
    return source, told


def closes_in_time(source) -> float:
    """Seconds from `close` in another thread to the end of a `read` that waits; there must be one that waits."""
    ended: list[float] = []

    def read_on() -> None:
        while source.read() is not None:
            pass
        ended.append(time.monotonic())

    reader = threading.Thread(target=read_on, daemon=True)
    reader.start()
    time.sleep(0.3)
    assert not ended
    began = time.monotonic()
    source.close()
    reader.join(5)
    assert ended, "read still waits"
    source.close()
    assert source.read() is None
    return ended[0] - began


class TestFile:
    def test_every_frame_comes_in_order_and_with_its_time(self, tmp_path):
        with open_source(f"file:{clip(tmp_path / 'a.mp4')}") as source:
            assert (source.kind, source.live, source.size, source.period_s) == ("image", False, 30, pytest.approx(0.04))
            frames = list(source)
        assert [number_of(frame.data) for frame in frames] == list(range(30))
        assert [frame.index for frame in frames] == list(range(30))
        assert [frame.recorded_ns for frame in frames] == pytest.approx([place * 40e6 for place in range(30)], abs=1e6)
        assert source.read() is None

    def test_decodes_into_what_fits_and_only_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(np, "copyto", lambda *_: pytest.fail("copied, not decoded in place"))
        path = clip(tmp_path / "a.mp4")
        slot, small = np.full((48, 64, 3), 7, np.uint8), np.full((10, 10, 3), 7, np.uint8)
        locked = np.full((48, 64, 3), 7, np.uint8)
        locked.flags.writeable = False
        with open_source(str(path)) as source:
            for number in range(2):
                frame = source.read(slot)
                assert frame.data is slot
                assert number_of(slot) == number
            for other in (small, locked, np.full((48, 64, 3), 7, np.float32), np.full((96, 64, 3), 7, np.uint8)[::2]):
                number += 1
                frame = source.read(other)
                assert number_of(frame.data) == number
                assert frame.data.shape == (48, 64, 3)
                assert (other == 7).all()

    def test_one_thread_decodes_unless_more_are_asked_for(self, tmp_path):
        tasks = Path("/proc/self/task")
        if not tasks.is_dir():
            pytest.skip("this system does not list a process's threads")
        if not hasattr(cv2, "CAP_PROP_N_THREADS"):
            pytest.skip(f"OpenCV {cv2.__version__} cannot be told how many threads decode")
        path = clip(tmp_path / "a.mp4")
        before = len(list(tasks.iterdir()))
        with open_source(f"file:{path}") as source:
            source.read()
            assert len(list(tasks.iterdir())) == before
        with open_source(f"file:{path}?threads=4") as source:
            source.read()
            assert len(list(tasks.iterdir())) >= before + 3

    def test_a_clip_that_was_cut_off_is_told_with_both_numbers(self, tmp_path):
        whole = clip(tmp_path / "a.avi", frames=40, codec="MJPG")
        cut = tmp_path / "cut.avi"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        source, told = opened(f"file:{cut}")
        frames = list(source)
        assert 5 < len(frames) < 30
        assert len(told) == 1
        assert f"{cut} ends after {len(frames)} frames, it announces 40" in told[0]
        source, told = opened(f"file:{whole}")
        assert len(list(source)) == 40
        assert told == []

    @pytest.mark.parametrize("content", ["empty", "noise", "cut before its index", "a folder", "absent"])
    def test_what_cannot_be_decoded_is_an_error_at_opening(self, tmp_path, content):
        path = tmp_path / "bad.mp4"
        if content == "empty":
            path.touch()
        elif content == "noise":
            path.write_bytes(np.random.default_rng(0).bytes(20_000))
        elif content == "cut before its index":
            whole = clip(tmp_path / "a.mp4").read_bytes()
            path.write_bytes(whole[: len(whole) * 2 // 3])
        elif content == "a folder":
            path.mkdir()
        with pytest.raises(SourceError, match=r"bad\.mp4") as caught:
            open_source(f"file:{path}")
        assert caught.value.hint

    def test_a_new_resolution_loses_no_frame_and_leaves_the_given_array_alone(self, tmp_path):
        if int(cv2.__version__.partition(".")[0]) < 5:
            pytest.skip(f"OpenCV {cv2.__version__} repeats the last image before a change")
        path = tmp_path / "two_sizes.mjpeg"
        shapes = [(48, 64)] * 5 + [(96, 128)] * 5
        path.write_bytes(b"".join(cv2.imencode(".jpg", picture(i, shape))[1].tobytes() for i, shape in enumerate(shapes)))
        source, told = opened(f"file:{path}")
        slot = np.zeros((48, 64, 3), np.uint8)
        found = []
        while frame := source.read(slot):
            # OpenCV 5.0 itself scales to the first size; a version that gives the new one is as welcome.
            assert frame.data.shape[:2] in {(48, 64), shapes[frame.index]}
            assert (frame.data is slot) == (frame.data.shape == slot.shape)
            found.append(number_of(frame.data))
        assert found == list(range(10))
        assert told == []

    def test_a_capture_that_changes_its_shape_gives_the_new_shape(self):
        images = [picture(1), picture(2, (96, 128)), picture(3), picture(4)[:, :, 0]]

        class Capture:
            def read(self, into=None):
                image = images.pop(0) if images else None
                return image is not None, image

        slot = np.zeros((48, 64, 3), np.uint8)
        found = [decoded(Capture(), slot), *(decoded(Capture(), slot).copy() for _ in range(3))]
        assert [image.shape for image in found] == [(48, 64, 3), (96, 128, 3), (48, 64, 3), (48, 64, 3)]
        assert found[0] is slot
        assert [number_of(image) for image in found[1:]] == [2, 3, 4]
        assert decoded(Capture(), slot) is None
        images.append(np.zeros((48, 64, 2), np.uint8))
        with pytest.raises(SourceError, match=r"\(48, 64, 2\)"):
            decoded(Capture(), slot)

    def test_loop_goes_on_counting_and_the_time_goes_on_rising(self, tmp_path):
        with open_source(f"file:{clip(tmp_path / 'a.mp4', frames=5)}?loop=yes") as source:
            assert source.size is None
            frames = [source.read() for _ in range(12)]
        assert [number_of(frame.data) for frame in frames] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
        assert [frame.index for frame in frames] == list(range(12))
        assert np.diff([frame.recorded_ns for frame in frames]) == pytest.approx(40e6, abs=1e6)

    def test_realtime_waits_for_frames_and_skips_those_that_nobody_took(self, tmp_path):
        source, told = opened(f"file:{clip(tmp_path / 'a.mp4', frames=30)}?realtime=yes")
        assert source.live
        first = source.read()
        time.sleep(0.5)
        second = source.read()
        assert first.recorded_ns == 0
        assert number_of(second.data) >= 11
        assert second.index == 1
        assert source.skipped == number_of(second.data) - 1
        assert second.recorded_ns == pytest.approx(number_of(second.data) * 40e6, abs=1e6)
        rest = list(source)
        assert rest[-1].captured_ns - first.captured_ns >= 0.95 * 29 * 40e6
        assert 1 + source.skipped + 1 + len(rest) == 30
        assert told == []

    def test_close_ends_a_read_that_waits_for_a_frame_to_be_due(self, tmp_path):
        source = open_source(f"file:{clip(tmp_path / 'a.avi', rate=0.2, codec='MJPG')}?realtime=yes")
        assert closes_in_time(source) < 1

    def test_settings_are_checked(self, tmp_path):
        path = clip(tmp_path / "a.mp4")
        for settings in ("threads=-1", "loop=maybe", "speed=2"):
            with pytest.raises(UsageError, match=settings.partition("=")[0]):
                open_source(f"file:{path}?{settings}")


class TestImages:
    @pytest.fixture
    def folder(self, tmp_path):
        for number in range(4):
            cv2.imwrite(str(tmp_path / f"{number}.jpg"), picture(number))
        (tmp_path / "notes.txt").write_text("no image")
        return tmp_path

    def test_all_of_a_folder_by_name(self, folder):
        with open_source(str(folder)) as source:
            assert (source.kind, source.live, source.size, source.period_s) == ("image", False, 4, None)
            frames = list(source)
        assert [(frame.index, number_of(frame.data), frame.recorded_ns) for frame in frames] == [(i, i, None) for i in range(4)]

    @pytest.mark.parametrize("loop", [False, True])
    def test_broken_files_are_told_by_name_once_and_left_out(self, folder, loop):
        whole = (folder / "1.jpg").read_bytes()
        (folder / "1.jpg").write_bytes(whole[: len(whole) // 2])
        (folder / "3.jpg").write_bytes(b"nothing")
        source, told = opened(f"images:{folder}?loop={'yes' if loop else 'no'}")
        frames = [source.read() for _ in range(5)]
        assert [number_of(frame.data) for frame in frames if frame] == ([0, 2, 0, 2, 0] if loop else [0, 2])
        assert [frame.index for frame in frames if frame] == list(range(5 if loop else 2))
        assert [name for text in told for name in ("1.jpg", "3.jpg") if name in text] == ["1.jpg", "3.jpg"]

    def test_nothing_to_show_is_an_error(self, tmp_path):
        for name in ("empty", "absent", "bad"):
            if name != "absent":
                (tmp_path / name).mkdir()
        (tmp_path / "bad" / "a.png").write_bytes(b"nothing")
        for name in ("empty", "absent"):
            with pytest.raises(SourceError, match=name):
                open_source(f"images:{tmp_path / name}")
        for loop in ("no", "yes"):
            source, told = opened(f"images:{tmp_path / 'bad'}?loop={loop}")
            with pytest.raises(SourceError, match="0 of the 1 images"):
                source.read()
            assert len(told) == 1

    def test_at_a_rate_they_wait_and_skip(self, folder):
        with open_source(f"images:{folder}?rate=10") as source:
            assert (source.live, source.period_s) == (True, 0.1)
            first = source.read()
            time.sleep(0.25)
            later = source.read()
            last = source.read()
        assert (number_of(later.data), source.skipped, later.recorded_ns) == (2, 1, 200_000_000)
        assert last.captured_ns - first.captured_ns >= 0.29e9
        assert closes_in_time(open_source(f"images:{folder}?rate=0.1")) < 1


class FakeCamera:
    """A camera that knows one size, and is unplugged after some frames the first time."""

    plugged_in = 0

    def __init__(self, device, backend, params=()):
        type(self).plugged_in += 1
        self.left = 3 if self.plugged_in == 1 else 1000
        self.device = device

    def isOpened(self):
        return self.device == 5

    def set(self, key, value):
        return False

    def get(self, key):
        return {cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0, cv2.CAP_PROP_FPS: 30.0}.get(key, 0.0)

    def read(self, into=None):
        time.sleep(0.02)
        self.left -= 1
        return (self.left >= 0, picture(1))

    def release(self):
        pass


class TestCamera:
    def test_no_such_camera(self):
        with pytest.raises(SourceError, match="camera 63 ") as caught:
            open_source("camera:63")
        assert "/dev/video" in caught.value.hint

    def test_what_it_gives_instead_is_told_and_it_is_waited_for(self, monkeypatch):
        monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
        monkeypatch.setattr(FakeCamera, "plugged_in", 0)
        source, told = opened("camera:5?width=640&height=48&rate=30")
        assert (source.live, source.period_s) == (True, pytest.approx(1 / 30))
        while FakeCamera.plugged_in < 2 or not any("sends again" in text for text in told):
            frame = source.read()
        source.close()
        assert frame.data.shape == (48, 64, 3)
        assert told[0] == "camera 5 gives width 64 (asked for: 640)"
        assert "camera 5 broke off" in told[1]


class MjpegServer:
    """Sends numbered pictures 50 times a second; `mode` says what it does instead."""

    def __init__(self):
        self.mode, self.number, self.requests, self.shape = "send", 0, 0, (48, 64)
        self.stopped = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                outer.serve(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def serve(self, request) -> None:
        if request.path != "/video" or self.mode == "refuse":
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        request.end_headers()
        try:
            while not self.stopped.wait(0.02) and self.mode in {"send", "silent"}:
                if self.mode == "silent":
                    continue
                self.number += 1
                jpeg = cv2.imencode(".jpg", picture(self.number % 64, self.shape))[1].tobytes()
                head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                request.wfile.write(head.encode() + jpeg + b"\r\n")
        except OSError:
            pass

    def close(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def mjpeg():
    server = MjpegServer()
    yield server
    server.close()


class TestHttp:
    def test_after_a_pause_the_newest_frame_comes_and_the_rest_is_counted(self, mjpeg):
        with open_source(f"http://{mjpeg.host}/video") as source:
            assert (source.kind, source.live, source.period_s) == ("image", True, None)
            frames = [source.read() for _ in range(3)]
            assert np.diff([number_of(frame.data) for frame in frames]).min() >= 1
            before, sent = source.skipped, mjpeg.number
            time.sleep(0.8)
            new = source.read()
            paused = mjpeg.number - sent
            behind = (mjpeg.number - number_of(new.data)) % 64
            assert paused > 15
            assert behind <= paused / 3
            assert source.skipped - before >= paused / 2
            assert [frame.index for frame in frames] + [new.index] == [0, 1, 2, 3]

    def test_silence_is_told_by_name_and_it_connects_again(self, mjpeg):
        source, told = opened(f"http://{mjpeg.host}/video#timeout=0.6")
        source.read()
        mjpeg.mode = "silent"
        timer = threading.Timer(1.5, setattr, (mjpeg, "mode", "send"))
        timer.start()
        before = mjpeg.requests
        last = None
        while mjpeg.requests == before or last is None or not told:
            last = source.read()
        while not any("sends again" in text for text in told):
            last = source.read()
        timer.join()
        source.close()
        assert told[0] == f"http://{mjpeg.host}/video is open but sent nothing for 0.6 s; connecting again"
        assert last.data.shape == (48, 64, 3)
        assert mjpeg.requests > before

    def test_a_break_is_told_and_after_its_retries_it_is_an_error(self, mjpeg):
        source, told = opened(f"http://{mjpeg.host}/video#retries=2&timeout=1")
        for _ in range(3):
            source.read()
        mjpeg.mode = "refuse"
        with pytest.raises(SourceError, match="2 reconnections") as caught:
            while source.read():
                pass
        assert f"http://{mjpeg.host}/video" in str(caught.value)
        assert "broke off" in told[0]
        assert source.read() is None

    def test_a_camera_that_comes_back_with_another_size_gives_that_size(self, mjpeg):
        source, told = opened(f"http://{mjpeg.host}/video")
        assert source.read().data.shape == (48, 64, 3)
        mjpeg.mode, mjpeg.shape = "break", (96, 128)
        threading.Timer(0.2, setattr, (mjpeg, "mode", "send")).start()
        while not any("sends again" in text for text in told):
            frame = source.read()
        source.close()
        assert frame.data.shape == (96, 128, 3)

    def test_what_a_pause_left_behind_is_not_given_as_new(self, mjpeg):
        source = open_source(f"http://{mjpeg.host}/video#timeout=0.5")
        source.read()
        mjpeg.mode = "silent"
        time.sleep(1.0)
        mjpeg.mode, resumed_ns = "send", time.monotonic_ns()
        frame = source.read()
        source.close()
        assert frame.captured_ns >= resumed_ns

    def test_not_there_at_first_is_an_error_at_once_without_the_password(self, mjpeg):
        for address in (f"http://ann:secret@{mjpeg.host}/other", f"http://ann:secret@{free_host()}/video"):
            with pytest.raises(SourceError, match=r"http://\*\*\*@127.0.0.1") as caught:
                open_source(address)
            assert "secret" not in str(caught.value) + caught.value.hint

    def test_close_ends_a_read_whatever_the_server_does(self, mjpeg):
        silent = open_source(f"http://{mjpeg.host}/video#timeout=30")
        silent.read()
        mjpeg.mode = "silent"
        assert closes_in_time(silent) < 1
        mjpeg.mode = "send"
        refused, _ = opened(f"http://{mjpeg.host}/video")
        refused.read()
        mjpeg.mode = "refuse"
        assert closes_in_time(refused) < 1


def free_host() -> str:
    """An address where nobody listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return f"127.0.0.1:{server.server_port}"


class RtspServer:
    """The server of rtsp_server.py, to be stopped, killed and started again at its port."""

    def __init__(self):
        self.process, self.port = None, ""

    def start(self) -> None:
        for _ in range(20):
            command = [SYSTEM_PYTHON, str(Path(__file__).with_name("rtsp_server.py")), *([self.port] if self.port else [])]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if line := self.process.stdout.readline().strip():
                self.port = line
                return
            _, why = self.process.communicate()
            if not self.port:
                pytest.skip(f"no RTSP server: {why.strip().splitlines()[-1:]}")
            time.sleep(0.2)
        pytest.fail("the RTSP server does not start again")

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def rtsp():
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"no {SYSTEM_PYTHON}, which would have GStreamer")
    server = RtspServer()
    server.start()
    yield server
    server.kill()


class TestRtsp:
    def test_killed_and_started_again(self, rtsp):
        source, told = opened(f"rtsp://127.0.0.1:{rtsp.port}/video#timeout=1.5&transport=tcp")
        assert (source.kind, source.live) == ("image", True)
        assert source.period_s == pytest.approx(0.04)
        frames = [source.read() for _ in range(5)]
        assert {frame.data.shape for frame in frames} == {(120, 160, 3)}
        assert len({frame.data.tobytes() for frame in frames}) > 1
        rtsp.kill()
        rtsp.start()
        while not any("sends again" in text for text in told):
            last = source.read()
        source.close()
        assert told[0].startswith(f"rtsp://127.0.0.1:{rtsp.port}/video broke off")
        assert last.data.shape == (120, 160, 3)
        assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ

    def test_a_server_that_falls_silent_and_comes_back(self, rtsp):
        source, told = opened(f"rtsp://127.0.0.1:{rtsp.port}/video#timeout=1")
        source.read()
        os.kill(rtsp.process.pid, signal.SIGSTOP)
        timer = threading.Timer(2.0, os.kill, (rtsp.process.pid, signal.SIGCONT))
        timer.start()
        while not any("sends again" in text for text in told):
            source.read()
        timer.join()
        source.close()
        assert told[0] == f"rtsp://127.0.0.1:{rtsp.port}/video is open but sent nothing for 1.0 s; connecting again"

    def test_close_while_the_server_hangs(self, rtsp):
        source = open_source(f"rtsp://127.0.0.1:{rtsp.port}/video#timeout=30")
        source.read()
        os.kill(rtsp.process.pid, signal.SIGSTOP)
        assert closes_in_time(source) < 1

    def test_no_server(self):
        host = free_host()
        with pytest.raises(SourceError, match=rf"{host}/video cannot be opened: its host does not answer .*refused"):
            open_source(f"rtsp://{host}/video")
        with pytest.raises(UsageError, match="tcp or udp"):
            open_source(f"rtsp://{host}/video#transport=pigeon")


class TestGstreamer:
    PIPELINE = "videotestsrc num-buffers=20 is-live=true ! video/x-raw,width=64,height=48,framerate=50/1 ! {} ! appsink"
    BGR = "videoconvert ! video/x-raw,format=BGR"

    def test_an_opencv_without_it_says_so(self):
        if "GStreamer:                   YES" in cv2.getBuildInformation():
            pytest.skip("this OpenCV has GStreamer")
        with pytest.raises(SourceError, match="built without GStreamer") as caught:
            open_source(f"gstreamer:{self.PIPELINE.format(self.BGR)}")
        assert "python3-opencv" in caught.value.hint
        with pytest.raises(UsageError, match="no appsink"):
            open_source("gstreamer:videotestsrc ! fakesink")

    def test_a_pipeline_gives_frames_and_ends(self):
        script = (
            "import sys, cv2; from edgewright.runtime.sources import open_source\n"
            "assert 'GStreamer:                   YES' in cv2.getBuildInformation()\n"
            "frames = list(open_source(sys.argv[1]))\n"
            "print(len(frames), frames[0].data.shape, frames[0].data.dtype)"
        )
        root = str(Path(__file__).parents[2])
        for python in (sys.executable, SYSTEM_PYTHON):
            done = subprocess.run(
                [python, "-c", script, f"gstreamer:{self.PIPELINE.format(self.BGR)}"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if "ModuleNotFoundError" not in done.stderr and "AssertionError" not in done.stderr:
                assert done.returncode == 0, done.stderr
                number, rest = done.stdout.split(" ", 1)
                assert 10 <= int(number) <= 20
                assert rest.strip() == "(48, 64, 3) uint8"
                return
        pytest.skip("no Python on this machine has an OpenCV with GStreamer")


def test_cv2_is_loaded_when_a_source_is_opened_and_not_before():
    code = (
        "import sys; from edgewright.runtime.sources import SOURCES\n"
        "for name in ('file', 'images', 'camera', 'rtsp', 'http', 'gstreamer'): SOURCES.get(name)\n"
        "assert 'cv2' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@contextmanager
def without_cv2(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    yield
    monkeypatch.undo()


@pytest.mark.parametrize("address", ["images:.", "camera:0", "rtsp://host/a", "http://host/a", "gstreamer:a ! appsink"])
def test_without_opencv_the_way_to_install_it_is_named(address, monkeypatch):
    from edgewright.errors import MissingPackageError

    with without_cv2(monkeypatch), pytest.raises(MissingPackageError) as caught:
        open_source(address)
    assert "edgewright[video]" in caught.value.hint


def test_a_program_that_forgets_to_close_ends_well(mjpeg):
    code = "import sys; from edgewright.runtime.sources import open_source; open_source(sys.argv[1]).read(); print('read')"
    done = subprocess.run(
        [sys.executable, "-c", code, f"http://{mjpeg.host}/video"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr


def test_decoding_on_more_threads_goes_on_where_it_was(tmp_path):
    path = clip(tmp_path / "clip.mp4", frames=40)
    with open_source(f"file:{path}") as source:
        wanted = [frame.data.copy() for frame in source]
    with open_source(f"file:{path}") as source:
        found = []
        while (frame := source.read()) is not None:
            found.append(frame)
            if frame.index == 14:
                source.decode_on(2)
    assert [frame.index for frame in found] == list(range(40)) and source.decode_threads == 2
    np.testing.assert_array_equal([frame.data for frame in found], wanted)
