"""Boards as TOML profiles: those that are shipped, and the user's own in the config folder."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from edgewright.artifact import write_atomic
from edgewright.devices.board_text import near, read_profile
from edgewright.errors import ArtifactError, DeviceError, PluginError, UsageError

__all__ = [
    "LOCAL",
    "Board",
    "board_files",
    "board_names",
    "boards_folder",
    "find_board",
    "heirs_of",
    "own_text",
    "parse_board",
    "read_board",
    "remove_board",
    "require_name",
    "save_board",
    "shipped_boards",
    "shipped_names",
    "user_boards",
]

LOCAL = "local"
"""The board that is always there: this machine."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Board:
    """One device: how to reach it, what runs there, what it can measure, how much room it has.

    Args:
        name: the file's stem; what `--device` takes.
        title: what people call it, "Raspberry Pi 5".
        architecture: as Linux names it, "aarch64", "x86_64", "armv7l"; empty for any.
        transport: name of the transport, "local", "ssh", "adb", "fake".
        address: ssh: "user@host:port"; adb: the serial number, empty for the only device; local: empty.
        python: the interpreter there; may be a command of several words.
        folder: our folder there; "~" is the board's home.
        engines: inference engines in order of preference.
        meters: power meters in order of preference.
        governor: cpufreq governor that a benchmark wants, "performance"; empty leaves it as it is.
        ram_bytes: memory; None if the profile does not tell.
        flash_bytes: what our folder may take there; None sets no limit.
        options: of the transport.
        file: where it was read from; None for the built-in "local".
    """

    name: str
    title: str
    architecture: str
    transport: str
    address: str = ""
    python: str = "python3"
    folder: str = "~/.edgewright"
    engines: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    governor: str = ""
    ram_bytes: int | None = None
    flash_bytes: int | None = None
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    file: Path | None = None

    @property
    def needs_address(self) -> bool:
        """Whether it cannot be reached before somebody says where it is."""
        return self.transport == "ssh" and not self.address

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "architecture": self.architecture,
            "transport": self.transport,
            "address": self.address,
            "python": self.python,
            "folder": self.folder,
            "engines": list(self.engines),
            "meters": list(self.meters),
            "governor": self.governor,
            "ram_bytes": self.ram_bytes,
            "flash_bytes": self.flash_bytes,
            "options": dict(self.options),
            "file": str(self.file) if self.file else None,
        }


def boards_folder() -> Path:
    """Where the user's own profiles are: `$XDG_CONFIG_HOME/edgewright/boards`, by default below `~/.config`.

    Raises:
        UsageError: there is no home folder.
    """
    try:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError as error:
        raise UsageError(
            "there is no home folder to look for boards in", hint="name a config folder in XDG_CONFIG_HOME"
        ) from error
    return home / "edgewright" / "boards"


def shipped_names() -> list[str]:
    """Names of the shipped profiles, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def board_files() -> dict[str, Path]:
    """The user's own profiles by name, sorted; none of them is read. Hidden files are none: editors leave such behind."""
    try:
        files = sorted(boards_folder().glob("*.toml"))
    except (OSError, UsageError):  # no folder, or no home to look for it in
        return {}
    return {file.stem: file for file in files if not file.name.startswith(".")}


def board_names() -> list[str]:
    """Names of all boards: "local", the user's own, the shipped ones."""
    return list(dict.fromkeys([LOCAL, *board_files(), *shipped_names()]))


def shipped_boards() -> tuple[Board, ...]:
    """The shipped profiles, sorted by name."""
    return tuple(_shipped_board(name) for name in shipped_names())


def user_boards() -> tuple[Board, ...]:
    """The user's own boards, sorted by name.

    Raises:
        UsageError: one of the files is no valid profile.
    """
    return tuple(read_board(name) for name in board_files())


def find_board(name: str) -> Board:
    """A board that can be reached: the user's own of this name, else the shipped profile; "local" is this machine.

    Raises:
        UsageError: there is none of this name, its file is no valid profile, or nothing says where it is.
    """
    board = read_board(name)
    if board.needs_address:
        if name in board_files():
            hint = f"edgewright devices edit {name} --set address=USER@HOST"
        else:
            hint = f"edgewright devices add MY_BOARD --profile {name} --address USER@HOST, then use MY_BOARD"
        raise UsageError(f"the profile '{name}' says nothing about where the board is", hint=hint)
    return board


def read_board(name: str) -> Board:
    """As `find_board`, but a profile without an address will do.

    Raises:
        UsageError: there is none of this name, or its file is no valid profile.
    """
    return _read(name, ())


def _read(name: str, heirs: tuple[str, ...]) -> Board:
    """A board; `heirs` are those that extend it, the last one directly."""
    if name == LOCAL:
        return _local()
    own = board_files()
    if name in own and name not in heirs:
        return parse_board(name, own_text(name), str(own[name]), file=own[name], heirs=heirs)
    if name in shipped_names():
        return _shipped_board(name)
    if name in heirs:
        raise UsageError(
            f"the profile '{name}' extends itself: {' -> '.join((*heirs, name))}",
            hint=f"extend one of {', '.join(shipped_names())}",
        )
    raise UsageError(
        f"there is no board '{name}'",
        hint=f"{near(name, board_names())}known: {', '.join(board_names())}; add one with 'edgewright devices add {name} ...'",
    )


def _local() -> Board:
    """This machine, run by this very interpreter."""
    return Board(LOCAL, "this machine", "", LOCAL, python=shlex.quote(sys.executable or "python3"))


def _shipped_board(name: str) -> Board:
    file = _shipped().joinpath(f"{name}.toml")
    return parse_board(name, file.read_text(encoding="utf-8"), f"{name}.toml", file=Path(str(file)))


def _shipped() -> Any:
    return resources.files("edgewright").joinpath("devices").joinpath("boards")


def require_name(name: str) -> None:
    """Refuse a name that no board of the user's own can have.

    Raises:
        UsageError: it is "local", or not of letters, digits and "_.-".
    """
    if name == LOCAL:
        raise UsageError("'local' is always this machine, no other board can have that name", hint="choose another name")
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name for a board", hint="use letters, digits, '_', '.' and '-', for example pi5")


def parse_board(name: str, text: str, source: str, *, file: Path | None = None, heirs: tuple[str, ...] = ()) -> Board:
    """A board from the TOML text of its profile.

    Args:
        name: the file's stem.
        text: the TOML.
        source: what messages call it.
        file: where it was read from.
        heirs: names of profiles that extend this one.

    Raises:
        UsageError: it is no valid TOML, has a key that profiles do not have, or a value that cannot be; file and key are named.
    """
    require_name(name)
    extends, own = read_profile(text, source, plugins=file is None or file.parent != Path(str(_shipped())))
    if extends is not None:
        base = _base(extends, source, (*heirs, name))
    elif "transport" in own:
        base = Board(name, name, "", own["transport"])
    else:
        raise UsageError(
            f"{source} has neither 'extends' nor 'transport'",
            hint=f'write extends = "PROFILE" with one of {", ".join(shipped_names())}; or transport = "ssh"',
        )
    if own.get("transport", base.transport) == base.transport:  # options of another transport mean nothing to this one
        own["options"] = {**base.options, **own["options"]}
    board = replace(base, name=name, file=file, **own)
    if board.options or board.address:
        _require_transport(board, source)
    return board


def _require_transport(board: Board, source: str) -> None:
    """Refuse options that the board's transport does not take, and an address that is none to it."""
    from edgewright.devices.transport import TRANSPORTS

    try:
        transport = TRANSPORTS.get(board.transport)
        known = list(transport.options)
    except (PluginError, ImportError):  # told when it is to be used
        return
    if board.address:
        try:
            transport.check_address(board.address)
        except DeviceError as error:
            raise UsageError(f"{source}: {error.message}", hint=error.hint) from error
    for key in board.options:
        if key not in known:
            raise UsageError(
                f"{source} has options.{key}, which the transport '{board.transport}' does not know",
                hint=f"{near(key, known)}known: {', '.join(known) or 'none'}",
            )


def _base(extends: str, source: str, heirs: tuple[str, ...]) -> Board:
    known = [*shipped_names(), *board_files()]
    if extends not in (LOCAL, *known):
        raise UsageError(
            f"{source} extends '{extends}', which is no profile", hint=f"{near(extends, known)}known: {', '.join(known)}"
        )
    return _read(extends, heirs)


def own_text(name: str) -> str:
    """The text of the user's own profile of this name.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    file = board_files().get(name)
    if file is None:
        own = ", ".join(board_files()) or "none"
        if name in (LOCAL, *shipped_names()):
            hint = f"make one of your own from it: edgewright devices add MY_BOARD --profile {name}"
            raise UsageError(f"'{name}' is shipped with Edgewright and no board of your own", hint=hint)
        raise UsageError(f"there is no board '{name}' of your own", hint=f"{near(name, board_files())}your own boards: {own}")
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="check its rights") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8: {error.reason}", hint="save it as UTF-8") from error


def save_board(name: str, text: str, *, new: bool = False) -> Board:
    """Check a profile's text and keep it as the user's own board; the file is there whole or not at all.

    Args:
        name: of the board.
        text: the TOML.
        new: refuse a name that the user has already given.

    Raises:
        UsageError: the text is no valid profile, the name cannot be or is taken, or the file cannot be written.
    """
    file = boards_folder() / f"{name}.toml"
    require_name(name)
    if new and name in board_files():
        raise UsageError(
            f"there is a board '{name}' already, in {file}",
            hint=f"edgewright devices edit {name} changes it, or choose another name",
        )
    board = parse_board(name, text, str(file), file=file)
    try:
        write_atomic(file.resolve(), text.encode())  # a link into somebody's dotfiles stays one
    except ArtifactError as error:
        raise UsageError(
            error.message, hint="check its rights and free space, or name another config folder in XDG_CONFIG_HOME"
        ) from error
    return board


def remove_board(name: str) -> Path:
    """Remove a board of the user's own; returns the file that was.

    Raises:
        UsageError: there is none of this name, another one extends it, or the file cannot be removed.
    """
    if name not in board_files():
        own_text(name)
    if heirs := heirs_of(name):
        raise UsageError(
            f"the board '{name}' is extended by {', '.join(heirs)}", hint="remove these first, or let them extend another"
        )
    file = board_files()[name]
    try:
        file.unlink()
    except OSError as error:
        raise UsageError(f"{file} cannot be removed: {error.strerror}", hint="check its rights") from error
    return file


def heirs_of(name: str) -> list[str]:
    """The user's other boards that extend this one; what cannot be read extends nothing."""
    found = []
    for other in board_files():
        with suppress(UsageError):
            if other != name and name not in shipped_names() and read_profile(own_text(other), other, plugins=False)[0] == name:
                found.append(other)
    return found
