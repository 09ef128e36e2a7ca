"""Every transport does what the contract says, passes any argument on unchanged, and moves large files whole."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgewright.devices import running as running_module
from edgewright.devices.boards import Board
from edgewright.devices.running import Running, command_line
from edgewright.devices.transport import TRANSPORTS, open_transport
from edgewright.devices.transports.adb import _Shell
from edgewright.devices.transports.fake import FakeTransport, Reply
from edgewright.errors import DeviceError, PluginError
from edgewright.testing_transports import TransportCase, TransportContract


class TestLocal(TransportContract):
    @pytest.fixture
    def case(self, local_board, tmp_path):
        return TransportCase(local_board, str(tmp_path / "there"))


class TestSsh(TransportContract):
    @pytest.fixture
    def case(self, ssh_board, tmp_path):
        return TransportCase(ssh_board, str(tmp_path / "there"))


class TestAdb(TransportContract):
    @pytest.fixture
    def case(self, adb_board, tmp_path):
        return TransportCase(adb_board, str(tmp_path / "there"))


class TestFake(TransportContract):
    @pytest.fixture
    def case(self):
        return TransportCase(Board("none", "None", "", "fake"), "/there", shell=False)


def test_all_are_tested():
    assert TRANSPORTS.names() == ["adb", "fake", "local", "ssh"]
    with pytest.raises(PluginError, match="pigeon"):
        open_transport(Board("x", "X", "", "pigeon"))


def test_nothing_heavy_is_imported_before_a_board_is_opened():
    script = """
import sys
from edgewright.devices.boards import Board
from edgewright.devices.transport import TRANSPORTS, open_transport

names = TRANSPORTS.names()
assert not [name for name in sys.modules if name.startswith("edgewright.devices.transports.")]
for name in names:
    open_transport(Board("x", "X", "", name, address="a"))
print(sorted({"asyncssh", "cryptography", "numpy", "tensorflow"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "[]\n", done.stderr


# ---- any argument, any output ----------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(params=["local", "ssh", "adb"])
def transport(request):
    with open_transport(request.getfixturevalue(f"{request.param}_board")) as transport:
        yield transport


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(arguments=st.lists(words, min_size=1, max_size=5), value=words)
@example(arguments=["a\r\nb", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")], value="'\"'")
def test_any_argument_and_variable_survives(transport, arguments, value):
    done = transport.run(["sh", "-c", 'printf "%s\\0" "$EDGE" "$@"', "sh", *arguments], env={"EDGE": value})
    assert done.code == 0 and done.stderr == ""
    assert done.stdout.split("\0")[:-1] == [value, *arguments]


def test_a_long_argument_arrives_or_is_refused(transport):
    assert len(transport.run(["echo", "x" * 59_000]).stdout) == 59_001
    if transport.board.transport != "local":
        with pytest.raises(DeviceError, match=r"may have 60,000 bytes, this one has 200,\d\d\d"):
            transport.run(["echo", "x" * 200_000])
        assert transport.run(["echo", "x"]).stdout == "x\n"


def test_arguments_that_are_no_utf8_survive(transport):
    name = os.fsdecode(b"a\xff\xfeb")  # as Python gives file names of other encodings
    done = transport.run(["sh", "-c", 'printf %s "$1" | od -An -tx1', "sh", name])
    assert done.stdout.split() == ["61", "ff", "fe", "62"]


class Fed(Running):
    """A command whose output the test hands in."""

    def _write(self, data):
        raise AssertionError

    def _close_stdin(self):
        raise AssertionError

    def _kill(self):
        raise AssertionError

    def _drop(self):
        pass


def cut(data, borders):
    borders = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(borders)]


@given(before=st.binary(max_size=30), output=st.binary(max_size=60), borders=st.lists(st.integers(0, 200), max_size=8))
def test_the_number_is_taken_out_of_any_output(before, output, borders):
    one = Fed(["x"], "board", marked=True)
    for piece in cut(before + b"edgewright-pid 4711\n" + output, borders):
        one._feed(piece)
    one._exited(0)
    one._ended()
    assert one.pid == 4711 and one.wait(1).stdout == output.decode(errors="replace")


def test_output_without_a_number_is_kept(monkeypatch):
    one = Fed(["x"], "board", marked=True)
    one._feed(b"sh: not found\n")
    one._exited(127)
    one._ended()
    assert one.pid is None and one.wait(1).stdout == "sh: not found\n"
    long = Fed(["x"], "board", marked=True)
    long._feed(bytes(running_module._MARK_WITHIN_BYTES + 1))
    assert len(long._printed(0)) == running_module._MARK_WITHIN_BYTES + 1


@given(
    err=st.binary(max_size=60).filter(lambda data: b"edgewright-exit" not in data),
    code=st.integers(0, 255),
    borders=st.lists(st.integers(0, 200), max_size=8),
)
@example(err=b"\x1eedgewright-exi", code=3, borders=[3, 20])
@example(err=b"ab\x1e\x1e", code=0, borders=[3, 4, 5])
def test_the_exit_code_is_taken_out_of_any_error_output(err, code, borders):
    shell = _Shell.__new__(_Shell)
    shell._told, shell._tail = False, b""
    Running.__init__(shell, ["x"], "board")
    for piece in cut(err + b"\x1eedgewright-exit %d\n" % code, borders):
        shell._feed(piece, 1)
    shell._over()
    done = shell.wait(1)
    assert done.code == code and done.stderr == err.decode(errors="replace")


@given(
    pieces=st.lists(st.tuples(st.integers(0, 1), st.text(st.sampled_from("ab\n☃"), max_size=6)), max_size=10),
    borders=st.lists(st.integers(0, 40), max_size=5),
)
def test_lines_are_the_output(pieces, borders):
    one = Fed(["x"], "board")
    for stream, text in pieces:
        for piece in cut(text.encode(), borders):
            one._feed(piece, stream)
    one._exited(0)
    one._ended()
    lines = []
    done = one.follow(1, lines.append)
    texts = ["".join(text for number, text in pieces if number == stream) for stream in (0, 1)]
    assert [done.stdout, done.stderr] == texts
    expected = [text.removesuffix("\n").split("\n") if text else [] for text in texts]
    assert lines == [*expected[0], *expected[1]]


def test_a_command_line_is_one_line_of_words():
    line = command_line(["python3", "-c", "print('a b')"], {"A": "1 2"})
    assert (
        line.decode() == """exec sh -c 'echo "edgewright-pid $$"; exec "$@"' sh env 'A=1 2' python3 -c 'print('"'"'a b'"'"')'"""
    )


# ---- large files -----------------------------------------------------------------------------------------------------


def test_twenty_megabytes(transport, tmp_path):
    source, back, target = tmp_path / "source", tmp_path / "back", str(tmp_path / "there" / "file")
    data = os.urandom(20 << 20)
    source.write_bytes(data)
    shares = []
    transport.push(source, target, progress=shares.append)
    assert shares == sorted(set(shares)) and shares[-1] == 1 and len(shares) >= 5
    assert sum(0.05 < share < 0.95 for share in shares) >= 3
    assert transport.sha256(target) == hashlib.sha256(data).hexdigest()
    transport.pull(target, back)
    assert back.read_bytes() == data


def test_a_disk_that_is_too_small_is_named_before_anything_is_sent(transport, tmp_path, small_disk):
    source = tmp_path / "source"
    source.write_bytes(bytes(5_000_000))
    shares = []
    with pytest.raises(DeviceError, match=r"no room for source: it takes 5,000,000 bytes, 4,194,304 bytes are free in") as caught:
        transport.push(source, str(small_disk / "new" / "file"), progress=shares.append)
    assert caught.value.hint and not shares
    assert not (small_disk / "new" / "file.part").exists()


def test_a_disk_that_becomes_full_is_named(transport, tmp_path, small_disk, monkeypatch):
    """Another fills it between the look and the transfer."""
    source, target = tmp_path / "source", small_disk / "file"
    source.write_bytes(b"of the time before")
    transport.push(source, str(target))
    source.write_bytes(os.urandom(3_000_000))
    send = transport._send

    def fill_first(*arguments):
        (small_disk / "filler").write_bytes(bytes(2_000_000))
        send(*arguments)

    monkeypatch.setattr(transport, "_send", fill_first)
    with pytest.raises(DeviceError, match=r"no room for source: it takes 3,000,000 bytes, 2,[12]\d\d,\d\d\d bytes are free in"):
        transport.push(source, str(target))
    assert target.read_bytes() == b"of the time before"
    assert sorted(file.name for file in small_disk.iterdir()) == ["file", "filler"]


def test_a_full_disk_here_is_named(transport, tmp_path, small_disk):
    there = tmp_path / "there"
    there.write_bytes(os.urandom(5_000_000))
    with pytest.raises(DeviceError, match=r"(?i)no space left"):
        transport.pull(str(there), small_disk / "back")
    assert list(small_disk.iterdir()) == []


def test_a_file_that_may_not_be_read_or_written(transport, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(DeviceError, match=r"making the folder /proc/none"):
        transport.push(source, "/proc/none/file")
    with pytest.raises(DeviceError, match="cannot write /proc/none/file"):
        transport.pull(str(source), type(source)("/proc/none/file"))


# ---- the fake board --------------------------------------------------------------------------------------------------


def test_fake_plays_its_script_and_records_it():
    replies = [
        Reply("python3 -m edgewright.runtime probe *", stdout='{"a": 1}\n'),
        Reply("flaky", code=1, stderr="busy\n", times=2),
        Reply("flaky", stdout="fine\n"),
        Reply("hash", stdout="got {stdin}", reads=True),
        Reply("bytes", stdout="a\udcff"),
        Reply("slow", delay_s=1000),
    ]
    with FakeTransport(Board("none", "None", "", "fake"), replies) as board:
        done = board.run(["python3", "-m", "edgewright.runtime", "probe", "--json"], env={"A": "1"})
        assert (done.code, done.stdout) == (0, '{"a": 1}\n')
        assert [board.run(["flaky"]).code for _ in range(3)] == [1, 1, 0]
        assert board.run(["hash"], stdin=b"abc").stdout == "got abc"
        assert board.run(["bytes"]).stdout == "a�"
        with pytest.raises(DeviceError, match=r"limit of 0.2 s and was ended"):
            board.run(["slow"], timeout_s=0.2)
        with pytest.raises(DeviceError, match="no reply for: other x") as caught:
            board.run(["other", "x"])
        assert "'flaky'" in caught.value.hint
        assert [call.argv[0] for call in board.calls] == ["python3", *["flaky"] * 3, "hash", "bytes", "slow", "other"]
        assert board.calls[0].env == {"A": "1"} and board.calls[4].stdin == b"abc" and board.calls[6].killed


def test_fake_loses_its_connection(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    replies = [
        Reply("push /a/full", code=1, stderr="No space left on device"),
        Reply("push /a/cut", loses="cable pulled"),
        Reply("bench", stdout="one\n", loses="power failure"),
    ]
    board = FakeTransport(Board("none", "None", "", "fake"), replies)
    with board:
        with pytest.raises(DeviceError, match="no room for file"):
            board.push(tmp_path / "file", "/a/full")
        running = board.start(["bench"])
        assert running.readline(5) == "one"
        with pytest.raises(DeviceError, match="power failure"):
            running.wait(5)
        for call in (lambda: board.run(["bench"]), lambda: board.push(tmp_path / "file", "/a/b")):
            with pytest.raises(DeviceError, match=r"none.*power failure"):
                call()
    with board:
        with pytest.raises(DeviceError, match="cable pulled"):
            board.push(tmp_path / "file", "/a/cut")
        assert not board.file("/a/cut").exists()


def test_fake_from_a_file(tmp_path):
    script, record = tmp_path / "script.toml", tmp_path / "record"
    script.write_text('[[reply]]\nargv = "uname *"\nstdout = "aarch64\\n"\ndelay_s = 0\n')
    options = {"script": str(script), "record": str(record), "folder": str(tmp_path / "files")}
    board = Board("none", "None", "", "fake", options=options)
    with open_transport(board) as transport:
        assert transport.run(["uname", "-m"]).stdout == "aarch64\n"
        transport.push(script, "~/copy")
    assert (tmp_path / "files/home/fake/copy").read_text() == script.read_text()
    assert [json.loads(line)["argv"] for line in record.read_text().splitlines()] == [
        ["uname", "-m"],
        ["push", "/home/fake/copy"],
    ]
    for text in ("", "[reply]\n", '[[reply]]\nargs = "x"\n', '[[reply]]\nargv = "x"\ncode = "1"\n', "\x00"):
        script.write_text(text)
        with pytest.raises(DeviceError, match=r"script.toml of a fake board cannot be read") as caught:
            open_transport(board).open()
        assert "argv, code, stdout" in caught.value.hint


# ---- this machine ----------------------------------------------------------------------------------------------------


def test_programs_that_cannot_be_started(local_board, tmp_path):
    (tmp_path / "plain").write_text("text")
    (tmp_path / "broken").write_bytes(b"\x7fELF")
    (tmp_path / "broken").chmod(0o755)
    with open_transport(local_board) as here:
        assert here.run([str(tmp_path / "absent")]).code == 127
        done = here.run([str(tmp_path / "plain")])
        assert done.code == 126 and "Permission denied" in done.stderr
        with pytest.raises(DeviceError, match=r"broken cannot be started on board 'here': Exec format error"):
            here.run([str(tmp_path / "broken")])
        with pytest.raises(DeviceError, match="too long"):
            here.run(["echo", "x" * (4 << 20)])


def test_the_first_line_comes_before_the_end(transport):
    began = time.monotonic()
    running = transport.start(["sh", "-c", "echo first; sleep 60"])
    assert running.readline(30) == "first" and time.monotonic() - began < 30
    running.kill()
    assert running.wait(30).stdout == "first\n"
