"""A board behind SSH: one connection of asyncssh, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from edgewright.devices.running import Running, command_line
from edgewright.devices.transport import TRANSPORTS, Transport
from edgewright.devices.transports._trust import Trust
from edgewright.errors import DeviceError, needs

T = TypeVar("T")

log = logging.getLogger("edgewright")

_ANSWER_S = 30.0
"""A board that takes longer to start a command is taken for one that hangs; keep-alive notices a dead link before."""

_CLOSE_S = 2.0
_CHUNK_BYTES = 1 << 17
_ADDRESS = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[^\]\s]+)\]|(?P<host>[^@:\s\[\]]+))(?::(?P<port>\d{1,5}))?")
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)  # three classes in Python 3.10


@dataclass(frozen=True, slots=True)
class Address:
    """Where an SSH server is, "user@host:port"; what is left out comes from ~/.ssh/config, else from SSH's defaults."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def of(cls, text: str, what: str) -> Address:
        """Read an address; raises DeviceError if it is none."""
        found = _ADDRESS.fullmatch(text.strip())
        if found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
            raise DeviceError(f"{what} is no SSH address: '{text}'", hint="write user@host, user@host:port or user@[IPv6]:port")
        return cls(found["host"] or found["six"], found["user"], int(found["port"]) if found["port"] else None)

    def settings(self) -> dict[str, Any]:
        """The parts that were given, as asyncssh takes them."""
        given = {"host": self.host, "port": self.port, "username": self.user}
        return {name: value for name, value in given.items() if value is not None}


@TRANSPORTS.register("ssh")
class SshTransport(Transport):
    """A board behind SSH, with the user's keys and agent; known hosts are checked always, ~/.ssh/config is honoured."""

    caps = frozenset({"stdin", "kill", "symlinks"})
    options: ClassVar[Mapping[str, str]] = {
        "identity_file": "a private key in place of the agent's and those in ~/.ssh",
        "known_hosts": "a file of host keys in place of ~/.ssh/known_hosts",
        "jump": "servers to go through, user@host:port, separated by commas",
        "connect_timeout_s": "how long one server may take to answer (10)",
        "keepalive_s": "how often a silent connection is tried; four times without an answer and it is lost (5)",
    }

    @classmethod
    def check_address(cls, address: str) -> None:
        """See `Transport.check_address`."""
        Address.of(address, "the address")

    def _open(self) -> None:
        with needs("ssh"):
            import asyncssh  # noqa: F401
        board = self.board
        jumps = [text for text in board.options.get("jump", "").split(",") if text.strip()]
        hops = [Address.of(text, f"a jump host of board '{board.name}'") for text in jumps]
        hops.append(Address.of(board.address, f"the address of board '{board.name}'"))
        timeout_s, keepalive_s = self.number("connect_timeout_s", 10.0), self.number("keepalive_s", 5.0)
        self._lost: DeviceError | None = None
        self._connections: list[Any] = []
        self._loop = _Loop(f"edgewright ssh {board.name}")
        try:
            for number, hop in enumerate(hops):
                role = self.where if number == len(jumps) else f"the jump host {hop.host} of board '{board.name}'"
                self._connect(hop, role, ",".join(jumps[:number]), timeout_s, keepalive_s)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        for connection in reversed(self._connections):
            try:
                self._loop.call(_end(connection), 2 * _CLOSE_S)
            except Exception as error:
                log.debug("closing the connection to %s: %s", self.where, error)
        self._connections.clear()
        self._loop.stop()

    def _start(self, argv: tuple[str, ...], env: Mapping[str, str], sink: Callable[[bytes], object] | None) -> Running:
        return self._start_within(_ANSWER_S, argv, env, sink)

    def call(self, coroutine: Coroutine[Any, Any, T], what: str, timeout_s: float | None) -> T:
        """Run a coroutine on the loop and wait for it; raises DeviceError with the reason that the connection has."""
        try:
            return self._loop.call(coroutine, timeout_s)
        except _TIMEOUTS as error:
            self.raise_if_lost()
            raise DeviceError(f"{what}: {self.where} did not answer within {timeout_s:g} s") from error
        except Exception as error:  # asyncssh raises what has no class in common, OSError and its own among it
            self.raise_if_lost()
            raise DeviceError(f"{what} failed on {self.where}: {_words(error)}") from error

    def lose(self, error: Exception | None) -> DeviceError:
        """Note that the connection is gone, and why; every later call says the same."""
        if self._lost is None:
            why = f": {_words(error)}" if error is not None else ": the board closed it"
            hint = "see that the board is on and its network up, then try again"
            self._lost = DeviceError(f"the connection to {self.where} was lost{why}", hint=hint)
        return self._lost

    def raise_if_lost(self) -> None:
        """Raise the error of a lost connection, if it is lost."""
        if self._lost is not None:
            raise DeviceError(self._lost.message, hint=self._lost.hint)

    def end(self, pid: int) -> None:
        """End a process there with its group; not every SSH server passes signals on, and those reach one process."""
        self._end_group(pid)

    def _start_killer(self, argv: tuple[str, ...]) -> Running:
        return self._start_within(_CLOSE_S, argv, {}, None)  # that the board does not answer may be why it is called

    def _start_within(
        self, timeout_s: float, argv: tuple[str, ...], env: Mapping[str, str], sink: Callable[[bytes], object] | None
    ) -> Running:
        self.raise_if_lost()
        line = command_line(argv, env)
        running = _Remote(argv, self, sink)
        self.call(self._create(running.session, line), f"starting {running.what}", timeout_s)
        return running

    async def _create(self, session: _Session, line: bytes) -> None:
        await self._connections[-1].create_session(lambda: session, line, encoding=None, request_pty=False)

    def _connect(self, hop: Address, role: str, via: str, timeout_s: float, keepalive_s: float) -> None:
        """Connect to one server, through the one connected before it."""
        options = self.board.options
        trust = Trust(options.get("known_hosts"), via, hop.host, hop.port, hop.user)
        settings: dict[str, Any] = {
            **hop.settings(),
            "config": (),  # asyncssh's word for ~/.ssh/config, if there is one
            "connect_timeout": timeout_s,
            "keepalive_interval": keepalive_s,
            "keepalive_count_max": 3,
        }
        if "identity_file" in options:
            settings["client_keys"] = [str(Path(options["identity_file"]).expanduser())]
        if self._connections:
            settings["tunnel"] = self._connections[-1]
        try:
            self._connections.append(self._loop.call(_connected(settings, trust, self.lose), timeout_s + 5))
        except Exception as error:
            raise _refusal(error, role, trust, timeout_s) from error


class _Session:
    """What asyncssh calls for one command; all of it runs on the loop."""

    def __init__(self, running: Running, transport: SshTransport) -> None:
        self._running = running
        self._transport = transport
        self._channel: Any = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._over = False

    def connection_made(self, channel: Any) -> None:
        self._channel = channel

    def session_started(self) -> None:
        """The command has begun."""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._running._feed(data, 1 if datatype else 0)

    def eof_received(self) -> bool:
        return True  # its input stays open

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def xon_xoff_requested(self, client_can_do: bool) -> None:
        """Nobody types here."""

    def exit_status_received(self, status: int) -> None:
        self._running._exited(status)

    def exit_signal_received(self, name: str, core_dumped: bool, text: str, lang: str) -> None:
        number = getattr(signal, f"SIG{name}", None)
        self._running._exited(128 + number if number is not None else 255)

    def connection_lost(self, error: Exception | None) -> None:
        self._over = True
        self._may_write.set()
        if error is not None:
            self._running._failed(self._transport.lose(error))
        self._running._ended()

    async def write(self, data: bytes) -> None:
        """Send bytes as soon as the board takes them."""
        await self._may_write.wait()
        if self._over or self._channel is None or self._channel.is_closing():
            raise BrokenPipeError("the command has ended")
        self._channel.write(data)

    async def close_input(self) -> None:
        """End the command's input, after what was written."""
        if not self._over and self._channel is not None:
            self._channel.write_eof()

    async def drop(self) -> None:
        """Close the session, whatever the board says."""
        if not self._over and self._channel is not None:
            self._channel.abort()


class _Remote(Running):
    """A command in an SSH session."""

    def __init__(self, argv: tuple[str, ...], transport: SshTransport, sink: Callable[[bytes], object] | None) -> None:
        super().__init__(argv, transport.where, marked=True, sink=sink)
        self.session = _Session(self, transport)
        self._transport = transport

    def _write(self, data: bytes) -> None:
        for begin in range(0, len(data), _CHUNK_BYTES):
            coroutine = self.session.write(data[begin : begin + _CHUNK_BYTES])
            self._transport.call(coroutine, f"writing to {self.what}", None)

    def _close_stdin(self) -> None:
        self._transport.call(self.session.close_input(), f"ending the input of {self.what}", _ANSWER_S)

    def _kill(self) -> None:
        pid = self._wait_for_pid(2.0)
        if pid is None:
            raise DeviceError(f"{self.what} on {self.where} never told its number")
        self._transport.end(pid)

    def _drop(self) -> None:
        self._transport.call(self.session.drop(), f"ending {self.what}", _CLOSE_S)


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._executor = concurrent.futures.ThreadPoolExecutor(2)
        self._loop.set_default_executor(self._executor)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        """Run a coroutine there and wait for its result; it is cancelled when the time is over."""
        if self._loop.is_closed() or not self._thread.is_alive():
            coroutine.close()
            raise ConnectionError("the connection is closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and what still runs on it."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_cancel_all())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._executor.shutdown(wait=False)  # a name server that does not answer may hold one of its threads
        self._loop.close()


async def _cancel_all() -> None:
    """Cancel what runs on this loop and wait for its end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _connected(settings: Mapping[str, Any], trust: Trust, lose: Callable[[Exception | None], object]) -> Any:
    """A connection whose server has shown a known host key."""
    import asyncssh

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
            trust.offer(host, addr, port, key)
            return False

        def connection_lost(self, error: Exception | None) -> None:
            lose(error)

    prepared = await asyncssh.SSHClientConnectionOptions.construct(None, **settings)
    settings = {**settings, "known_hosts": trust.load(prepared), "client_factory": Client}
    try:
        return await asyncssh.connect(**settings)
    except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionError):
        if not trust.may_lack_kind:
            raise
    # only kinds of keys that are known were asked for, and the server hung up: ask for any, to see what it has
    return await asyncssh.connect(**settings, server_host_key_algs="default")


async def _end(connection: Any) -> None:
    """Say good-bye, and hang up if that is not answered."""
    connection.close()
    try:
        await asyncio.wait_for(connection.wait_closed(), _CLOSE_S)
    except _TIMEOUTS:
        connection.abort()
        await asyncio.wait_for(connection.wait_closed(), _CLOSE_S)


def _refusal(error: Exception, role: str, trust: Trust, timeout_s: float) -> DeviceError:
    """What a failed attempt to connect means, and the way out of it."""
    import asyncssh

    place, attempt = f"{trust.host}:{trust.port}", f"try: ssh {trust.target}"
    if isinstance(error, (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed)) and (refused := trust.refusal(role)):
        return refused
    if isinstance(error, asyncssh.PermissionDenied):
        hint = f"run: ssh-copy-id {trust.target}; or name another key in options.identity_file of the board's profile"
        return DeviceError(f"{role} accepts none of this user's keys for '{trust.user}' at {place}", hint=hint)
    if isinstance(error, ValueError) and not trust.loaded:  # among them asyncssh's KeyImportError and ConfigParseError
        if "passphrase" in str(error).lower():
            return DeviceError(
                f"the key for {role} has a passphrase: {_words(error)}", hint="run: ssh-add KEYFILE, then try again"
            )
        return DeviceError(f"a key or setting for {role} cannot be read: {_words(error)}", hint=attempt)
    if isinstance(error, FileNotFoundError):
        hint = "correct options.identity_file of the board's profile, or ~/.ssh/config"
        return DeviceError(f"the key for {role} is not there: {error.filename}", hint=hint)
    if isinstance(error, socket.gaierror):
        hint = "correct the address in the board's profile, or see that the name server knows it"
        return DeviceError(f"{role} has a host name that is not known: '{trust.host}'", hint=hint)
    if isinstance(error, ConnectionRefusedError):
        hint = "start the SSH server there, or correct the port in the board's address"
        return DeviceError(f"{role} refuses SSH connections at {place}", hint=hint)
    if isinstance(error, _TIMEOUTS):
        hint = "see that the board is on and its address right, or raise options.connect_timeout_s of its profile"
        return DeviceError(f"{role} did not answer within {timeout_s:g} s at {place}", hint=hint)
    if isinstance(error, OSError):
        return DeviceError(f"{role} cannot be reached at {place}: {_words(error)}", hint=attempt)
    return DeviceError(f"{role} broke off while connecting to {place}: {_words(error)}", hint=attempt)


def _words(error: Exception) -> str:
    """What an exception says, in lower case as within a sentence."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return f"{text[:1].lower()}{text[1:]}".rstrip(".")
