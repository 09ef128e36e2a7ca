"""JPEG images over HTTP: each one whole and in order, damaged ones left out and counted."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright import testing
from edgewright.errors import SourceError
from edgewright.preprocess import Preprocess
from edgewright.runtime import mjpeg, stream
from edgewright.runtime.mjpeg import Mjpeg, connected

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")


def jpeg(number, size=(24, 32)):
    picture = np.full((*size, 3), 3 * number, np.uint8)
    picture[: size[0] // 2] = 255 - 3 * number
    return bytes(cv2.imencode(".jpg", picture)[1])


JPEGS = [jpeg(number) for number in range(20)]


def body(parts, *, boundary=b"frame", length=True, newline=b"\r\n"):
    """A stream as servers write it; a part is its content, or (content, length that it claims)."""
    text = b"preamble" + newline
    for part in parts:
        content, claimed = part if isinstance(part, tuple) else (part, len(part))
        headers = [b"Content-Type: image/jpeg", *([b"content-length: %d" % claimed] if length else [])]
        text += b"--" + boundary + newline + newline.join(headers) + 2 * newline + content + newline
    return text + b"--" + boundary + b"--" + newline


def pictures(chunks, boundary=b"frame"):
    """All pictures of a stream that comes in these pieces, and how many were damaged."""
    pieces = iter([*chunks])
    reader = Mjpeg(lambda: next(pieces, b""), boundary, lambda: None)
    found = []
    while (read := reader.read())[0]:
        found.append(read[1])
    return found, reader.broken


def split(text, places):
    cuts = sorted({0, len(text), *(place % len(text) for place in places)})
    return [text[a:b] for a, b in pairwise(cuts)]


def equal(found, wanted):
    assert len(found) == len(wanted)
    for picture, data in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(picture, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@given(st.lists(st.integers(0, 10**6), max_size=40), st.booleans(), st.sampled_from([b"\r\n", b"\n"]))
def test_pictures_are_the_same_in_whatever_pieces_they_come(places, length, newline):
    found, broken = pictures(split(body(JPEGS, length=length, newline=newline), places))
    equal(found, JPEGS)
    assert broken == 0


@given(
    st.dictionaries(st.integers(0, 19), st.integers(1, 10**6), max_size=10),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 10**6), max_size=9),
)
def test_what_is_cut_is_left_out_and_counted_and_nothing_else(cuts, length, lies, places):
    parts = []
    for number, data in enumerate(JPEGS):
        cut = data[: cuts[number] % (len(data) - 2)] if number in cuts else data
        parts.append((cut, len(data) if lies else len(cut)))
    found, broken = pictures(split(body(parts, length=length), places))
    equal(found, [data for number, data in enumerate(JPEGS) if number not in cuts])
    assert broken == len(cuts)


@given(st.lists(st.integers(-300, 10**5), min_size=20, max_size=20), st.lists(st.integers(0, 10**6), max_size=9))
def test_lengths_that_are_wrong_lose_no_picture(errors, places):
    parts = [(data, max(0, len(data) + error)) for data, error in zip(JPEGS, errors, strict=True)]
    found, broken = pictures(split(body(parts), places))
    equal(found, JPEGS)
    assert broken == 0


def test_what_is_no_picture_is_left_out():
    found, broken = pictures([body([b"", JPEGS[0], b"not a jpeg", b"\xff\xd8 nor this \xff\xd9", JPEGS[1] + b"\0\0"])])
    equal(found, JPEGS[:2])
    assert broken == 3


def test_streams_without_an_end_are_given_up(monkeypatch):
    monkeypatch.setattr(mjpeg, "_LONGEST", 1 << 20)
    with pytest.raises(SourceError, match="without the end of an image"):
        Mjpeg(lambda: bytes(70_000), b"frame", lambda: None).read()
    with pytest.raises(SourceError, match="50 damaged images in a row"):
        pictures([body([b"garbage"] * 60)])


class Camera(ThreadingHTTPServer):
    """Sends all pictures of `JPEGS`, every fifth of them cut in half, the first one once more, and then nothing."""

    daemon_threads = True
    asked, unasked = "", 0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.ended = threading.Event()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked = self.path
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/video?size=1")
            self.end_headers()
            return
        if self.path == "/locked" and self.headers.get("Authorization") != f"Basic {base64.b64encode(b'ann:s:t').decode()}":
            self.server.unasked += self.headers.get("Authorization") is not None
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.server.unasked += self.path != "/locked" and self.headers.get("Authorization") is not None
        self.send_response(200)
        kind = "text/html" if self.path == "/page" else 'multipart/x-mixed-replace; boundary="--a b"'
        self.send_header("Content-Type", kind)
        self.end_headers()
        cut = [data[: len(data) // 2] if number % 5 == 4 else data for number, data in enumerate(JPEGS)]
        self.wfile.write(body([*cut, JPEGS[0]], boundary=b"a b")[:-9] + b"\r\n")
        self.wfile.flush()
        self.server.ended.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture
def camera():
    server = Camera()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["ann:s%3At@HOST/locked", "ann:s%3At@HOST/moved", "ann:s%3At@HOST/video?size=1"])
def test_pictures_come_over_the_wire(camera, path):
    reader = connected(f"http://{path.replace('HOST', f'127.0.0.1:{camera.server_port}')}", 5.0, 0.4)
    found = [reader.read()[1] for _ in range(17)]
    equal(found, [*(data for number, data in enumerate(JPEGS) if number % 5 != 4), JPEGS[0]])
    with pytest.raises(SourceError, match=r"it sent nothing for 0\.4 s"):
        reader.read()
    assert reader.broken == 4
    reader.release()
    assert camera.unasked == 0, "a password went where nobody had asked for it"
    assert camera.asked == ("/locked" if "locked" in path else "/video?size=1")


@pytest.mark.parametrize("path", ["page", "locked"])
def test_what_is_no_such_stream_is_left_to_ffmpeg(camera, path):
    assert connected(f"http://127.0.0.1:{camera.server_port}/{path}", 5.0, 1.0) is None


def test_damaged_pictures_are_in_the_account(camera, tmp_path):
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(24, 32, 3))
    address = f"http://127.0.0.1:{camera.server_port}/video#timeout=5"
    with stream(model, address, preprocess=Preprocess(size=(24, 32), color="bgr"), keep_images=True) as running:
        results = iter(running)  # which closes the stream where nobody holds it
        next(results)
        until = threading.Event()
        for _ in range(100):
            (lane,) = running.summary()["sources"].values()
            if lane["dropped"].get("broken") == 4:
                break
            until.wait(0.05)
    (lane,) = running.summary()["sources"].values()
    ended = lane["done"] + lane["late"] + lane["failed"] + sum(lane["dropped"].values())
    assert lane["captured"] == ended == 21 and lane["dropped"]["broken"] == 4 and lane["failed"] == 0
