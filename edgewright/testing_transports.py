"""Contract suite for transports, shipped so that plug-in authors run what we run; needs pytest."""

# ruff: noqa: S101
from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgewright.devices.boards import Board
from edgewright.devices.transport import TRANSPORTS, Transport, open_transport
from edgewright.errors import DeviceError

__all__ = ["TransportCase", "TransportContract"]

AWKWARD = (
    *("", " ", "two words", "'", '"', 'it\'s "both"', "$HOME `id` $(id) ${x}", "a\nb\n", "\t", "\\", "\\n", "-n", "--", "*", "?"),
    *("~", "#no comment", "a;b&c|d<e>f", "!1", "%d %s", "ünï ☃ 𝄞", "\x1b[31m", "x=y", "{a,b}", "end\\"),
)
"""Arguments that a shell on the way would change."""


@dataclass(frozen=True, slots=True)
class TransportCase:
    """One transport and a board to test it with.

    Args:
        board: a board that answers.
        folder: an absolute path there that the tests may fill.
        shell: whether real commands run there: sh, cat, sleep, kill, head, yes.
    """

    board: Board
    folder: str
    shell: bool = True

    def __str__(self) -> str:
        return self.board.transport


class TransportContract:
    """What every transport must do. Subclass it in a test module and give it a fixture `case` that returns a TransportCase.

    Example:
        class TestMyTransport(TransportContract):
            @pytest.fixture
            def case(self, tmp_path):
                return TransportCase(Board("mine", "Mine", "", "mine", address="..."), str(tmp_path))
    """

    @pytest.fixture
    def case(self) -> TransportCase:
        """The transport under test; subclasses override it."""
        raise NotImplementedError("give the contract suite a fixture 'case'")

    @pytest.fixture
    def transport(self, case: TransportCase) -> Iterator[Transport]:
        """An open transport."""
        with open_transport(case.board) as transport:
            yield transport

    @pytest.fixture
    def shell(self, case: TransportCase, transport: Transport) -> Transport:
        """An open transport to a board where real commands run."""
        if not case.shell:
            pytest.skip("no real commands run there")
        return transport

    def test_says_what_it_is(self, case: TransportCase) -> None:
        """The class has a name, capabilities that are known, and its options explained."""
        cls = TRANSPORTS.get(case.board.transport)
        assert issubclass(cls, Transport)
        assert cls.caps <= {"stdin", "kill", "symlinks"}
        assert all(name.isidentifier() and words for name, words in cls.options.items())
        assert case.board.name in open_transport(case.board).where

    def test_refuses_unknown_options(self, case: TransportCase) -> None:
        """An option that the transport does not know is named, with those that it knows."""
        board = _with_option(case.board, "no_such_option", "1")
        with pytest.raises(DeviceError, match="no_such_option") as caught:
            open_transport(board).open()
        assert all(name in caught.value.hint for name in TRANSPORTS.get(board.transport).options)

    def test_opens_and_closes(self, case: TransportCase, tmp_path: Path) -> None:
        """Nothing works before it is open or after it is closed; both may be done twice, and it opens again."""
        transport = open_transport(case.board)
        for _ in range(2):
            for call in (lambda: transport.run(["true"]), lambda: transport.start(["true"])):
                with pytest.raises(DeviceError, match="not open"):
                    call()
            transport.open()
            transport.open()
            assert transport.sha256(f"{case.folder}/absent") is None
            transport.close()
            transport.close()

    def test_home_and_paths(self, case: TransportCase, transport: Transport) -> None:
        """The home is an absolute path; "~" and paths that are not absolute begin there."""
        home = transport.home()
        assert home.startswith("/") and transport.home() == home
        assert transport.expand("~") in (home, f"{home}/") and transport.expand("~/a b/c") == f"{home}/a b/c"
        assert transport.expand("a") == f"{home}/a" and transport.expand("/etc/~") == "/etc/~"

    @pytest.mark.parametrize("size", [0, 1, 65537, 3 << 20])
    def test_push_and_pull(self, case: TransportCase, transport: Transport, tmp_path: Path, size: int) -> None:
        """A file arrives equal there and back, in folders that did not exist, and replaces what had its name."""
        source, back, target = tmp_path / "source.bin", tmp_path / "new" / "back.bin", f"{case.folder}/new folder {size}/it's.bin"
        for _ in range(2):
            data = os.urandom(size)
            source.write_bytes(data)
            shares: list[float] = []
            transport.push(source, target, progress=shares.append)
            assert shares == sorted(set(shares)) and shares[-1] == 1.0 and all(0 <= share <= 1 for share in shares)
            assert transport.sha256(target) == hashlib.sha256(data).hexdigest()
            transport.pull(target, back)
            assert back.read_bytes() == data
        assert transport.sha256(f"{target}.part") is None
        assert [file.name for file in back.parent.iterdir()] == ["back.bin"]

    def test_awkward_names(self, case: TransportCase, transport: Transport, tmp_path: Path) -> None:
        """File names that a shell would change arrive unchanged."""
        source, back = tmp_path / "source", tmp_path / "back"
        names = [name for name in AWKWARD if name and "/" not in name and "\x1b" not in name]
        for number, name in enumerate(names):
            source.write_bytes(name.encode())
            transport.push(source, f"{case.folder}/{number}/{name}")
        for number, name in enumerate(names):
            transport.pull(f"{case.folder}/{number}/{name}", back)
            assert back.read_bytes() == name.encode()

    def test_awkward_names_here(self, case: TransportCase, transport: Transport, tmp_path: Path) -> None:
        """As well as on this side."""
        for name in ("-x", "a b", "$HOME", "it's", "☃", "a:b", "a,b", "a\nb"):
            source = tmp_path / name
            source.write_bytes(name.encode())
            transport.push(source, f"{case.folder}/here")
            source.unlink()
            transport.pull(f"{case.folder}/here", source)
            assert source.read_bytes() == name.encode()

    def test_missing_files(self, case: TransportCase, transport: Transport, tmp_path: Path) -> None:
        """What is not there is named, on both sides, and a folder is no file."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_bytes(b"x")
        for source in ("absent", "folder"):
            with pytest.raises(DeviceError, match=source):
                transport.push(tmp_path / source, f"{case.folder}/target")
        assert transport.sha256(f"{case.folder}/target") is None
        with pytest.raises(DeviceError, match="absent"):
            transport.pull(f"{case.folder}/absent", tmp_path / "back")
        assert not (tmp_path / "back").exists()
        transport.push(tmp_path / "file", f"{case.folder}/inner/file")
        assert transport.sha256(f"{case.folder}/inner") is None
        with pytest.raises(DeviceError, match=r"inner.*folder"):
            transport.push(tmp_path / "file", f"{case.folder}/inner")
        with pytest.raises(DeviceError, match="folder"):
            transport.pull(f"{case.folder}/inner/file", tmp_path / "folder")
        assert not [file.name for file in tmp_path.iterdir() if "part" in file.name]

    def test_changed_on_the_way(
        self, case: TransportCase, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that arrives with one bit changed is refused by its checksum; what was there before stays."""
        source, tampered, target = tmp_path / "source", tmp_path / "tampered", f"{case.folder}/file"
        source.write_bytes(b"of the time before")
        transport.push(source, target)
        before = transport.sha256(target)
        data = os.urandom(10_000)
        source.write_bytes(data)
        tampered.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
        send, fetch = transport._send, transport._fetch
        monkeypatch.setattr(transport, "_send", lambda _, there, sent: send(tampered, there, sent))
        with pytest.raises(DeviceError, match="changed") as caught:
            transport.push(source, target)
        assert before and hashlib.sha256(data).hexdigest()[:12] in str(caught.value)
        assert transport.sha256(target) == before and transport.sha256(f"{target}.part") is None
        monkeypatch.setattr(transport, "_fetch", lambda there, here: (fetch(there, here), here.write_bytes(b"other")))
        with pytest.raises(DeviceError, match="changed"):
            transport.pull(target, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    def test_refuses_what_is_no_command(self, transport: Transport) -> None:
        """No program, a NUL byte or a variable without a proper name is refused before anything is sent."""
        for argv, env in (([], {}), ([""], {}), (["echo", "a\0b"], {}), (["echo"], {"a b": "1"}), (["echo"], {"a": "\0"})):
            with pytest.raises(DeviceError, match="no command"):
                transport.run(argv, env=env)

    def test_runs(self, shell: Transport) -> None:
        """Exit code, both outputs and the time of a command are its own; the code is no error."""
        done = shell.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err\n")
        assert done.argv[0] == "sh" and 0 < done.seconds < 60
        assert shell.run(["true"]).code == 0 and shell.run(["sh", "-c", "exit 255"]).code == 255
        assert shell.run(["no-such-program-anywhere"]).code == 127
        assert shell.run(["sh", "-c", "kill -9 $$"]).code == 137

    def test_arguments_are_not_changed(self, shell: Transport) -> None:
        """No shell on the way sees an argument."""
        done = shell.run(["sh", "-c", 'printf "%s\\0" "$@"', "sh", *AWKWARD])
        assert done.stdout.split("\0")[:-1] == list(AWKWARD)

    def test_variables(self, shell: Transport) -> None:
        """Variables are set for the command, on top of those it has, with any value."""
        for value in AWKWARD:
            assert shell.run(["sh", "-c", 'printf %s "$EDGE"; test -n "$PATH"'], env={"EDGE": value, "_B2": "x"}).stdout == value

    def test_input(self, shell: Transport) -> None:
        """A command reads what it is given, to the byte, and the end of it; one without input finds it empty."""
        data = bytes(range(256)) * 4096
        assert shell.run(["sha256sum"], stdin=data).stdout.split()[0] == hashlib.sha256(data).hexdigest()
        assert shell.run(["cat"]).stdout == ""
        assert shell.run(["true"], stdin=data).code == 0

    def test_large_output(self, shell: Transport) -> None:
        """10 MB printed at once arrive whole, on both outputs."""
        line = "0123456789abcdef\n"
        done = shell.run(["sh", "-c", "yes 0123456789abcdef | head -n 600000; yes 0123456789abcdef | head -n 10000 >&2"])
        assert done.stdout == line * 600_000 and done.stderr == line * 10_000

    def test_endless_output(self, shell: Transport) -> None:
        """A command that never stops printing is ended before it fills this machine's memory."""
        with pytest.raises(DeviceError, match="printed more than"):
            shell.run(["yes"], timeout_s=120)

    def test_output_in_no_encoding(self, shell: Transport) -> None:
        """Bytes that are no UTF-8 are replaced; a character cut by a block's border is not."""
        assert shell.run(["printf", r"a\377\376b\303\n"]).stdout == "a��b�\n"
        lines: list[str] = []
        shell.run(["sh", "-c", r"printf 'a\377\n\376'; printf '\303\n' >&2"], on_line=lines.append)
        assert sorted(lines) == ["a�", "�", "�"]
        text = "☃" * 100_000
        assert shell.run(["cat"], stdin=text.encode()).stdout == text

    def test_lines_as_they_come(self, shell: Transport) -> None:
        """Each line of both outputs is handed over once, while the command runs, the last even without a newline."""
        lines: list[str] = []
        times: list[float] = []

        def on_line(line: str) -> None:
            lines.append(line)
            times.append(time.monotonic())

        done = shell.run(["sh", "-c", "echo one; sleep 0.5; echo two >&2; echo; sleep 0.5; printf three"], on_line=on_line)
        assert sorted(lines) == ["", "one", "three", "two"] and lines[0] == "one" and lines[-1] == "three"
        assert times[-1] - times[0] > 0.8
        assert (done.stdout, done.stderr) == ("one\n\nthree", "two\n")

    def test_conversation(self, shell: Transport) -> None:
        """A running command answers to what is written to it, line by line, and ends with its input."""
        running = shell.start(["sh", "-c", 'while read -r line; do echo "got $line"; done; echo end; exit 4'])
        for word in ("one", "two words", "☃"):
            running.write(f"{word}\n".encode())
            assert running.readline(30) == f"got {word}"
        with pytest.raises(TimeoutError):
            running.readline(0.2)
        running.close_stdin()
        running.close_stdin()
        assert running.readline(30) == "end" and running.readline(30) == "" and running.readline(30) == ""
        assert running.wait(30).code == 4 and running.wait(30).stdout.endswith("end\n")
        with pytest.raises(DeviceError, match="no more"):
            running.write(b"x")
        running.kill()

    def test_two_at_once(self, shell: Transport) -> None:
        """Commands run side by side and keep their outputs apart."""
        running = [shell.start(["sh", "-c", 'read x; echo "$x"']) for _ in range(3)]
        for number, one in enumerate(running):
            one.write(f"{number}\n".encode())
        assert shell.run(["echo", "other"]).stdout == "other\n"
        assert [one.wait(30).stdout for one in running] == ["0\n", "1\n", "2\n"]

    def test_time_limit(self, case: TransportCase, shell: Transport) -> None:
        """A command that never ends is ended there with what it started, and the error says after how long."""
        script = 'mkdir -p "$1"; sleep 1000 & echo $! > "$1/child"; echo $$ > "$1/own"; wait; sleep 1000'
        with pytest.raises(DeviceError, match=r"limit of 1 s and was ended"):
            shell.run(["sh", "-c", script, "sh", case.folder], timeout_s=1)
        for name in ("own", "child"):
            assert _gone(shell, f"{case.folder}/{name}")

    def test_time_limit_without_reading(self, case: TransportCase, shell: Transport) -> None:
        """As well while more is written to it than it reads."""
        with pytest.raises(DeviceError, match="limit of 1 s"):
            shell.run(
                ["sh", "-c", f"mkdir -p '{case.folder}'; echo $$ > '{case.folder}/own'; exec sleep 1000"],
                stdin=bytes(8 << 20),
                timeout_s=1,
            )
        assert _gone(shell, f"{case.folder}/own")

    def test_kill(self, case: TransportCase, shell: Transport) -> None:
        """A running command is ended there on demand, and at the end of the connection; killing twice is allowed."""
        for end in ("kill", "close"):
            running = shell.start(
                ["sh", "-c", f"mkdir -p '{case.folder}'; echo $$ > '{case.folder}/own'; echo up; exec sleep 1000"]
            )
            assert running.readline(30) == "up"
            if end == "kill":
                running.kill()
                running.kill()
                assert running.wait(30).code == 137
            else:
                shell.close()
                shell.open()
            assert _gone(shell, f"{case.folder}/own")

    def test_interrupted(self, case: TransportCase, shell: Transport) -> None:
        """An exception within `run` ends the command there."""

        def on_line(line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            shell.run(
                ["sh", "-c", f"mkdir -p '{case.folder}'; echo $$ > '{case.folder}/own'; echo up; exec sleep 1000"],
                on_line=on_line,
            )
        assert _gone(shell, f"{case.folder}/own")

    def test_left_in_the_background(self, shell: Transport) -> None:
        """What a command leaves in the background, holding its outputs, does not hold up its end."""
        began = time.monotonic()
        done = shell.run(["sh", "-c", "sleep 30 & echo $!; exit 5"], timeout_s=25)
        assert done.code == 5 and time.monotonic() - began < 20
        shell.run(["kill", "-9", done.stdout.strip()])

    def test_progress_may_raise(self, case: TransportCase, transport: Transport, tmp_path: Path) -> None:
        """A push that is interrupted leaves nothing under the name, nor beside it."""
        source = tmp_path / "source"
        source.write_bytes(bytes(1 << 20))
        with pytest.raises(KeyboardInterrupt):
            transport.push(source, f"{case.folder}/file", progress=_raise(KeyboardInterrupt()))
        assert transport.sha256(f"{case.folder}/file") is None and transport.sha256(f"{case.folder}/file.part") is None


def _with_option(board: Board, name: str, value: str) -> Board:
    from dataclasses import replace

    return replace(board, options={**board.options, name: value})


def _raise(error: BaseException) -> Callable[[float], None]:
    def progress(share: float) -> None:
        raise error

    return progress


def _gone(transport: Transport, file: str) -> bool:
    """Whether the process whose number stands in a file there is gone, or becomes so within some seconds."""
    script = f"""number=$(cat '{file}') || exit 7
for n in 1 2 3 4 5 6 7 8 9 10; do
  state=$(sed -n 's/^State:[^A-Z]*\\(.\\).*/\\1/p' "/proc/$number/status" 2>/dev/null)
  case "$state" in ""|Z) rm '{file}'; exit 0;; esac
  sleep 0.3
done
exit 8"""
    return transport.run(["sh", "-c", script]).code == 0
