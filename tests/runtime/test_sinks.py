"""Sinks against real files, full disks, pipes, a real MQTT broker and librdkafka's own Kafka cluster."""

import csv
import importlib.util
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.errors import SinkError, UsageError
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.sinks import open_sink


def result(index: int, **more: Any) -> Result:
    answer = more.pop("answer", {"label": "walk", "score": 0.5})
    return Result(index, "imu", "done", 1_000_000, 3_500_000, answer=answer, **more)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def lines(path: Path) -> list[Any]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# Files


def test_jsonl_has_a_line_for_each_result_at_once(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    with_nan = {"score": float("nan"), "boxes": [[np.float32(1.5), float("inf")]], "count": np.int64(3)}
    sink = open_sink(str(file))
    sink.write(result(0, recorded_ns=2_000_000_000))
    expected = {"source": "imu", "index": 0, "status": "done", "time_s": 2.0, "age_ms": 2.5, "label": "walk", "score": 0.5}
    assert lines(file) == [expected], "it is there before the sink is closed"
    sink.write(result(1, answer=with_nan))
    sink.write(result(2, answer={"text": "two\nlines \ud800"}))
    assert sink.close() == 0
    assert sink.close() == 0
    found = lines(file)
    assert (found[1]["score"], found[1]["boxes"], found[1]["count"]) == (None, [[1.5, None]], 3)
    assert found[2]["text"] == "two\nlines \ud800"
    with pytest.raises(SinkError, match="closed"):
        sink.write(result(3))


@pytest.mark.parametrize("scheme", ["jsonl", "csv"])
def test_files_keep_what_they_hold_until_the_first_result(tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "out"
    file.write_text("of yesterday\n")
    open_sink(f"{scheme}:{file}").close()
    assert file.read_text() == "of yesterday\n"
    sink = open_sink(f"{scheme}:{file}")
    sink.write(result(0))
    sink.close()
    assert "yesterday" not in file.read_text()


def test_jsonl_appends_after_a_whole_line(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    for before, kept in (
        ('{"a": 1}\n{"b"', [{"a": 1}]),
        ('{"a": 1}\n', [{"a": 1}]),
        ('{"a": 1}', [{"a": 1}]),
        ('{"x', []),
        ("", []),
    ):
        file.write_text(before)
        sink = open_sink(f"{file}?append=yes")
        sink.write(result(7))
        sink.close()
        assert lines(file)[:-1] == kept
        assert lines(file)[-1]["index"] == 7
    file.write_text('{"a": 1}\n"' + "x" * 200_000)
    sink = open_sink(f"{file}?append=yes")
    sink.write(result(8))
    sink.close()
    assert [line.get("index") for line in lines(file)] == [None, 8]


def test_jsonl_survives_kill(tmp_path: Path) -> None:
    """Every line that `write` returned for is in the file after SIGKILL, and every line is whole."""
    file = tmp_path / "out.jsonl"
    code = (
        "import sys; from edgewright.runtime.sinks import open_sink; from edgewright.runtime.frames import Result\n"
        "sink = open_sink(sys.argv[1])\n"
        "for k in range(10**9):\n"
        "    sink.write(Result(k, 'imu', 'done', 0, 1, answer={'text': 'x' * 3000})); print(k, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        for _ in range(200):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        said = 200 + len(child.stdout.read().splitlines())
    assert [line["index"] for line in lines(file)][:said] == list(range(said))


@pytest.mark.parametrize("scheme", ["jsonl", "csv"])
def test_full_disk_leaves_no_half_line(tmp_path: Path, scheme: str) -> None:
    """Room for some bytes of the line only; then there is room again, and the next result is written."""
    file = tmp_path / "out"
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    sink = open_sink(f"{scheme}:{file}")
    sink.write(result(0, answer={"text": "x" * 100}))
    size = file.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, kept[1]))
    try:
        with pytest.raises(SinkError) as error:
            sink.write(result(1, answer={"text": "y" * 100}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert error.value.message == f"{file} cannot be written: File too large"
    assert file.stat().st_size == size
    sink.write(result(2, answer={"text": "z" * 100}))
    sink.close()
    with file.open(newline="") as opened:
        found = lines(file) if scheme == "jsonl" else list(csv.DictReader(opened))
    assert [(int(row["index"]), row["text"][-1]) for row in found] == [(0, "x"), (2, "z")]


@pytest.mark.parametrize("scheme", ["jsonl", "csv"])
def test_no_room_at_all(scheme: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    sink = open_sink(f"{scheme}:/dev/full")
    for _ in range(2):
        with pytest.raises(SinkError, match="/dev/full cannot be written: No space left on device"):
            sink.write(result(0))
    sink.close()


@pytest.mark.parametrize("scheme", ["jsonl", "csv"])
def test_files_that_cannot_be_opened(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(SinkError) as error:
        open_sink(f"{scheme}:{tmp_path / 'none' / 'out'}")
    assert error.value.hint == f"mkdir -p {tmp_path / 'none'}"
    with pytest.raises(SinkError, match="Is a directory"):
        open_sink(f"{scheme}:{tmp_path}")
    with pytest.raises(UsageError):
        open_sink(f"{scheme}:{tmp_path / 'out'}?mode=1")


def test_csv_has_the_columns_of_the_first_result(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    sink = open_sink(str(file))
    sink.write(result(0, answer={"label": 'sit, "down"', "boxes": [[1, 2]], "sure": True, "none": None}))
    sink.write(result(1, answer={"label": "two\nlines\rthree", "more": 1, "extra": {"a": [1]}}))
    sink.write(result(2, error="model failed", answer={}))
    sink.close()
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["source", "index", "status", "age_ms", "label", "boxes", "sure", "none", "more"]
    assert list(rows[0].values()) == ["imu", "0", "done", "2.5", 'sit, "down"', "[[1, 2]]", "true", "", ""]
    assert (rows[1]["label"], rows[1]["boxes"]) == ("two\nlines\rthree", "")
    assert json.loads(rows[1]["more"]) == {"more": 1, "extra": {"a": [1]}}
    assert json.loads(rows[2]["more"]) == {"error": "model failed"}


# Standard output

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
WRITER = """
import sys
from edgewright.errors import SinkError
from edgewright.runtime.frames import Result
from edgewright.runtime.sinks import open_sink
sink = open_sink("-")
for line in sys.stdin:
    try:
        sink.write(Result(int(line), "imu", "done", 0, 1))
        sys.stderr.write("ok\\n")
    except SinkError as error:
        sys.stderr.write(f"{error.message}\\n")
    sys.stderr.flush()
"""


def test_stdout_flushes_each_line_and_notices_a_closed_pipe() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1, env=BUFFERED
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        child.stdin.write("4\n")
        assert json.loads(child.stdout.readline())["index"] == 4
        assert child.stderr.readline() == "ok\n"
        child.stdout.close()
        for _ in range(2):
            child.stdin.write("5\n")
            assert child.stderr.readline() == "standard output is closed: nobody reads the pipe any more\n"
        child.stdin.close()
        assert child.stderr.read() == "", "nothing is left in a buffer that would fail at exit"
    assert child.returncode == 0


def test_stdout_on_a_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", WRITER], input="1\n", stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED
        )
    assert (done.returncode, done.stderr) == (0, "standard output cannot be written: No space left on device\n")


def test_stdout_that_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    sink = open_sink("stdout:")
    sink.write(result(1))
    assert json.loads(capsys.readouterr().out)["index"] == 1
    assert sink.close() == 0


# MQTT


class Broker:
    """A mosquitto of our own on a free port, and a reader of everything that it gets."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if not program or not importlib.util.find_spec("paho"):
            pytest.skip("mosquitto or paho-mqtt is not installed")
        self.process = subprocess.Popen([program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(10)

    def _answers(self) -> bool:
        assert self.process.poll() is None, "mosquitto ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def reader(self) -> "Reader":
        return Reader(self.port)


class Reader:
    """Subscribes to results/#, also again after an outage."""

    def __init__(self, port: int) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, Any]] = []
        self.ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("results/#", 1)
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = lambda _c, _d, message: self.messages.append((message.topic, json.loads(message.payload)))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(5)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def mqtt(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mqtt_publishes(mqtt: Broker, qos: int) -> None:
    reader = mqtt.reader()
    sink = open_sink(f"mqtt://127.0.0.1:{mqtt.port}/results/imu?qos={qos}")
    for k in range(100):
        sink.write(result(k))
    assert sink.close() == 0
    assert sink.close() == 0
    until(lambda: len(reader.messages) == 100)
    reader.close()
    assert reader.messages == [("results/imu", result(k).to_json()) for k in range(100)]
    with pytest.raises(SinkError, match="closed"):
        sink.write(result(100))


def test_mqtt_keeps_results_during_an_outage(mqtt: Broker) -> None:
    sink = open_sink(f"mqtt://127.0.0.1:{mqtt.port}/results/imu?queue=50")
    told: list[str] = []
    sink.tell = told.append
    mqtt.stop()
    until(lambda: told)
    assert "is gone" in told[0]
    for k in range(50):
        sink.write(result(k))
    with pytest.raises(SinkError, match=r"50 results wait .* one more was refused"):
        sink.write(result(50))
    mqtt.start()
    until(lambda: len(told) > 1)
    assert "is back" in told[1]
    assert sink.close() == 0, "the broker acknowledged all 50"


def test_mqtt_counts_what_was_not_acknowledged(mqtt: Broker) -> None:
    sink = open_sink(f"mqtt://127.0.0.1:{mqtt.port}/results/imu")
    sink.write(result(0))
    until(lambda: sink._acknowledged == 1)  # type: ignore[attr-defined]
    mqtt.process.send_signal(signal.SIGSTOP)
    for k in range(1, 31):
        sink.write(result(k))
    began = time.monotonic()
    assert sink.close() == 30
    assert 1.9 < time.monotonic() - began < 4
    assert sink.close() == 30


def test_mqtt_without_a_queue_loses_and_says_so(mqtt: Broker) -> None:
    sink = open_sink(f"mqtt://127.0.0.1:{mqtt.port}/results/imu?qos=0")
    told: list[str] = []
    sink.tell = told.append
    mqtt.stop()
    until(lambda: told)
    assert "results are lost until it is back" in told[0]
    with pytest.raises(SinkError, match="did not get a result"):
        sink.write(result(0))
    assert sink.close() == 0
    with pytest.raises(SinkError, match=rf"host 127.0.0.1, port {mqtt.port}: Connection refused"):
        open_sink(f"mqtt://127.0.0.1:{mqtt.port}/results/imu")
    with pytest.raises(UsageError, match="wildcards"):
        open_sink(f"mqtt://127.0.0.1:{mqtt.port}/results/#")


# Kafka

CLUSTER = """
import sys
from confluent_kafka import Producer
cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
metadata = cluster.list_topics(timeout=10)
print(metadata.brokers[1].port, flush=True)
sys.stdin.read()
"""


class Cluster:
    """librdkafka's mock cluster in a process of its own, so that it can be stopped."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    cluster = Cluster()
    yield cluster
    cluster.kill()


def consumed(port: int, count: int) -> list[Any]:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "test", "log_level": 0})
    partitions = consumer.list_topics("results", timeout=5).topics["results"].partitions
    consumer.assign([TopicPartition("results", number, OFFSET_BEGINNING) for number in partitions])
    found: list[Any] = []
    end = time.monotonic() + 15
    while len(found) < count and time.monotonic() < end:
        message = consumer.poll(0.5)
        if message is not None and not message.error():
            found.append((message.key(), json.loads(message.value())))
    consumer.close()
    return found


def test_kafka_delivers(cluster: Cluster) -> None:
    sink = open_sink(f"kafka://127.0.0.1:{cluster.port}/results")
    for k in range(100):
        sink.write(result(k))
    assert sink.close() == 0
    assert sink.close() == 0
    assert consumed(cluster.port, 100) == [(b"imu", result(k).to_json()) for k in range(100)], "one key, so in order"
    with pytest.raises(SinkError, match="closed"):
        sink.write(result(100))


def test_kafka_waits_for_a_broker_that_comes_back(cluster: Cluster) -> None:
    sink = open_sink(f"kafka://127.0.0.1:{cluster.port}/results")
    cluster.process.send_signal(signal.SIGSTOP)
    for k in range(10):
        sink.write(result(k))
    threading.Timer(0.5, cluster.process.send_signal, [signal.SIGCONT]).start()
    assert sink.close() == 0
    assert [value["index"] for _, value in consumed(cluster.port, 10)] == list(range(10))


def test_kafka_without_its_broker(cluster: Cluster) -> None:
    sink: Sink = open_sink(f"kafka://127.0.0.1:{cluster.port}/results?queue=20")
    told: list[str] = []
    sink.tell = told.append
    sink.write(result(0))
    until(lambda: sink._producer.flush(0.1) == 0)  # type: ignore[attr-defined]
    cluster.kill()
    for k in range(1, 21):
        sink.write(result(k))
    with pytest.raises(SinkError, match=r"20 results wait .* one more was refused"):
        sink.write(result(21))
    began = time.monotonic()
    assert sink.close() == 20
    assert time.monotonic() - began < 4
    assert told
    assert f"Kafka at 127.0.0.1:{cluster.port}: " in told[0]
    assert sink.close() == 20


def test_kafka_names_host_and_port_if_nobody_is_there() -> None:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(SinkError, match=rf"host 127.0.0.1, port {port}: "):
            open_sink(f"kafka://127.0.0.1:{port}/results")
    with pytest.raises(UsageError, match="kafka://host:9092/topic"):
        open_sink("kafka://127.0.0.1")
