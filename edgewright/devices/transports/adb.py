"""An Android device, through the real adb client as a child process."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from edgewright.devices.running import Running, command_line
from edgewright.devices.transport import TRANSPORTS, Transport
from edgewright.devices.transports._process import ChildRunning
from edgewright.errors import DeviceError

log = logging.getLogger("edgewright")

_HOME = "/data/local/tmp"
"""The one folder of an Android device that its shell may write to and run programs from."""

_SERVER_S = 30.0
_SETTLE_S = 3.0
_PASSING = ("offline", "authorizing", "connecting")
"""States that a device over the network goes through just after it was connected."""

_SLOWEST_BYTES_PER_S = 200_000
_NETWORK = re.compile(r"[^\s:]+:\d+|\[[^\]\s]+\]:\d+")
_PERCENT = re.compile(rb"(\d+)%\]")

_TELL_CODE = r"""code=$?; printf '\036edgewright-exit %d\n' $code >&2; exit $code"""
_CODE = re.compile(rb"\x1eedgewright-exit (\d+)\n")
_CODE_BEGUN = re.compile(rb"\x1e[edgwrihtxt -]*\d*")

_STATES = {
    "unauthorized": ("has not allowed this computer", "unlock it and accept 'Allow USB debugging', then try again"),
    "authorizing": ("is being asked to allow this computer", "unlock it and accept 'Allow USB debugging', then try again"),
    "offline": ("is offline", "plug it in again (over the network: see that it is on), or run: adb reconnect offline"),
    "no permissions": (
        "may not be opened by this user",
        "install Debian's android-sdk-platform-tools-common, join the group plugdev, plug it in again, and run: adb kill-server",
    ),
}


@TRANSPORTS.register("adb")
class AdbTransport(Transport):
    """An Android device by its serial number, or "host:port" over the network; an empty address is the only device there is."""

    caps = frozenset({"stdin", "kill", "symlinks"})
    options: ClassVar[Mapping[str, str]] = {
        "adb": "the adb client (the one on PATH)",
        "server_host": "where the adb server runs (this machine)",
        "server_port": "its port (ANDROID_ADB_SERVER_PORT, else 5037)",
        "home": f'the folder that "~" is ({_HOME})',
        "stall_s": "how long a transfer may stand still (30)",
    }

    _client: tuple[str, ...] = ()
    _serial = ""

    @property
    def where(self) -> str:
        """The board in words, for messages."""
        serial = self._serial or self.board.address
        return f"board '{self.board.name}'" + (f" (adb {serial})" if serial else "")

    def _open(self) -> None:
        options = self.board.options
        program = shutil.which(str(Path(options.get("adb", "adb")).expanduser()))
        if program is None:
            raise DeviceError(
                f"the program '{options.get('adb', 'adb')}' that reaches {self.where} is not installed",
                hint="run: apt install adb (or put Android's platform-tools on PATH)",
            )
        host, port = options.get("server_host", ""), options.get("server_port", "")
        if port and not port.isdecimal():
            raise DeviceError(f"options.server_port of {self.where} is '{port}', no port number", hint="correct its profile")
        self._client = (program, *(("-H", host) if host else ()), *(("-P", port) if port else ()))
        self._stall_s = self.number("stall_s", 30.0)
        if not host:
            self._ask("start-server")
        self._serial = self._choose()
        if "shell_v2" not in self._ask("-s", self._serial, "features").split():
            raise DeviceError(
                f"{self.where} reports no exit codes (its adb daemon lacks shell_v2)", hint="Android 7 or later has it"
            )

    def _close(self) -> None:
        self._serial = ""

    def _start(self, argv: tuple[str, ...], env: Mapping[str, str], sink: Callable[[bytes], object] | None) -> Running:
        line = command_line(argv, env, then=_TELL_CODE)
        command = [*self._client, "-s", self._serial, "shell", "-T", os.fsdecode(line)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for us to pass on
            )
        except OSError as error:
            raise DeviceError(f"the adb client cannot be started for {self.where}: {error.strerror}") from error
        return _Shell(argv, self, process, sink)

    def _find_home(self) -> str:
        return self.board.options.get("home", _HOME)

    def end(self, pid: int) -> None:
        """End a process there with its group."""
        self._end_group(pid)

    def lost(self, why: str) -> DeviceError:
        """The error for a command that broke off, from what the client printed."""
        lines = [line for line in why.strip().splitlines() if line.strip()] or ["the device went away"]
        hint = f"see that the device is on and plugged in: {Path(self._client[0]).name} devices"
        return DeviceError(f"the connection to {self.where} was lost: {lines[-1].removeprefix('error: ')}", hint=hint)

    def _choose(self) -> str:
        """The serial number of the device that is meant, when it is ready."""
        address, states = self.board.address, self._states()
        if _NETWORK.fullmatch(address) and states.get(address) != "device":
            if address in states:  # the server would go on to call a lost device connected
                self._ask("disconnect", address)
            answer = self._ask("connect", address)
            until = time.monotonic() + _SETTLE_S
            while (states := self._states()).get(address) in _PASSING and time.monotonic() < until:
                time.sleep(0.2)
            if address not in states:
                raise DeviceError(
                    f"{self.where} cannot be reached: {answer.strip() or 'no answer'}",
                    hint="see that it is on, that debugging over the network is, and that the address is right",
                )
        if not address:
            if not states:
                raise DeviceError(
                    f"there is no Android device for {self.where}",
                    hint="plug one in and switch USB debugging on (Settings, Developer options); `adb devices` must list it",
                )
            if len(states) > 1:
                raise DeviceError(
                    f"there is more than one Android device for {self.where}: {', '.join(sorted(states))}",
                    hint=f'put one of them into the profile: address = "{min(states)}"',
                )
            address = next(iter(states))
        if address not in states:
            known = f"plugged in are: {', '.join(sorted(states))}" if states else "no device is plugged in"
            raise DeviceError(f"{self.where} is not plugged in: adb knows no device '{address}'", hint=known)
        if states[address] != "device":
            default = (f"is in state '{states[address]}'", "start Android on it: adb reboot")
            words, hint = next((both for state, both in _STATES.items() if states[address].startswith(state)), default)
            raise DeviceError(f"{self.where} {words}" + ("" if self.board.address else f" (device {address})"), hint=hint)
        return address

    def _states(self) -> dict[str, str]:
        """The state of every device that the server knows, by serial number."""
        lines = self._ask("devices").partition("List of devices attached")[2].splitlines()
        pairs = (line.split("\t", 1) for line in lines if "\t" in line)
        return {serial.strip(): state.strip() for serial, state in pairs}

    def _ask(self, *arguments: str) -> str:
        """What the client prints for one of its own commands."""
        what = f"adb {' '.join(arguments)}"
        try:
            done = subprocess.run(
                [*self._client, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SERVER_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            hint = "run: adb kill-server, then try again"
            raise DeviceError(f"'{what}' for {self.where} did not answer within {_SERVER_S:g} s", hint=hint) from error
        except OSError as error:
            raise DeviceError(f"'{what}' for {self.where} cannot be started: {error.strerror}") from error
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if done.returncode and arguments[0] not in ("connect", "disconnect"):
            lines = err.strip().splitlines() or out.strip().splitlines() or [f"exit code {done.returncode}"]
            raise DeviceError(f"'{what}' for {self.where} failed: {lines[-1]}", hint="run: adb kill-server, then try again")
        return out

    def _send(self, source: Path, target: str, sent: Callable[[int], None]) -> None:
        size = source.stat().st_size

        def news(output: bytes) -> int:
            percents = _PERCENT.findall(output)
            done = int(percents[-1]) if percents else 0
            sent(size * done // 100)
            return done

        patience_s = self._stall_s + size / 100 / _SLOWEST_BYTES_PER_S
        self._transfer(["push", str(source.resolve()), target], f"writing {target}", patience_s, news)

    def _fetch(self, source: str, target: Path) -> None:
        def news(output: bytes) -> int:
            try:
                return target.stat().st_size
            except OSError:  # not there yet, or removed by the client, which has failed
                return 0

        self._transfer(["pull", source, str(target)], f"reading {source}", self._stall_s, news)

    def _transfer(self, arguments: list[str], what: str, patience_s: float, news: Callable[[bytes], int]) -> None:
        """Run the client's push or pull, while `news` of its output keeps growing."""
        screen, slave = _terminal()
        command = [*self._client, "-s", self._serial, *arguments]
        output, last, moved = b"", -1, time.monotonic()
        try:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=slave if slave is not None else subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TERM": "xterm"},
                start_new_session=True,
            )
        except OSError as error:
            for end in (screen, slave):
                if end is not None:
                    os.close(end)
            raise DeviceError(f"the adb client cannot be started for {self.where}: {error.strerror}") from error
        with started as process:
            try:
                if slave is not None:
                    os.close(slave)
                while process.poll() is None:
                    output += _read(screen)
                    if (now := news(output)) != last:
                        last, moved = now, time.monotonic()
                    if time.monotonic() - moved > patience_s:
                        raise DeviceError(f"{what} on {self.where} stood still for {patience_s:.0f} s and was given up")
            finally:
                process.kill()
                output += _read(screen)
                if screen is not None:
                    os.close(screen)
                elif process.stdout is not None:
                    output += process.stdout.read()
        if process.returncode:
            lines = [line for line in re.split(r"[\r\n]+", output.decode(errors="replace")) if "error" in line.lower()]
            why = lines[-1].removeprefix("adb: ").removeprefix("error: ") if lines else f"exit code {process.returncode}"
            raise DeviceError(f"{what} failed on {self.where}: {why}")


class _Shell(ChildRunning):
    """A command in the device's shell.

    The client's own exit code is no witness: it is 0 when the device goes away in mid-command. So the shell there tells the
    command's code at the end of its standard error, and an end without that is a lost connection.
    """

    def __init__(
        self,
        argv: tuple[str, ...],
        transport: AdbTransport,
        process: subprocess.Popen[bytes],
        sink: Callable[[bytes], object] | None,
    ) -> None:
        self._transport = transport
        self._told = False
        self._tail = b""
        super().__init__(argv, transport.where, process, sink, marked=True)

    def _feed(self, data: bytes, stream: int = 0) -> None:
        if stream == 1:
            data, self._tail = self._tail + data, b""
            if found := _CODE.search(data):
                data = data[: found.start()] + data[found.end() :]
                self._told = True
            elif (begin := data.rfind(b"\x1e")) >= 0 and _CODE_BEGUN.fullmatch(data, begin):
                data, self._tail = data[:begin], data[begin:]
            super()._feed(data, 1)
            if found:
                self._exited(int(found[1]))
            return
        super()._feed(data, stream)

    def _kill(self) -> None:
        pid = self._wait_for_pid(2.0)
        if pid is None:
            raise DeviceError(f"{self.what} on {self.where} never told its number")
        self._transport.end(pid)

    def _drop(self) -> None:
        with suppress(OSError):
            self._process.kill()

    def _left(self, code: int) -> None:
        """What the client returns says nothing about the command."""

    def _over(self) -> None:
        if not self._told and not self._killed:
            super()._feed(self._tail, 1)
            why = self._printed(1) if self.pid is None else "the device went away while the command ran"
            self._failed(self._transport.lost(why))
        self._ended()


def _terminal() -> tuple[int | None, int | None]:
    """Both ends of a terminal: the client tells its progress to nothing else."""
    try:
        import pty

        return pty.openpty()
    except (ImportError, OSError):
        return None, None


def _read(screen: int | None) -> bytes:
    """What the client has printed, within a tenth of a second."""
    if screen is None:
        time.sleep(0.1)
        return b""
    import select

    try:
        ready, _, _ = select.select([screen], [], [], 0.1)
        return os.read(screen, 65536) if ready else b""
    except OSError:  # the client closed its end
        time.sleep(0.01)
        return b""
