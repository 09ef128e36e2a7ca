"""A board that is none: a script says what each command answers, files lie in a folder, and every call is recorded."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgewright.artifact import file_digest
from edgewright.devices.running import Running
from edgewright.devices.transport import TRANSPORTS, Transport
from edgewright.errors import DeviceError

if TYPE_CHECKING:
    from edgewright.devices.boards import Board

__all__ = ["Call", "FakeTransport", "Reply"]

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Reply:
    """What the fake board does at one call.

    Args:
        argv: the command as one line, with * and ? as wildcards: "python3 -m edgewright.runtime probe *". Files have calls of
            their own: "push /home/fake/model.tflite", "pull ..."; for these a code other than 0 fails with `stderr`.
        code: exit code.
        stdout: what the command prints; surrogate escapes stand for bytes that are no UTF-8.
        stderr: what it prints on standard error.
        delay_s: how long it takes before it prints.
        pace_s: how long it takes before each line.
        reads: it reads its input to the end first; "{stdin}" in `stdout` stands for that.
        loses: the connection is lost at this point, for this reason; later calls fail as well.
        times: how often the reply is given; 0 is without end.
    """

    argv: str
    code: int = 0
    stdout: str = ""
    stderr: str = ""
    delay_s: float = 0.0
    pace_s: float = 0.0
    reads: bool = False
    loses: str = ""
    times: int = 0


@dataclass(slots=True)
class Call:
    """One call that the fake board has seen.

    Args:
        argv: the command, or "push" or "pull" and a path.
        env: its variables.
        stdin: what was written to it.
        killed: whether it was ended from here.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    killed: bool = False


@TRANSPORTS.register("fake")
class FakeTransport(Transport):
    """A board by script, for tests of what uses boards; the first reply whose pattern fits and is not used up is given.

    Args:
        board: its options may name the script, a TOML file of [[reply]] tables with the names of `Reply`.
        replies: a script in Python, before that of the file.
    """

    caps = frozenset({"stdin", "kill"})
    options: ClassVar[Mapping[str, str]] = {
        "script": "a TOML file of [[reply]] tables",
        "folder": "where the board's files lie (a temporary folder)",
        "record": "a file that gets one JSON line for each call when the connection is closed",
    }

    def __init__(self, board: Board, replies: Iterable[Reply] = ()) -> None:
        super().__init__(board)
        self.replies = list(replies)
        self.calls: list[Call] = []
        self.root = Path(board.options.get("folder", "")) if board.options.get("folder") else None
        self._given: dict[int, int] = {}
        self._lost = ""
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._deciding = threading.Lock()

    def _open(self) -> None:
        if script := self.board.options.get("script"):
            known = len(self.replies)
            self.replies[known:] = read_script(Path(script))
        if self.root is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="edgewright-fake-")
            self.root = Path(self._temporary.name)
        self._lost = ""

    def _close(self) -> None:
        if record := self.board.options.get("record"):
            lines = [json.dumps(asdict(call) | {"stdin": call.stdin.decode(errors="replace")}) for call in self.calls]
            with Path(record).open("a", encoding="utf-8") as handle:
                handle.writelines(f"{line}\n" for line in lines)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary, self.root = None, None

    def file(self, path: str) -> Path:
        """Where a file of the board lies here."""
        if self.root is None:
            raise DeviceError(f"the connection to {self.where} is not open")
        return self.root / path.lstrip("/")

    def _start(self, argv: tuple[str, ...], env: Mapping[str, str], sink: Callable[[bytes], object] | None) -> Running:
        call = Call(argv, dict(env))
        reply = self._reply(call)
        if reply is None:
            raise DeviceError(
                f"the script of {self.where} has no reply for: {shlex.join(argv)}",
                hint="add a reply with this argv; it has: " + (", ".join(f"'{one.argv}'" for one in self.replies) or "none"),
            )
        return _Scripted(call, self, reply, sink)

    def lose(self, why: str) -> DeviceError:
        """Note that the connection is lost; later calls fail with the same words."""
        self._lost = why
        return DeviceError(f"the connection to {self.where} was lost: {why}", hint="its script says so")

    def _reply(self, call: Call) -> Reply | None:
        """The script's reply to a call, which is recorded."""
        if self._lost:
            raise self.lose(self._lost)
        line = shlex.join(call.argv)
        with self._deciding:
            self.calls.append(call)
            for number, reply in enumerate(self.replies):
                given = self._given.get(number, 0)
                if fnmatchcase(line, reply.argv) and not (reply.times and given >= reply.times):
                    self._given[number] = given + 1
                    return reply
        return None

    def _at_file(self, verb: str, path: str) -> None:
        """Do what the script says about a file."""
        reply = self._reply(Call((verb, path)))
        if reply is not None:
            time.sleep(reply.delay_s)
            if reply.loses:
                raise self.lose(reply.loses)
            if reply.code:
                raise DeviceError(f"{verb} of {path} failed on {self.where}: {reply.stderr.strip() or f'code {reply.code}'}")

    def _find_home(self) -> str:
        return "/home/fake"

    def _make_folder(self, folder: str) -> int | None:
        self.file(folder).mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.file(folder)).free

    def _send(self, source: Path, target: str, sent: Callable[[int], None]) -> None:
        total = 0
        with source.open("rb") as reader, self.file(target).open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                writer.write(chunk)
                total += len(chunk)
                sent(total)
        self._at_file("push", target.removesuffix(".part"))

    def _fetch(self, source: str, target: Path) -> None:
        self._at_file("pull", source)
        shutil.copyfile(self.file(source), target)

    def _digest(self, path: str, size: int | None) -> str | None:
        file = self.file(path)
        return file_digest(file) if file.is_file() else None

    def _rename(self, source: str, target: str) -> None:
        if self.file(target).is_dir():
            raise DeviceError(f"{target} is a folder on {self.where}: no file can have its name")
        self.file(source).replace(self.file(target))

    def _remove(self, path: str) -> None:
        self.file(path).unlink(missing_ok=True)


class _Scripted(Running):
    """A command that does what a reply says."""

    def __init__(self, call: Call, transport: FakeTransport, reply: Reply, sink: Callable[[bytes], object] | None) -> None:
        super().__init__(call.argv, transport.where, sink=sink)
        self._call = call
        self._transport = transport
        self._reply = reply
        self._input_ended, self._stopped = threading.Event(), threading.Event()
        threading.Thread(target=self._play, daemon=True).start()

    def _write(self, data: bytes) -> None:
        if self._input_ended.is_set():
            raise DeviceError(f"{self.what} on {self.where} takes no more input")
        self._call.stdin += data

    def _close_stdin(self) -> None:
        self._input_ended.set()

    def _kill(self) -> None:
        self._call.killed = True
        self._stopped.set()
        self._input_ended.set()

    def _drop(self) -> None:
        """Nothing is held."""

    def _play(self) -> None:
        reply = self._reply
        if reply.reads:
            self._input_ended.wait()
        self._stopped.wait(reply.delay_s)
        text = (
            reply.stdout.replace("{stdin}", self._call.stdin.decode("utf-8", "surrogateescape")) if reply.reads else reply.stdout
        )
        for stream, output in ((0, text), (1, reply.stderr)):
            for line in output.splitlines(keepends=True):
                if not self._stopped.wait(reply.pace_s):
                    self._feed(line.encode("utf-8", "surrogateescape"), stream)
        if reply.loses and not self._stopped.is_set():
            self._failed(self._transport.lose(reply.loses))
        else:
            self._exited(128 + 9 if self._stopped.is_set() else reply.code)
        self._ended()


def read_script(path: Path) -> list[Reply]:
    """The replies of a TOML file.

    Raises:
        DeviceError: the file cannot be read or holds something else.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document["reply"], list):
            raise TypeError("reply is one table, not a list of them")
        return [_reply_of(table) for table in document["reply"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = f"it holds [[reply]] tables with {', '.join(one.name for one in fields(Reply))}"
        raise DeviceError(f"the script {path} of a fake board cannot be read: {error}", hint=hint) from error


def _reply_of(table: Mapping[str, Any]) -> Reply:
    """One reply, its values of the kinds that its defaults have."""
    kinds = {one.name: str if one.name == "argv" else type(one.default) for one in fields(Reply)}
    for name, value in table.items():
        kind = kinds.get(name)
        if kind is not None and type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"{name} is {value!r}, not of type {kind.__name__}")
    return Reply(**table)
