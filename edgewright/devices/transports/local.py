"""This machine as a board: commands are child processes, files are copied."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from edgewright.artifact import file_digest
from edgewright.devices.running import Running
from edgewright.devices.transport import TRANSPORTS, Transport
from edgewright.devices.transports._process import ChildRunning
from edgewright.errors import DeviceError

_CHUNK_BYTES = 1 << 20


@TRANSPORTS.register("local")
class LocalTransport(Transport):
    """This machine; every command leads a process group of its own, so that its end is the end of all that it started."""

    caps = frozenset({"stdin", "kill", "symlinks"})

    def _open(self) -> None:
        """Nothing to connect."""

    def _close(self) -> None:
        """Nothing to disconnect."""

    def _start(self, argv: tuple[str, ...], env: Mapping[str, str], sink: Callable[[bytes], object] | None) -> Running:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            return _NotStarted(argv, self.where, code, f"{argv[0]}: {error.strerror}\n")
        except OSError as error:
            raise DeviceError(f"{argv[0]} cannot be started on {self.where}: {error.strerror}") from error
        child = ChildRunning(argv, self.where, process, sink)
        child.pid = process.pid
        return child

    def _find_home(self) -> str:
        return str(Path.home())

    def _make_folder(self, folder: str) -> int | None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(folder).free
        except OSError as error:
            raise self._failed(f"making the folder {folder}", error) from error

    def _send(self, source: Path, target: str, sent: Callable[[int], None]) -> None:
        total = 0
        try:
            with source.open("rb") as reader, Path(target).open("wb") as writer:
                while chunk := reader.read(_CHUNK_BYTES):
                    writer.write(chunk)
                    total += len(chunk)
                    sent(total)
                writer.flush()
                os.fsync(writer.fileno())  # a power cut after the renaming leaves no empty file
        except OSError as error:
            raise self._failed(f"writing {target}", error) from error

    def _fetch(self, source: str, target: Path) -> None:
        shutil.copyfile(source, target)

    def _digest(self, path: str, size: int | None) -> str | None:
        if not Path(path).is_file():
            return None
        try:
            return file_digest(Path(path))
        except OSError as error:
            raise self._failed(f"making the sha256 of {path}", error) from error

    def _rename(self, source: str, target: str) -> None:
        try:
            Path(source).replace(target)
        except IsADirectoryError as error:
            raise DeviceError(f"{target} is a folder on {self.where}: no file can have its name") from error
        except OSError as error:
            raise self._failed(f"renaming {source} to {target}", error) from error

    def _remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def _failed(self, what: str, error: OSError) -> DeviceError:
        return DeviceError(f"{what} failed on {self.where}: {error.strerror or error}")


class _NotStarted(Running):
    """A command whose program is not there, as a shell would report it."""

    def __init__(self, argv: tuple[str, ...], where: str, code: int, why: str) -> None:
        super().__init__(argv, where)
        self._feed(why.encode(), 1)
        self._exited(code)
        self._ended()

    def _write(self, data: bytes) -> None:
        raise DeviceError(f"{self.what} on {self.where} takes no input")

    def _close_stdin(self) -> None:
        """There is none."""

    def _kill(self) -> None:
        """It has ended."""

    def _drop(self) -> None:
        """It holds nothing."""
