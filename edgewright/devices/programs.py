"""Stand-alone programs for a board's Python, and how their answers and failures are read."""

from __future__ import annotations

import base64
import functools
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.errors import DeviceError

if TYPE_CHECKING:
    from edgewright.devices.boards import Board
    from edgewright.devices.running import Completed

__all__ = ["board_failure", "last_json", "packed"]


@functools.cache
def packed(name: str) -> str:
    """A program for `python -c` that is one of our stand-alone modules: short, and without anything that a shell would touch."""
    source = Path(__file__).with_name(f"{name}.py").read_bytes()
    text = base64.b64encode(zlib.compress(source, 9)).decode()
    return f'import sys;sys.path[:]=filter(None,sys.path);import base64,zlib;exec(zlib.decompress(base64.b64decode("{text}")))'


def last_json(text: str) -> dict[str, Any] | None:
    """The last JSON object in an output, which may have other lines before and behind it; None if there is none."""
    decoder = json.JSONDecoder()
    starts = [0, *(index + 1 for index, char in enumerate(text) if char == "\n")]
    for start in reversed(starts):
        if text[start : start + 1] == "{":
            with suppress(ValueError):
                found = decoder.raw_decode(text, start)[0]
                return dict(found)
    return None


def board_failure(board: Board, done: Completed, doing: str) -> DeviceError:
    """The error of a command that failed on a board, in its own words: its `error:` and `hint:` lines, or the last line."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    if said:
        return DeviceError(f"{board.name}: {said[-1]}", hint=hints[-1] if hints else "")
    last = (lines or [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["it said nothing"])[-1]
    if done.code == 127:
        return DeviceError(
            f"{board.name} cannot {doing}: {last} (exit code 127)",
            hint=f"install Python 3.10 or newer there, or name it as python in the board's profile (it is '{board.python}')",
        )
    return DeviceError(
        f"{board.name} cannot {doing}: {last[:300]} (exit code {done.code})",
        hint=f"see whether folder and python are right in its profile: edgewright devices show {board.name}",
    )
