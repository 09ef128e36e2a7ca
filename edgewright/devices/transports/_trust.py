"""Whether an SSH server is the one it was: known hosts, and what to do about a key that is not among them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from edgewright.errors import DeviceError

__all__ = ["Trust"]

_DEFAULT = "~/.ssh/known_hosts"


class Trust:
    """The known hosts of one connection, and the key that its server offered when that is none of them.

    Args:
        file: the user's own file of known hosts; None for what ~/.ssh/config names, else ~/.ssh/known_hosts.
        via: the jump host through which the server is reached, empty for none.
        host: the server, as far as it is known before ~/.ssh/config is read.
        port: its port; None for SSH's own.
        user: who logs in; None for the user of this machine.
    """

    def __init__(self, file: str | None, via: str, host: str, port: int | None, user: str | None) -> None:
        self._file = file
        self._via = via
        self._hosts: Any = None
        self._known: list[Any] = []
        self._offered: Any = None
        self.host = host
        self.port = port or 22
        self.user = user or ""
        self.loaded = False

    @property
    def target(self) -> str:
        """The server as `ssh` takes it on its command line."""
        return f"{f'-p {self.port} ' if self.port != 22 else ''}{f'{self.user}@' if self.user else ''}{self.host}"

    @property
    def may_lack_kind(self) -> bool:
        """Whether a server may have hung up because all of its keys are of other kinds than those that are known."""
        return bool(self._known) and self._offered is None

    def load(self, prepared: Any) -> Any:
        """Read the known hosts that asyncssh's options lead to; never "none", even where ~/.ssh/config asks for that."""
        import asyncssh

        self.host, self.port, self.user = prepared.host, prepared.port, prepared.username
        named = [self._file] if self._file is not None else list(prepared.known_hosts or [_DEFAULT])
        files = [Path(name).expanduser() for name in named]
        if self._file is None:
            self._file = str(named[0])
        self._hosts = asyncssh.read_known_hosts([str(file) for file in files if file.is_file()])
        self._known = list(self._hosts.match(self.host, "", None if self.port == 22 else self.port)[0])
        self.loaded = True
        return self._hosts

    def offer(self, host: str, addr: str, port: int, key: Any) -> None:
        """Note the key of a server that is not among the known hosts."""
        self._offered = key
        self._known = list(self._hosts.match(host, addr, None if port == 22 else port)[0])

    def refusal(self, where: str) -> DeviceError | None:
        """Why the server's key is refused; None if it was not the key."""
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        file = self._file or _DEFAULT
        quoted = file if file == _DEFAULT else shlex.quote(file)
        add = f"ssh-keyscan -p {self.port} {self.host} >> {quoted}"
        if self._via:  # only ssh itself goes through a jump host
            add = f"ssh -o UserKnownHostsFile={quoted} -J {self._via} {self.target}"
        if self._offered is None:
            return None
        found = self._offered.get_fingerprint()
        if self._known:
            return DeviceError(
                f"the host key of {where} has changed: it is {found}, {file} has {self._known[0].get_fingerprint()} for {name}",
                hint=f"somebody may answer in its place; if the board was set up anew, run: ssh-keygen -R {shlex.quote(name)} "
                f"-f {quoted}; {add}",
            )
        return DeviceError(
            f"the host key of {where} is unknown: it is {found}, {file} has none for {name}",
            hint=f"compare it with `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` on the board, then run: {add}",
        )
