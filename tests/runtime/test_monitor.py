"""Metrics and the live page of a stream: what stands in them adds up, and nothing that clients do disturbs the stream."""

from __future__ import annotations

import http.client
import json
import logging
import math
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from browser_page import emulate

from edgewright.detection import Detection
from edgewright.errors import EdgewrightError, MissingPackageError, SinkError, UsageError
from edgewright.preprocess import Preprocess
from edgewright.runtime.accounting import Timings
from edgewright.runtime.address import Address
from edgewright.runtime.crew import Flow
from edgewright.runtime.frames import Frame, Result, Sink, Source
from edgewright.runtime.metrics import cumulative
from edgewright.runtime.monitor import Page, serve
from edgewright.runtime.opening import stream
from edgewright.runtime.stream import Stream

prometheus_parser = pytest.importorskip("prometheus_client.parser")

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e\"'\\\n"
LABELS = ("walking", "<b>running</b>", HOSTILE, "a_name_that_is_long_and_has_no_place_to_break_" * 4)


@pytest.fixture(autouse=True)
def no_handlers(monkeypatch):
    """The command line, run by another test of this process, leaves a handler that prints what is logged."""
    monkeypatch.setattr(logging.getLogger("edgewright"), "handlers", [])


class Given(Source):
    """Frames from a list, and then silence until it is closed.

    Args:
        data: of the frames.
        kind: image or sensor.
        old: how many of them were captured ten seconds ago.
        skipped: frames that it says it let go.
        pause_s: before each frame.
    """

    live = True

    def __init__(self, data: Sequence[Any], kind: Any = "sensor", *, old: int = 0, skipped: int = 0, pause_s: float = 0) -> None:
        self.kind, self.skipped = kind, skipped
        self._data, self._old, self._pause_s = data, old, pause_s
        self._index = 0
        self.silent = False
        self._closed = threading.Event()

    @classmethod
    def of(cls, address: Address) -> Source:
        raise NotImplementedError

    def read(self, into: Any = None) -> Frame | None:
        self.silent = self._index == len(self._data)
        if self._closed.wait(self._pause_s if self._index < len(self._data) else None):
            return None
        self._index += 1
        ago = 10**10 if self._index <= self._old else 0
        return Frame(self._data[self._index - 1], self._index - 1, time.monotonic_ns() - ago)

    def close(self) -> None:
        self._closed.set()


class Picky(Sink):
    """Has no room for the first ten results."""

    def __init__(self) -> None:
        self.count = 0

    @classmethod
    def of(cls, address: Address) -> Sink:
        raise NotImplementedError

    def write(self, result: Result) -> None:
        self.count += 1
        if self.count <= 10:
            raise SinkError(f"no room for {HOSTILE}")

    def close(self) -> int:
        return 0


def samples(count: int, broken: int = 0) -> list[Any]:
    """Rows for y = x + 1; the model's answer to the last ones is not finite."""
    rows = np.random.default_rng(0).random((count, 4)).astype(np.float32)
    rows[count - broken :] = math.inf
    return list(rows)


def pictures(count: int, height: int = 480, width: int = 640) -> list[Any]:
    """Scenes that move from one to the next."""
    y, x = np.mgrid[:height, :width]
    return [np.stack([(x + 9 * n) % 256, (y + 40) % 256, (x + y) // 8 % 256], axis=-1).astype(np.uint8) for n in range(count)]


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boxes, whatever the image: a detector as far as the page can see."""
    pytest.importorskip("openvino")
    from edgewright.runtime.engines.openvino import import_openvino

    ov = import_openvino()
    op = ov.opset13
    x = op.parameter([1, 8, 8, 3], np.float32, name="x")
    x.output(0).set_names({"x"})
    nothing = op.multiply(op.reduce_mean(x, op.constant(np.array([1, 2, 3], np.int64)), True), op.constant(np.float32(0)))
    boxes = np.array([[[0.2, 0.1, 0.7, 0.4, 0.9, 0], [0.3, 0.5, 0.9, 0.95, 0.6, 2]]], np.float32)
    y = op.add(op.reshape(nothing, op.constant(np.array([1, 1, 1], np.int64)), False), op.constant(boxes))
    y.output(0).set_names({"y"})
    path = tmp_path_factory.mktemp("detector") / "detector.xml"
    ov.save_model(ov.Model([y], [x], "detector"), str(path), compress_to_fp16=False)
    return path


@contextmanager
def served(
    running: Stream, *, metrics: str | None = None, dashboard: str | None = None, settle: bool = True
) -> Iterator[Page | None]:
    """A stream that somebody iterates over, with its servers."""
    with running, serve(running, metrics=metrics, dashboard=dashboard) as page:
        count = 0

        def follow() -> None:
            nonlocal count
            for result in running:
                if page is not None:
                    page.show(result)
                count += 1

        def settled() -> bool:
            ended = sum(lane.done + lane.late + lane.failed for lane in running.lanes)
            through = all(outlet.written + outlet.lost == outlet.given == ended for outlet in running.outlets)
            return all(source.silent for source in sources) and count == ended and through

        sources: list[Any] = [source for crew in running.crews for _, source in crew.loaded.sources]
        thread = threading.Thread(target=follow)
        thread.start()
        try:
            if settle:
                until(lambda: settled() and not any(lane.waiting for lane in running.lanes))
            yield page
        finally:
            running.stop_after(0)  # whoever iterates closes the stream
            thread.join(10)
            assert not thread.is_alive()


def until(found: Callable[[], Any], seconds: float = 20) -> Any:
    """What a condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", f"{parts.path or '/'}?{parts.query}", headers=headers)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def logged(caplog: pytest.LogCaptureFixture, what: str) -> str:
    """The address that was logged for metrics or dashboard."""
    return next(found[1] for text in caplog.messages if (found := re.match(rf"{what}: (\S+?),?(?: |$)", text)))


def busy(models: dict[str, Path], **more: Any) -> Stream:
    """A stream with results of every class: late, failed, dropped by the source; and a sink that loses ten."""
    given = Given(samples(60, broken=7), old=5, skipped=11)
    flow = Flow("wait", deadline_ms=5000)
    return stream(models["tflite"], [given], sinks=[Picky()], flow=flow, task="classification", labels=LABELS, **more)


# --- metrics --------------------------------------------------------------------------------------------------------


def test_a_scrape_adds_up(models, caplog):
    with served(busy(models), metrics="127.0.0.1:0"):
        status, headers, body = get(logged(caplog, "metrics"))
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    families = {family.name: family for family in prometheus_parser.text_string_to_metric_families(body.decode())}

    def value(family: str, **labels: str) -> float:
        found = [s.value for s in families[family].samples if labels.items() <= s.labels.items()]
        return sum(found)

    frames = "edgewright_frames"
    assert families[frames].type == families["edgewright_frames_captured"].type == "counter"
    assert value("edgewright_frames_captured", source="Given") == 71
    assert value(frames) + value("edgewright_frames_waiting") == 71
    assert value(frames, status="failed") == 7
    assert value(frames, status="late") == 5
    assert value(frames, status="done") == 48
    assert value(frames, status="dropped", reason="source") == 11
    assert {s.labels["reason"] for s in families[frames].samples if s.labels["status"] == "dropped"} >= {"oldest", "stop", "rate"}
    ages = families["edgewright_age_seconds"].samples
    buckets = [s.value for s in ages if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == 53
    assert next(s.value for s in ages if s.name.endswith("_count")) == 53
    assert 50 < next(s.value for s in ages if s.name.endswith("_sum")) < 60  # five were captured ten seconds ago
    counts = {s.labels["stage"]: s.value for s in families["edgewright_stage_seconds"].samples if s.name.endswith("_count")}
    assert counts["infer"] == 60 and counts["answer"] == 60
    assert value("edgewright_sink_results_written") + value("edgewright_sink_results_lost") == 60
    about = families["edgewright_info"].samples[0].labels
    assert about["model"].endswith("plus_one.tflite") and about["engine"] == "litert" and about["precision"]
    assert value("process_resident_memory_bytes") > 1e7


@contextmanager
def prometheus(folder: Path, metrics: str) -> Iterator[Callable[..., Any]]:
    """A Prometheus server that scrapes an address each second; gives what asks its API and is None until that answers."""
    if not (program := shutil.which("prometheus")):
        pytest.skip("prometheus is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: edgewright, static_configs: [{{targets: ['{urlsplit(metrics).netloc}']}}]}}]\n"
    )
    places = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={place}"]
    with log.open("wb") as written:
        process = subprocess.Popen([program, *places], cwd=folder, stdout=written, stderr=written)

    def ask(what: str, **query: str) -> Any:
        assert process.poll() is None, log.read_text()
        try:
            status, _, body = get(f"http://{place}/api/v1/{what}?{urlencode(query)}")
        except ConnectionRefusedError:
            return None
        return json.loads(body)["data"] if status == 200 else None

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(20)


def test_a_prometheus_server_has_the_account(models, caplog, tmp_path):
    running = busy(models)
    running.lanes[0].name = HOSTILE
    with served(running, metrics="127.0.0.1:0"), prometheus(tmp_path, logged(caplog, "metrics")) as ask:

        def values(expression: str, label: str = "") -> dict[str, float]:
            found = ask("query", query=expression)["result"]
            return {series["metric"].get(label, ""): float(series["value"][1]) for series in found}

        def scraped() -> Any:
            return [target for target in (ask("targets") or {}).get("activeTargets", ()) if target["health"] != "unknown"]

        (target,) = until(scraped)
        assert (target["health"], target["lastError"]) == ("up", "")
        assert until(lambda: values("up")) == {"": 1}
        told = running.summary()
        lane, sink = told["sources"][HOSTILE], told["sinks"]["Picky"]
        ended = {status: lane[status] for status in ("done", "late", "failed")}
        assert values("edgewright_frames_captured_total", "source") == {HOSTILE: lane["captured"]} == {HOSTILE: 71}
        assert values("sum by (status) (edgewright_frames_total)", "status") == {**ended, "dropped": 11}
        assert values("edgewright_frames_waiting") == {"": lane["waiting"]} == {"": 0}
        assert values('edgewright_frames_total{status="dropped"} > 0', "reason") == lane["dropped"]
        assert values("edgewright_sink_results_written_total", "sink") == {"Picky": sink["written"]} == {"Picky": 50}
        assert values("edgewright_sink_results_lost_total", "sink") == {"Picky": sink["lost"]}
        assert values("edgewright_age_seconds_bucket", "le") == dict(cumulative(running.lanes[0].age))
        assert values("histogram_quantile(0.99, edgewright_age_seconds_bucket)") == {"": 10}  # in the bucket without an end
        assert values("edgewright_stage_seconds_count", "stage")["infer"] == lane["stages"]["infer"]["count"]
        assert values("edgewright_info", "engine") == {"litert": 1}
        _, _, body = get(logged(caplog, "metrics"))
    lint = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60)
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, b"")


def test_names_that_are_no_text_can_be_scraped_and_shown(models, caplog):
    running = busy(models)
    running.lanes[0].name = HOSTILE + "\udcff"
    with served(running, metrics="127.0.0.1:0", dashboard="127.0.0.1:0") as page:
        _, _, body = get(logged(caplog, "metrics"))
        account = json.loads(get(page.url + "/account.json")[2])
    families = {family.name: family for family in prometheus_parser.text_string_to_metric_families(body.decode())}
    assert families["edgewright_frames_captured"].samples[0].labels["source"] == HOSTILE + "?"
    assert list(account["sources"]) == [HOSTILE + "\udcff"]
    assert HOSTILE + "\udcff" in account["answers"]


def test_buckets_are_those_of_the_durations():
    timings, generator = Timings(), np.random.default_rng(1)
    durations = np.exp(generator.normal(math.log(2e7), 1.5, 5000)).astype(np.int64)
    for duration in durations.tolist():
        timings.add(duration)
    found = cumulative(timings)
    assert found[-1] == ("+Inf", 5000)
    for bound, count in found[:-1]:
        exact = float(bound) * 1e9
        assert (durations <= exact / 1.0101).sum() <= count <= (durations <= exact).sum(), bound
    assert [count for _, count in cumulative(Timings())] == [0] * len(found)


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["8080", "localhost", ":99999", "http://x:80", ":-1", ":", "::1:80", "a b:80", ""])
def test_what_is_no_address_is_refused(models, text):
    with stream(models["tflite"], [Given(samples(1))]) as running:
        for option in ("metrics", "dashboard"):
            with (
                pytest.raises(UsageError, match=rf"--{option} is '{re.escape(text)}', an address is \[HOST\]:PORT"),
                serve(running, **{"metrics": None, "dashboard": None, option: text}),
            ):
                pass


def test_no_host_is_this_machine_alone(models):
    with stream(models["tflite"], [Given(samples(1))]) as running, serve(running, metrics=None, dashboard=":0") as page:
        assert page.url.startswith("http://127.0.0.1:")
        port = urlsplit(page.url).port
        with pytest.raises(ConnectionRefusedError):  # what is bound to all interfaces is found at 127.0.0.2, too
            socket.create_connection(("127.0.0.2", port), timeout=2)
        assert get(page.url)[0] == 200
        assert get(page.url, Host="localhost:1")[0] == 200
        assert get(page.url, Host="rebound.example")[0] == 421


def test_all_interfaces_on_demand_and_one_server_for_equal_addresses(models, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"0.0.0.0:{port}"
    with stream(models["tflite"], [Given(samples(1))]) as running:
        with serve(running, metrics=address, dashboard=address) as page:
            assert page.url == f"http://127.0.0.1:{port}"
            for path in ("/", "/metrics", "/account.json"):
                assert get(f"http://127.0.0.2:{port}{path}", Host="board.example")[0] == 200
            assert "from other machines" in caplog.text
            missing = get(page.url + "/nothing")
            assert missing[0] == 404 and b"/account.json" in missing[2]
        with pytest.raises(ConnectionRefusedError):
            get(page.url)


def test_a_taken_port_is_named_and_nothing_stays_open(models):
    with stream(models["tflite"], [Given(samples(1))]) as running, socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        with (
            pytest.raises(EdgewrightError, match=rf"cannot serve at 127.0.0.1:{port} \(Address already in use\)"),
            serve(running, metrics=f":{other}", dashboard=f":{port}"),
        ):
            pass
        with pytest.raises(ConnectionRefusedError):
            get(f"http://127.0.0.1:{other}")


def test_a_missing_package_is_named(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        stream(models["tflite"], [Given(samples(1))]) as running,
        pytest.raises(MissingPackageError, match="prometheus_client") as caught,
        serve(running, metrics=":0", dashboard=None),
    ):
        pass
    assert "edgewright[monitor]" in caught.value.hint


def test_nothing_asked_for_is_nothing_served(models):
    before = threading.active_count()
    with stream(models["tflite"], [Given(samples(1))]) as running:
        with_stream = threading.active_count()
        with serve(running, metrics=None, dashboard=None) as page:
            assert page is None
            assert threading.active_count() <= with_stream
    assert threading.active_count() <= before + 1


# --- account and picture --------------------------------------------------------------------------------------------


def test_the_account_is_the_summary_with_the_newest_answer(models):
    running = busy(models)
    with served(running, dashboard=":0") as page:
        status, headers, body = get(page.url + "/account.json")
        account = json.loads(body)
        told, lane = running.summary(), account["sources"]["Given"]
        missing = get(page.url + "/picture.jpg")
    assert status == 200 and headers["Cache-Control"] == "no-store"
    assert {key: account[key] for key in ("model", "engine", "sinks", "sources")} == {
        key: json.loads(json.dumps(told[key])) for key in ("model", "engine", "sinks", "sources")
    }
    assert lane["captured"] == sum(lane[key] for key in ("done", "late", "failed", "waiting")) + sum(lane["dropped"].values())
    answer = account["answers"]["Given"]
    assert answer["newest"]["status"] == "failed" and "NaN or infinite" in answer["newest"]["error"]
    assert len(answer["recent"]) == 60 and not answer["picture"]
    assert answer["recent"][10]["label"] in LABELS and answer["recent"][10]["status"] == "done"
    assert missing[0] == 404 and b"no images" in missing[2]


def test_answers_that_json_cannot_hold_become_null(models):
    running = busy(models)
    with served(running, dashboard=":0") as page:
        page.show(Result(99, "Given", "done", 0, 1, answer={"anomaly": None, "score": math.inf, "learning": True}))
        account = json.loads(get(page.url + "/account.json")[2], parse_constant=lambda text: pytest.fail(text))
    assert account["answers"]["Given"]["newest"]["answer"] == {"anomaly": None, "score": None, "learning": True}


def test_the_picture_is_the_newest_with_its_answer(detector):
    cv2 = pytest.importorskip("cv2")
    images = pictures(12, 720, 1280)
    running = seeing(detector, [Given(images, "image")])
    with served(running, dashboard=":0") as page:
        status, headers, body = get(page.url + "/picture.jpg?source=0")
        found = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert status == 200 and headers["Content-Type"] == "image/jpeg" and found.shape == (540, 960, 3)
        assert get(page.url + "/picture.jpg?source=1")[0] == get(page.url + "/picture.jpg?source=x")[0] == 404
        narrow = cv2.imdecode(np.frombuffer(get(page.url + "/picture.jpg?width=320")[2], np.uint8), cv2.IMREAD_COLOR)
        assert narrow.shape == (180, 320, 3)
        # Nobody had looked: the first image is there, and the next one that comes replaces it.
        assert headers["X-Frame-Index"] == "0"
        image = images[5].copy()
        page.show(Result(77, "Given", "done", 0, 10**7, answer={"boxes": []}, image=image))
        image[:] = 0  # the stream may use it again
        _, headers, body = get(page.url + "/picture.jpg")
        assert headers["X-Frame-Index"] == "77"
        plain = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    small = cv2.resize(images[5], (960, 540), interpolation=cv2.INTER_AREA)
    assert np.abs(plain[:480].astype(int) - small[:480]).mean() < 8
    first = cv2.resize(images[0], (960, 540), interpolation=cv2.INTER_AREA)
    edge = np.abs(found.astype(int) - first).sum(axis=-1)[150:340, 94:99]  # the first box's left edge stands at 0.1
    assert edge.max(axis=1).min() > 100


def test_images_are_copied_only_while_somebody_looks(detector):
    class Counted(np.ndarray[Any, Any]):
        copies = 0

        def copy(self, order: Any = "C") -> Any:
            Counted.copies += 1
            return super().copy(order)

    running = seeing(detector, [Given(pictures(10), "image")])
    with served(running, dashboard=":0") as page:
        image = np.zeros((8, 8, 3), np.uint8).view(Counted)
        for index in range(50):
            page.show(Result(index, "Given", "done", 0, 1, image=image))
        assert Counted.copies == 0
        assert get(page.url + "/picture.jpg")[0] == 200
        page.show(Result(50, "Given", "done", 0, 1, image=image))
        assert Counted.copies == 1


def seeing(detector: Path, sources: list[Any], **more: Any) -> Stream:
    """A stream of images."""
    return stream(
        detector,
        sources,
        preprocess=Preprocess.parse("size=8x8,color=rgb"),
        detection=Detection.parse("head=boxes"),
        labels=LABELS,
        flow=Flow("wait"),
        keep_images=True,
        **more,
    )


# --- rude clients ---------------------------------------------------------------------------------------------------


def test_rude_clients_disturb_nothing(detector, capfd, caplog):
    caplog.set_level(logging.INFO)
    running = seeing(detector, [Given(pictures(10), "image")])
    with served(running, dashboard=":0") as page, ExitStack() as open_ones:
        place = ("127.0.0.1", urlsplit(page.url).port)
        caplog.clear()

        def connect() -> socket.socket:
            return socket.create_connection(place, timeout=5)

        for number in range(200):
            client = connect()
            client.sendall([b"", b"GET /picture.jpg HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\xff" * 20, b"GET / HT"][number % 4])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset in the middle
            client.close()
        hanging = [open_ones.enter_context(connect()) for _ in range(10)]
        for client in hanging:
            client.sendall(b"GET /account.json HTTP/1.1\r\n")
        until(lambda: answered(page.url))
        page.show(Result(500, "Given", "done", 0, 1, answer={"boxes": []}))
        assert json.loads(get(page.url + "/account.json")[2])["answers"]["Given"]["newest"]["index"] == 500
        for text in (b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"nonsense\r\n\r\n", b"GET " + b"a" * 70000 + b"\r\n"):
            with connect() as client:
                client.sendall(text)
                assert client.recv(100).startswith((b"HTTP/1.0 4", b"HTTP/1.0 5", b"<!DOCTYPE"))
        done = [lane.done for lane in running.lanes]
        start = time.monotonic()
    assert time.monotonic() - start < 3  # those that hang are not waited for
    assert done == [10]
    written = capfd.readouterr()
    assert written.out == written.err == "" and [text for text in caplog.messages if "has sent nothing" not in text] == []


def answered(url: str) -> bool:
    try:
        return get(url)[0] == 200
    except (OSError, http.client.HTTPException):
        return False  # no room just then


# --- in a browser ---------------------------------------------------------------------------------------------------


def visit(browser: Any, url: str) -> None:
    """Open a page with logs of its own: the one before still asks for a server that has gone."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(url)


COUNTS = (
    "return Array.from(document.querySelectorAll(`[data-source='${arguments[0]}'] .classes tr`))"
    ".filter(r => r.dataset.kind).map(r => [r.dataset.kind, Number(r.cells[1].textContent.replaceAll(',', ''))])"
)


def test_the_page_shows_the_account_and_asks_nobody_else(browser, detector):
    hostile = type(HOSTILE, (Given,), {})  # a source is named after its class
    running = seeing(
        detector, [hostile(pictures(30), "image", skipped=1200), Given(pictures(12, 1080, 400), "image")], sinks=[Picky()]
    )
    with served(running, dashboard=":0") as page:
        emulate(browser, 1440)
        visit(browser, page.url)
        until(lambda: browser.execute_script("return document.documentElement.dataset.state") == "live")
        until(lambda: browser.execute_script("return [...document.images].every(i => i.naturalWidth > 0)"))
        told = running.summary()
        shown = [browser.execute_script(COUNTS, place) for place in range(2)]
        for lane, rows in zip(told["sources"].values(), shown, strict=True):
            numbers = [number for kind, number in rows if kind != "captured"]
            assert sum(numbers) == dict(rows)["captured"] == lane["captured"]
            assert dict(rows)["done"] == lane["done"] and dict(rows)["dropped"] == sum(lane["dropped"].values())
        assert dict(shown[0])["captured"] == 1230
        figures = browser.execute_script("return [...document.querySelectorAll('[data-figure=p99]')].map(n => n.textContent)")
        for figure, lane in zip(figures, told["sources"].values(), strict=True):
            assert float(figure) == pytest.approx(lane["age"]["p99_ms"], rel=0.02)
        sinks = browser.execute_script("return [...document.querySelector('[data-sink]').cells].map(c => c.textContent)")
        assert [int(text) for text in sinks[1:]] == [told["sinks"]["Picky"]["written"], told["sinks"]["Picky"]["lost"]]
        titles = browser.execute_script("return [...document.querySelectorAll('h2.name')].map(n => n.textContent)")
        assert titles == list(told["sources"]) == [HOSTILE, "Given"]
        assert browser.execute_script("return document.querySelectorAll('main script, main b, [onerror]').length") == 0
        answer = browser.execute_script("return document.querySelector('.answer').textContent")
        assert answer == "2 found: walking 0.90, " + HOSTILE.replace("\u202e", "\ufffd") + " 0.60"  # and no digits turned round
        assert browser.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        assert f"{page.url}/account.json" in asked and any(
            url.startswith(f"{page.url}/picture.jpg?source=1&width=") for url in asked
        )
        assert not [url for url in asked if not url.startswith((page.url + "/", "data:", f"blob:{page.url}/"))]
        for width in (1440, 700, 390, 320):
            emulate(browser, width)
            time.sleep(0.3)
            across, inner = browser.execute_script("return [document.scrollingElement.scrollWidth, window.innerWidth]")
            assert across <= inner == width
        refused = browser.execute_async_script(
            "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.head.append(s);"
            "fetch('http://127.0.0.2:9/').then(() => arguments[0]('loaded'), () => arguments[0](window.ran || 'refused'))"
        )
        assert refused == "refused"
        browser.get_log("browser")
    until(lambda: browser.execute_script("return document.documentElement.dataset.state") == "gone")
    assert browser.execute_script("return document.querySelector('.gone').offsetHeight > 0")
    assert browser.execute_script(COUNTS, 1) == shown[1]  # the last figures stay


@pytest.mark.parametrize("width", [1440, 390])
def test_sensors_have_a_timeline(browser, models, width):
    running = busy(models)
    with served(running, dashboard=":0") as page:
        emulate(browser, width, "dark")
        visit(browser, page.url)
        until(lambda: browser.execute_script("return document.querySelectorAll('svg path').length"))
        path = browser.execute_script("return document.querySelector('svg path').getAttribute('d')")
        assert len(re.findall(r"[ML]", path)) == 53  # the failed ones have no value
        legend = browser.execute_script("return [...document.querySelectorAll('.legend li')].map(n => n.textContent)")
        assert sum(int(re.search(r"\((\d+)\)$", text)[1]) for text in legend) == 53
        assert all(any(text.startswith(label.replace("\u202e", "\ufffd")) for label in LABELS) for text in legend)
        rows = browser.execute_script(COUNTS, 0)
        kinds = [kind for kind, _ in rows]
        assert kinds == ["done", "late", "failed", "dropped", "waiting", "captured"]
        assert [number for _, number in rows] == [48, 5, 7, 11, 0, 71]
        across, inner = browser.execute_script("return [document.scrollingElement.scrollWidth, window.innerWidth]")
        assert across <= inner == width
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 120
        assert browser.get_log("browser") == []


def test_a_hidden_page_does_not_ask(browser, models):
    running = busy(models)
    with served(running, dashboard=":0") as page:
        visit(browser, page.url)
        until(lambda: browser.execute_script("return document.documentElement.dataset.state") == "live")
        browser.execute_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        time.sleep(0.5)
        browser.get_log("performance")
        time.sleep(1.0)
        quiet = [entry for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
        browser.execute_script("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        until(lambda: any("requestWillBeSent" in entry["message"] for entry in browser.get_log("performance")))
    assert quiet == []
