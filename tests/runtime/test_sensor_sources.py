"""Sources of sensor samples against real files, pipes, pseudo-terminals and a real MQTT broker."""

import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.errors import SourceError, UsageError
from edgewright.runtime.frames import Frame, Source
from edgewright.runtime.sources import open_source


def values(frames: list[Frame]) -> list[list[float]]:
    assert all(frame.data.dtype == np.float32 and frame.data.ndim == 1 for frame in frames)
    return [frame.data.tolist() for frame in frames]


def read_all(address: str) -> list[Frame]:
    with open_source(address) as source:
        return list(source)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def ends_on_close(source: Source) -> None:
    """A read that waits gives None at most a second after `close` was called from another thread."""
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(source.read()))
    reader.start()
    time.sleep(0.3)
    assert reader.is_alive(), "there was nothing to wait for"
    source.close()
    reader.join(1.0)
    assert not reader.is_alive()
    assert found == [None]
    source.close()
    assert source.read() is None


# CSV


def test_csv_reads_chosen_columns_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "imu.csv"
    file.write_text(
        "\ufefftimestamp,ax,ay,label\n1700000000.123456789,1,2,walk\n1700000000.143456789, 3 ,nan,run\n\n1700000001,,5,run\n"
    )
    with open_source(f"csv:{file}?time=timestamp&columns=ay,ax") as source:
        assert not source.live
        frames = list(source)
    np.testing.assert_array_equal(values(frames), [[2, 1], [np.nan, 3], [5, np.nan]])
    assert [frame.index for frame in frames] == [0, 1, 2]
    # Nanoseconds since 1970 do not go through float64, which would be off by up to 128 of them.
    assert [frame.recorded_ns for frame in frames] == [1700000000123456789, 1700000000143456789, 1700000001000000000]


def test_csv_without_header_and_with_units(tmp_path: Path) -> None:
    file = tmp_path / "imu.csv"
    file.write_text("10;1.5;2\n30;-1e3;4\n")
    frames = read_all(f"{file}?time=0&unit=ms")
    assert values(frames) == [[1.5, 2], [-1000, 4]]
    assert [frame.recorded_ns for frame in frames] == [10_000_000, 30_000_000]
    plain = read_all(f"{file}?separator=;")
    assert values(read_all(str(file))) == values(plain), "the separator is found, or said"
    assert values(plain) == [[10, 1.5, 2], [30, -1000, 4]]
    assert plain[0].recorded_ns is None


def test_csv_header_with_an_unnamed_column(tmp_path: Path) -> None:
    file = tmp_path / "pandas.csv"
    file.write_text(",ax,ay\n0,1,2\n1,3,4\n")
    assert values(read_all(f"{file}?columns=ax,ay")) == [[1, 2], [3, 4]]
    assert values(read_all(f"{file}?columns=1,2")) == [[1, 2], [3, 4]]
    assert values(read_all(str(file))) == [[0, 1, 2], [1, 3, 4]]


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("ax,ay\n1,2\n3\n", "", "row 3: 1 column found, expected are 2; 1 samples came before"),
        ("ax,ay\n1,2\n3,4,5\n", "", "row 3: 3 columns found, expected are 2"),
        ("ax,ay\n1,2\n3,four\n", "", "row 3: column 'ay' is 'four', expected is a number"),
        ("1,2\n3,x\n", "", "row 2: column 1 (counted from 0) is 'x'"),
        ("1,2\n1e39,2\n", "", "row 2: column 0 (counted from 0) is '1e39', expected is a number that float32 can hold"),
        ("t,ax\n1,2\n,4\n", "?time=t", "row 3: time column 't' is '', expected is a number"),
        ("t,ax\n1,2\n1e999999999,4\n", "?time=t", "time column 't' is '1e999999999'"),
        ("ax,ay\n1,2\n", "?columns=az", "row 1: no column 'az' found (there are: ax, ay)"),
        ("1,2\n", "?columns=2", "row 1: no column '2' found (there are: 0 to 1, without names)"),
    ],
)
def test_csv_names_row_and_column(tmp_path: Path, text: str, settings: str, said: str) -> None:
    file = tmp_path / "imu.csv"
    file.write_text(text)
    with pytest.raises(SourceError) as error:
        read_all(f"{file}{settings}")
    assert f"{file} " in error.value.message
    assert said in error.value.message


def test_csv_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    file = tmp_path / "imu.csv"
    file.write_text("1,2\n")
    for settings in (
        "rate=50&replay=recorded&time=0",
        "replay=recorded",
        "speed=2",
        "rate=0",
        "unit=h",
        "columns=a,,b",
        "replay=slow",
    ):
        with pytest.raises(UsageError):
            open_source(f"{file}?{settings}")
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SourceError, match=str(path)):
            open_source(f"csv:{path}")
    (tmp_path / "empty.csv").touch()
    assert read_all(str(tmp_path / "empty.csv")) == []


def test_csv_paces(tmp_path: Path) -> None:
    """A sample does not come before its moment, by rate or by the times in the file, and `fast` waits for none."""
    file = tmp_path / "imu.csv"
    file.write_text("t,ax\n5.00,1\n5.25,2\n5.30,3\n")
    for settings, moments in (("time=t&replay=recorded", [0, 0.25, 0.3]), ("columns=ax&rate=10", [0, 0.1, 0.2])):
        with open_source(f"{file}?{settings}") as source:
            assert source.live
            frames = list(source)
        since = [(frame.captured_ns - frames[0].captured_ns) / 1e9 for frame in frames]
        assert all(found >= moment - 0.02 for found, moment in zip(since, moments, strict=True)), since
        assert since[-1] < moments[-1] + 1
    assert [frame.recorded_ns for frame in frames] == [0, 100_000_000, 200_000_000]
    file.write_text("t,ax\n0,1\n1000000,2\n")
    for settings in ("rate=0.001&replay=fast", "time=t", "time=t&replay=fast"):
        with open_source(f"{file}?{settings}") as source:
            assert not source.live
            assert len(list(source)) == 2
    paced = open_source(f"{file}?time=t&replay=recorded")
    paced.read()
    ends_on_close(paced)


def test_csv_is_not_loaded_whole(tmp_path: Path) -> None:
    """The process may not take more than a few megabytes for a file of 60 MB."""
    file = tmp_path / "long.csv"
    file.write_text("1,2,3,4,5,6\n" * 5_000_000)
    code = (
        "import sys, resource; from edgewright.runtime.sources import SOURCES, open_source; SOURCES.get('csv');"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "source = open_source(sys.argv[1]); [source.read() for _ in range(20000)];"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 10_000


# Standard input


def test_stdin_through_a_pipe() -> None:
    code = (
        "from edgewright.runtime.sources import open_source\n"
        "for frame in open_source('stdin:?time=t&unit=ms'): \n"
        "    print(frame.index, frame.data.tolist(), frame.recorded_ns, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdin and child.stdout
        child.stdin.write("t,ax,ay\n1.5,2,3\n")
        assert child.stdout.readline() == "0 [2.0, 3.0] 1500000\n", "a line is there before the next one is written"
        child.stdin.write("\n2,4,5")
        child.stdin.close()
        assert child.stdout.read() == "1 [4.0, 5.0] 2000000\n", "the last line needs no newline"
    assert child.returncode == 0


def test_stdin_names_the_broken_line(pipe_as_stdin: int) -> None:
    os.write(pipe_as_stdin, b"1 2\n3   4\n5 x\n")
    source = open_source("stdin:?separator=space")
    assert [source.read().data.tolist() for _ in range(2)] == [[1, 2], [3, 4]]  # type: ignore[union-attr]
    with pytest.raises(SourceError, match=r"line 3: column 1 .* is 'x', expected is a number; 2 samples"):
        source.read()


def test_stdin_reads_quotes_and_decimal_commas(pipe_as_stdin: int) -> None:
    os.write(pipe_as_stdin, b'"t";"ax"; "label"\n"0,5";1,25;sit\n')
    frame = open_source("stdin:?separator=;&time=t").read()
    assert frame is not None
    assert (frame.data.tolist(), frame.recorded_ns) == ([1.25], 500_000_000)


def test_stdin_ends_on_close(pipe_as_stdin: int) -> None:
    source = open_source("-")
    assert not source.live
    ends_on_close(source)
    os.fstat(0)


@pytest.fixture
def pipe_as_stdin() -> Iterator[int]:
    """Writing end of a pipe that stands in for descriptor 0."""
    kept, (reading, writing) = os.dup(0), os.pipe()
    os.dup2(reading, 0)
    yield writing
    os.dup2(kept, 0)
    for file in (kept, reading, writing):
        os.close(file)


# Synthetic


def test_synthetic_is_the_same_every_time() -> None:
    for address in ("synthetic:image?width=32&height=24&count=5", "synthetic:sensor?channels=3&count=5&seed=7"):
        one, two = read_all(address), read_all(address)
        assert len(one) == 5
        assert not open_source(address).live
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.data, b.data)
        assert all((a.data != b.data).any() for a, b in itertools.pairwise(one)), "it moves"
    assert values(read_all("synthetic:sensor?channels=3&count=5&seed=8")) != values(one)
    with pytest.raises(UsageError, match="neither"):
        open_source("synthetic:sound")
    with pytest.raises(UsageError):
        open_source("synthetic:image?count=0")


def test_synthetic_sensor_is_a_sine() -> None:
    """The strongest frequency of channel c is 0.5 (c + 1) Hz, by NumPy's transform."""
    samples = np.array(values(read_all("synthetic:sensor?channels=4&count=1000")))
    power = np.abs(np.fft.rfft(samples, axis=0))
    assert np.fft.rfftfreq(1000, 1 / 50)[power.argmax(axis=0)].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert 0.08 < np.std(samples[:, 0] - np.sin(np.pi * np.arange(1000) / 50)) < 0.12


def test_synthetic_image_goes_into_a_free_array() -> None:
    free = np.zeros((24, 32, 3), np.uint8)
    source = open_source("synthetic:image?width=32&height=24")
    frame = source.read(free)
    assert frame is not None
    assert frame.data is free
    assert free.any()
    for other in (np.zeros((24, 32), np.uint8), np.zeros((24, 32, 3), np.float32)):
        frame = source.read(other)
        assert frame is not None
        assert (frame.data.shape, frame.data.dtype, other.any()) == ((24, 32, 3), np.uint8, np.False_)


def test_synthetic_keeps_an_absolute_pace() -> None:
    """Frames that the reader was late for come at once; the next ones are on time again."""
    source = open_source("synthetic:sensor?rate=20&count=9")
    assert (source.live, source.period_s, source.size) == (True, 0.05, 9)
    first = source.read()
    assert first is not None
    time.sleep(0.22)
    rest = list(source)
    since = [(frame.captured_ns - first.captured_ns) / 1e9 for frame in rest]
    assert [frame.recorded_ns for frame in rest] == [50_000_000 * k for k in range(1, 9)]
    assert since[3] - since[0] < 0.04, "four frames were due"
    assert all(found >= 0.05 * k - 0.01 for k, found in enumerate(since, 1))
    ends_on_close(_begun(open_source("synthetic:sensor?rate=0.01")))


def _begun(source: Source) -> Source:
    source.read()
    return source


# Serial


class Board:
    """A pseudo-terminal whose name stays the same while boards come and go, as udev's links do."""

    def __init__(self, folder: Path) -> None:
        self.port = folder / "imu"
        self.plug()

    def plug(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        name = os.ttyname(slave)
        os.close(slave)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(name)

    def say(self, text: str) -> None:
        os.write(self.master, text.encode())

    def unplug(self) -> None:
        os.close(self.master)
        self.port.unlink()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    pytest.importorskip("serial", reason="pyserial is not installed")
    board = Board(tmp_path)
    yield board
    if board.port.is_symlink():
        board.unplug()


def test_serial_drops_the_first_line_and_skips_broken_ones(board: Board) -> None:
    with open_source(f"serial:{board.port}?time=0&unit=ms") as source:
        told: list[str] = []
        source.tell = told.append
        assert source.live
        board.say("9,9\n10,1,2\r\n20,3,4\nbanner\n30,5\n40,x,6\n50,7,8\n")
        frames = [frame for frame in (source.read() for _ in range(3)) if frame]
        assert values(frames) == [[1, 2], [3, 4], [7, 8]]
        assert [frame.recorded_ns for frame in frames] == [10_000_000, 20_000_000, 50_000_000]
        assert [frame.index for frame in frames] == [0, 1, 2]
        assert len(told) == 1, "at most once a second"
        assert "'banner'" in told[0]
        time.sleep(1.05)
        threading.Timer(0.3, board.say, ["60,1\n70,9,9\n"]).start()
        assert source.read().data.tolist() == [9, 9]  # type: ignore[union-attr]
        assert len(told) == 2
        assert "'40,x,6' was skipped: column 1 (counted from 0) is 'x', expected is a number" in told[1]
        assert "2 broken lines" in told[1]
        assert source.broken == 4


def test_serial_comes_back_after_unplugging(board: Board) -> None:
    with open_source(f"serial:{board.port}") as source:
        told: list[str] = []
        source.tell = told.append
        board.say("part\n1,2\n3,")
        assert source.read().data.tolist() == [1, 2]  # type: ignore[union-attr]
        frames: list[Any] = []
        reader = threading.Thread(target=lambda: frames.append(source.read()))
        reader.start()
        board.unplug()
        until(lambda: told)
        assert "is gone after 1 samples" in told[0]
        time.sleep(0.3)
        board.plug()
        until(lambda: len(told) > 1)
        assert "is back" in told[1]
        board.say("4\n5,6\n")
        reader.join(5)
        assert [frame.data.tolist() for frame in frames] == [[5, 6]], "half lines of before and after are dropped"
        assert frames[0].index == 1


def test_serial_gives_up_after_its_retries(board: Board) -> None:
    source = open_source(f"serial:{board.port}?retries=2")
    told: list[str] = []
    source.tell = told.append
    board.unplug()
    with pytest.raises(SourceError, match=r"broke off after 0 samples and did not come back in 2 attempts \(No such file"):
        source.read()
    assert len(told) == 1
    source.close()


def test_serial_ends_on_close(board: Board) -> None:
    ends_on_close(open_source(f"serial:{board.port}"))
    source = open_source(f"serial:{board.port}")
    source.tell = lambda text: None
    board.unplug()
    ends_on_close(source)


def test_serial_says_what_is_wrong_at_opening(board: Board, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none cannot be opened: No such file or directory .*list_ports"):
        open_source(f"serial:{tmp_path / 'none'}")
    for settings in ("columns=ax", "baud=fast", "separator=ab"):
        with pytest.raises(UsageError):
            open_source(f"serial:{board.port}?{settings}")


def test_serial_with_noise_instead_of_lines(board: Board) -> None:
    """A wrong baud rate gives bytes without an end: they are told and do not fill the memory."""
    with open_source(f"serial:{board.port}?channels=2") as source:
        told: list[str] = []
        source.tell = told.append
        threading.Thread(target=lambda: [board.say("~" * 1000) for _ in range(9)] and board.say("\n1,2\n3,4\n")).start()
        assert source.read().data.tolist() == [1, 2]  # type: ignore[union-attr]
        assert "baud rate 115200" in told[0]


# MQTT


class Broker:
    """A mosquitto of our own on a free port."""

    def __init__(self, folder: Path, more: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous {'false' if more else 'true'}\n{more}")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [mosquitto(), "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "mosquitto ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def mosquitto() -> str:
    found = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not found or not importlib.util.find_spec("paho"):
        pytest.skip("mosquitto or paho-mqtt is not installed")
    return found


@pytest.fixture
def mqtt(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


def send(broker: Broker, *messages: str, topic: str = "home/imu") -> None:
    from paho.mqtt import publish

    publish.multiple([(topic, message, 1, False) for message in messages], hostname="127.0.0.1", port=broker.port)


def test_mqtt_reads_lists_objects_and_lines(mqtt: Broker) -> None:
    with open_source(f"mqtt://127.0.0.1:{mqtt.port}/home/imu?qos=1") as source:
        assert source.live
        send(mqtt, "[1, 2.5, null]", "3,4,5", '{"state": "on"}', "[1, 2", "[1, true, 2]", " [6,7,8] ")
        told: list[str] = []
        source.tell = told.append
        frames = [source.read() for _ in range(3)]
        assert source.broken == 3
    np.testing.assert_array_equal(values(frames), [[1, 2.5, np.nan], [3, 4, 5], [6, 7, 8]])  # type: ignore[arg-type]
    assert "the message '{\"state\": \"on\"}' was skipped: column 'state' is 'on', expected is a number" in told[0]


def test_mqtt_objects_have_named_columns(mqtt: Broker) -> None:
    with open_source(f"mqtt://127.0.0.1:{mqtt.port}/home/%2B?time=t&unit=us&qos=1".replace("%2B", "+")) as source:
        source.tell = lambda text: None
        rows = [
            {"state": "on"},
            {"t": 0, "ax": "on", "az": 1},
            {"t": 1700000000123456, "ax": 1, "ay": -2},
            {"ay": 4, "t": 2, "ax": 3},
            {"t": 3, "ax": 5},
            {"t": 4, "ax": 7, "ay": 8},
        ]
        send(mqtt, *map(json.dumps, rows))
        frames = [frame for frame in (source.read() for _ in range(3)) if frame]
    assert values(frames) == [[1, -2], [3, 4], [7, 8]]
    assert [frame.recorded_ns for frame in frames] == [1700000000123456000, 2000, 4000]
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_mqtt_drops_the_oldest_and_counts(mqtt: Broker) -> None:
    with open_source(f"mqtt://127.0.0.1:{mqtt.port}/home/imu?qos=1") as source:
        send(mqtt, *(f"{k}" for k in range(1205)))
        until(lambda: source.skipped == 205)  # type: ignore[attr-defined]
        assert source.read().data.tolist() == [205]  # type: ignore[union-attr]


def test_mqtt_comes_back_after_an_outage(mqtt: Broker) -> None:
    with open_source(f"mqtt://127.0.0.1:{mqtt.port}/home/imu?qos=1") as source:
        told: list[str] = []
        source.tell = told.append
        send(mqtt, "[1]")
        assert source.read() is not None
        mqtt.stop()
        until(lambda: told)
        assert f"127.0.0.1:{mqtt.port} is gone after 1 samples" in told[0]
        mqtt.start()
        until(lambda: len(told) > 1)
        assert "is back" in told[1]
        frame: list[Any] = []
        reader = threading.Thread(target=lambda: frame.append(source.read()))
        reader.start()
        while reader.is_alive():
            send(mqtt, "[2]")
            reader.join(0.2)
        assert frame[0].data.tolist() == [2]


def test_mqtt_ends_on_close(mqtt: Broker) -> None:
    ends_on_close(open_source(f"mqtt://127.0.0.1:{mqtt.port}/home/imu"))


def test_mqtt_names_host_and_port_if_nobody_is_there(mqtt: Broker) -> None:
    mqtt.stop()
    with pytest.raises(SourceError, match=rf"host 127.0.0.1, port {mqtt.port}: Connection refused"):
        open_source(f"mqtt://127.0.0.1:{mqtt.port}/home/imu")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(SourceError, match=rf"port {port}: no answer within 5 s"):
            open_source(f"mqtt://127.0.0.1:{port}/home/imu")
        assert time.monotonic() - began < 8
    for wrong in ("mqtt://host", "mqtt:host/topic", "mqtt://host:x/topic", "mqtt://me:secret@host/topic", "mqtt://host/t?qos=3"):
        with pytest.raises(UsageError) as error:
            open_source(wrong)
        assert "secret" not in str(error.value)


def test_mqtt_logs_in(tmp_path: Path) -> None:
    if not (passwd := shutil.which("mosquitto_passwd")):
        pytest.skip("mosquitto_passwd is not installed")
    (tmp_path / "users").touch(mode=0o600)
    subprocess.run([passwd, "-b", str(tmp_path / "users"), "me", "a b&c"], check=True, capture_output=True)
    user = f"user {__import__('getpass').getuser()}\n"
    broker = Broker(tmp_path, f"{user}password_file {tmp_path / 'users'}\n")
    try:
        open_source(f"mqtt://127.0.0.1:{broker.port}/t?user=me&password=a+b%26c").close()
        with pytest.raises(SourceError, match="Not authorized") as error:
            open_source(f"mqtt://127.0.0.1:{broker.port}/t?user=me&password=wrongword")
        assert "wrongword" not in str(error.value)
    finally:
        broker.stop()


def test_importing_the_sources_loads_no_client_library() -> None:
    code = (
        "import sys; from edgewright.runtime.sources import SOURCES; from edgewright.runtime.sinks import SINKS;"
        "[SOURCES.get(name) for name in ('csv', 'serial', 'mqtt', 'stdin', 'synthetic')];"
        "[SINKS.get(name) for name in ('jsonl', 'csv', 'stdout', 'mqtt', 'kafka')];"
        "print(sorted({'paho', 'serial', 'confluent_kafka', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
