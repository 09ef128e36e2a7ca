"""A board that is reached, held for this run alone, and made able to run our code."""

from __future__ import annotations

import getpass
import json
import logging
import os
import secrets
import shlex
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgewright.artifact import file_digest
from edgewright.devices.boards import Board, find_board
from edgewright.devices.lock import ANSWER_S, SILENCE_S, Lock, taken
from edgewright.devices.packages import choose_wheels, digest_of, how_to_get
from edgewright.devices.programs import board_failure, last_json, packed
from edgewright.devices.pushing import Progress, Shares, space_check
from edgewright.devices.transport import Completed, Transport, open_transport
from edgewright.devices.wheel import build_wheel
from edgewright.errors import DeviceError

__all__ = ["ENGINE_MODULES", "Device", "Progress", "board_failure", "here", "open_device", "packed"]

log = logging.getLogger("edgewright")

_RUN_MODULE = (
    "import runpy, sys; sys.path.remove(''); sys.argv.pop(0); runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
"""What `-m` does, but without the working folder in front of the path: a folder of our name in the board's home must not be
taken for our package. Python 3.11 has PYTHONSAFEPATH for it."""

ENGINE_MODULES = {"litert": ("ai_edge_litert", "tflite_runtime"), "openvino": ("openvino",), "onnxruntime": ("onnxruntime",)}
"""What an engine's library is imported as."""


class Device:
    """One board, open and held; made by `open_device`.

    Attributes:
        board: its profile.
        transport: the open connection.
        folder: our folder there, absolute.
    """

    def __init__(self, board: Board, transport: Transport) -> None:
        self.board = board
        self.transport = transport
        self.folder = transport.expand(board.folder)
        self._interpreter = [transport.expand(word) if word.startswith("~") else word for word in shlex.split(board.python)]
        self._survey: dict[str, Any] | None = None
        self._path: tuple[str, ...] = ()
        self._lock: Lock | None = None

    @property
    def runtime(self) -> dict[str, str]:
        """Digests of our code and of the packages that `ensure_runtime` chose; empty before, and for what is the board's own."""
        names = ("runtime", "packages")
        return {name: next((path.rsplit("/", 1)[1] for path in self._path if f"/{name}/" in path), "") for name in names}

    def survey(self, *, anew: bool = False) -> dict[str, Any]:
        """What the board's own Python tells of the board: version, machine, C library, free space, what of ours is there.

        Raises:
            DeviceError: there is no Python, or an older one than 3.10.
        """
        if self._survey is None or anew:
            found = self.script("slots", {"verb": "survey", "folder": self.folder})
            if tuple(found["python"][:2]) < (3, 10):
                version = ".".join(map(str, found["python"][:3]))
                raise DeviceError(
                    f"the Python of {self.board.name} is {version}, 3.10 is the oldest that runs Edgewright",
                    hint=f"install a newer one there and name it as python in the board's profile (it is '{self.board.python}')",
                )
            self._survey = found
        return self._survey

    def engines(self) -> list[str]:
        """The inference engines that the board's Python finds, with the packages of `ensure_runtime`; sorted names."""
        modules = self.survey()["modules"]
        return sorted({engine for engine, names in ENGINE_MODULES.items() if any(name in modules for name in names)})

    def script(self, name: str, request: Mapping[str, Any], *, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Run one of our stand-alone modules (`slots`) with the board's Python and give its answer; needs nothing of ours there.

        Raises:
            DeviceError: it cannot run, or says why it cannot do what it was asked for.
        """
        done = self._run([*self._interpreter, "-c", packed(name), json.dumps(request)], timeout_s)
        answer = last_json(done.stdout)
        if answer is None or done.code:
            if answer and "error" in answer:
                raise DeviceError(f"{self.board.name}: {answer['error']}", hint=answer.get("hint", ""))
            raise self.failure(done, "run Python")
        return answer

    def ensure_runtime(self, wheels: Path | None = None, progress: Progress | None = None) -> str:
        """Bring our code onto the board, and packages that are given, unless they are there; no internet is needed there.

        Each version has a folder of its own that appears whole, named by its digest; `runtime/current` and
        `packages/current` lead to the last ones.

        Args:
            wheels: folder of wheels of NumPy, engines and what they need; those that fit the board are taken. None goes on
                with what was pushed before, or what the board's Python has.
            progress: called with a share between 0 and 1 and a text.

        Returns:
            The folder on the board that our package can be imported from.

        Raises:
            DeviceError: no NumPy there, no wheel fits, too little space, or the connection broke.
        """
        found = self.survey()
        wheel = build_wheel()
        given = choose_wheels(wheels, found) if wheels is not None else []
        packages = digest_of(given) if given else str(found["packages"]["current"])
        if not given and "numpy" not in found["modules"]:
            raise DeviceError(
                f"the Python {'.'.join(map(str, found['python'][:3]))} of {self.board.name} has no NumPy",
                hint=f"pass --wheels DIR with what {how_to_get(found)} brings there, or install NumPy and an engine on the board",
            )
        need_runtime = wheel.digest not in found["runtime"]["there"]
        need_packages = bool(given) and packages not in found["packages"]["there"]
        if need_runtime or need_packages:
            # While a wheel is unpacked both it and its files are there.
            more = (len(wheel.data) + wheel.unpacked_bytes) if need_runtime else 0
            more += sum(file.size_bytes + file.unpacked_bytes for file in given) if need_packages else 0
            space_check(self.board, found, more, "the runtime")
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / wheel.name
                file.write_bytes(wheel.data)
                todo = [("runtime", wheel.digest, [file])] if need_runtime else []
                todo += [("packages", packages, [one.path for one in given])] if need_packages else []
                tell = Shares(progress, sum(one.stat().st_size for _, _, files in todo for one in files))
                for kind, digest, files in todo:
                    self._install(kind, digest, files, tell)
        if found["runtime"]["current"] != wheel.digest or found["packages"]["current"] != packages:
            chosen = {"runtime": wheel.digest, "packages": packages}
            self.script("slots", {"verb": "choose", "folder": self.folder, "chosen": {k: v for k, v in chosen.items() if v}})
            self._survey = None
        self.use_runtime(wheel.digest, packages)
        return self._path[0]

    def use_runtime(self, runtime: str, packages: str) -> None:
        """Have `python` and `json` run with this version of our code and of the packages, which must be there."""
        named = (("runtime", runtime), ("packages", packages))
        self._path = tuple(f"{self.folder}/{kind}/{digest}" for kind, digest in named if digest)

    def python(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        heard: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run the board's Python with our package, after `ensure_runtime`.

        Args:
            arguments: what follows the interpreter, for example ["-m", "edgewright.runtime", "probe", "--json"].
            timeout_s: after which the command is ended there.
            env: more variables.
            heard: see `Link.run`.
            on_line: gets each line of both outputs as it comes.

        Raises:
            DeviceError: the connection broke, or the time is over; not for an exit code.
        """
        variables = {"PYTHONPATH": ":".join(self._path), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", **(env or {})}
        words = list(arguments)
        if words[:1] == ["-m"] and tuple(self.survey()["python"][:2]) < (3, 11):
            words = ["-c", _RUN_MODULE, *words[1:]]
        return self._run([*self._interpreter, *words], timeout_s, env=variables, heard=heard, on_line=on_line)

    def json(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        heard: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """The last JSON object that a command of `python` prints.

        Raises:
            DeviceError: it ended with an error, in the board's own words, or printed no JSON.
        """
        done = self.python(arguments, timeout_s=timeout_s, env=env, heard=heard, on_line=on_line)
        answer = last_json(done.stdout)
        if done.code or answer is None:
            raise self.failure(done, f"run python {shlex.join(arguments)[:120]}")
        return answer

    @contextmanager
    def temporary(self) -> Iterator[str]:
        """A new folder on the board, removed when the block ends; what a killed run leaves goes when the next takes the lock."""
        path = f"{self.folder}/tmp/{os.getpid()}-{secrets.token_hex(4)}"
        done = self._run(["mkdir", "-p", path], ANSWER_S)
        if done.code:
            raise self.failure(done, f"make {path}")
        try:
            yield path
        finally:
            with suppress(DeviceError):
                self._run(["rm", "-rf", path], ANSWER_S)

    def failure(self, done: Completed, doing: str) -> DeviceError:
        """The error of a command that failed there; see `board_failure`."""
        return board_failure(self.board, done, doing)

    def _run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        env: Mapping[str, str] | None = None,
        heard: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        if self._lock and self._lock.lost:
            raise DeviceError(f"the lock of {self.board.name} was lost: {self._lock.lost}", hint="run it again")
        return self.transport.run(argv, timeout_s=timeout_s, env=env, heard=heard, on_line=on_line)

    def _install(self, kind: str, digest: str, files: Sequence[Path], tell: Shares) -> None:
        """Push wheels into a temporary folder and have them unpacked into `kind/digest`, which appears whole."""
        with self.temporary() as there:
            for file in files:
                self.transport.push(file, f"{there}/{file.name}", progress=tell.next(file))
            tell.text(f"unpacking on {self.board.name}")
            self.script(
                "slots",
                {
                    "verb": "install",
                    "folder": self.folder,
                    "kind": kind,
                    "digest": digest,
                    "source": there,
                    "files": {file.name: file_digest(file) for file in files},
                },
                timeout_s=600,
            )
        self._survey = None

    @contextmanager
    def held(self, what: str, wait_s: float, on_wait: Callable[[str], None] | None) -> Iterator[None]:
        """Hold the board's lock while the block runs; see `open_device`."""
        if "stdin" not in self.transport.caps:  # nothing could tell the board that the holder is gone
            log.warning("%s cannot be locked over this transport: see to it that nobody else uses it", self.board.name)
            yield
            return
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = {**here(), "pid": os.getpid(), "what": what, "since": since}
        argv = [*self._interpreter, "-c", packed("hold"), self.folder, json.dumps(holder), f"{wait_s:g}", f"{SILENCE_S:g}"]
        with taken(self.board, self.folder, self.transport.start(argv), wait_s, on_wait) as self._lock:
            yield

    def governed(self, root: str = "/") -> AbstractContextManager[str]:
        """Have the board's clocks governed as its profile says while the block runs; see `lock.Lock.governed`.

        Where the board cannot be locked nothing there would set them back if this run were killed: they stay as they are.
        """
        if not self.board.governor:
            return nullcontext("")
        if self._lock is None:
            why = "the board cannot be locked over this transport"
            return nullcontext(f"the clock governor of {self.board.name} was left as it is: {why}")
        return self._lock.governed(self.board.governor, root)


@contextmanager
def open_device(
    name_or_board: str | Board,
    *,
    what: str,
    wait_s: float = 0.0,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[Device]:
    """Reach a board and hold it for this run alone.

    The lock lies on the board: other hosts see it too. It is let go when the block ends, when this process dies however it
    dies, and when the connection has been dead for `SILENCE_S`.

    Args:
        name_or_board: what `find_board` takes, or a profile.
        what: what this run does, for the message that others get.
        wait_s: seconds to wait for another run to end; 0 refuses at once.
        on_wait: told once who is waited for.

    Raises:
        UsageError: there is no such board.
        DeviceBusyError: another run holds it; user, host, process, since when and what for are named.
        DeviceError: it cannot be reached, or has no Python.
    """
    board = find_board(name_or_board) if isinstance(name_or_board, str) else name_or_board
    with open_transport(board) as transport:
        device = Device(board, transport)
        with device.held(what, wait_s, on_wait):
            yield device


def here() -> dict[str, str]:
    """Who this is, for others who look at a board: `user` and `host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return {"user": user, "host": socket.gethostname()}
