"""Whether a board has room for what is to be pushed, and how far the pushing is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.errors import DeviceError

if TYPE_CHECKING:
    from edgewright.devices.boards import Board

__all__ = ["Progress", "Shares", "space_check"]

Progress = Callable[[float, str], None]

ROOM_BYTES = 16 << 20
"""Space that is left free on a board whatever is pushed there."""


class Shares:
    """Progress over several files, of which each alone tells its own share.

    Args:
        progress: gets a share of all and a text; None for nobody.
        total_bytes: of all files.
    """

    def __init__(self, progress: Progress | None, total_bytes: int) -> None:
        self._progress = progress
        self._total = max(total_bytes, 1)
        self._before = self._size = 0

    def next(self, file: Path) -> Callable[[float], None]:
        """What the next file's share is to be told to."""
        self._before += self._size
        self._size = file.stat().st_size
        before, size = self._before, self._size

        def tell(share: float) -> None:
            if self._progress:
                self._progress((before + share * size) / self._total, f"pushing {file.name}")

        return tell

    def text(self, text: str) -> None:
        """Tell another text, when all that was begun is there."""
        if self._progress:
            self._progress((self._before + self._size) / self._total, text)


def space_check(board: Board, survey: Mapping[str, Any], need_bytes: int, what: str) -> None:
    """Refuse to push what the board has no space for.

    Args:
        board: its `flash_bytes` limits our whole folder.
        survey: answer of `Device.survey`.
        need_bytes: what is about to be written.
        what: its name in the message.

    Raises:
        DeviceError: free space, or what is left of the limit, is less; both values are named.
    """
    free, used = int(survey["free_bytes"]), int(survey["used_bytes"])
    if need_bytes + ROOM_BYTES > free:
        raise DeviceError(
            f"{what} needs {_mib(need_bytes)} on {board.name} and {_mib(ROOM_BYTES)} are to stay free, only {_mib(free)} are",
            hint=f"free space where {board.folder} lies, or name another folder in the board's profile",
        )
    if board.flash_bytes is not None and used + need_bytes > board.flash_bytes:
        raise DeviceError(
            f"{what} needs {_mib(need_bytes)} on {board.name}, {_mib(max(0, board.flash_bytes - used))} are left of the "
            f"{_mib(board.flash_bytes)} that its profile allows",
            hint="raise flash in the board's profile, remove old models there, or deploy with a smaller --keep",
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
