"""Where frames come from and results go, in one line of text: `camera:0`, `csv:imu.csv?rate=50`, `rtsp://host/stream`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from edgewright.errors import UsageError

__all__ = ["Address", "flag", "one_of", "parse_address", "positive", "whole"]

_BY_SUFFIX = {
    **dict.fromkeys((".mp4", ".mkv", ".avi", ".mov", ".ts", ".webm", ".m4v", ".mpg"), "file"),
    **{".csv": "csv", ".jsonl": "jsonl", ".svg": "timeline"},
}
_SECURE = {"https": "http", "rtsps": "rtsp", "mqtts": "mqtt"}
"""Schemes with TLS, and the plug-in that has them."""
_FILES = ("file", "images", "csv", "jsonl", "video", "timeline")
_WHOLE = ("rtsp", "http")
"""Schemes whose address is a URL as a whole: its query is the server's, ours stands behind '#'."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address in its parts.

    Args:
        scheme: the plug-in's name.
        target: what it opens: a path, a port, a URL.
        settings: what was written behind "?", or behind "#" for rtsp and http.
        text: as it was written but for passwords, for messages.
    """

    scheme: str
    target: str
    settings: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def label(self) -> str:
        """A short name for tables and messages: a file's own name, a URL without user, password and settings."""
        if "//" in self.target:
            scheme, _, rest = self.text.partition("//")
            return f"{scheme}//{rest.partition('#')[0].partition('?')[0].rpartition('@')[2]}"
        if self.scheme in _FILES:
            return Path(self.target).name or self.text
        return f"{self.scheme}:{self.target}" if self.text != "-" else self.scheme

    @property
    def path(self) -> Path | None:
        """The file or folder that it names; None where it names none."""
        return Path(self.target) if self.scheme in _FILES else None

    @property
    def secure(self) -> bool:
        """Whether the scheme that was written is one with TLS, for example mqtts."""
        return self.text.partition(":")[0] in _SECURE

    def options(self, **known: Callable[[str], Any]) -> dict[str, Any]:
        """The settings that were given, converted.

        Args:
            known: a converter for each setting that there is; `flag` reads yes and no.

        Raises:
            UsageError: a setting is unknown or cannot be converted; the message names the known ones.
        """
        values: dict[str, Any] = {}
        for name, text in self.settings.items():
            if name not in known:
                raise UsageError(
                    f"'{self.text}' has the setting '{name}', {self.scheme} has none of that name",
                    hint=f"known: {', '.join(known) or 'none'}",
                )
            try:
                values[name] = known[name](text)
            except ValueError as error:
                raise UsageError(f"'{self.text}': {name} is '{text}' ({error})") from error
        return values


def flag(text: str) -> bool:
    """Yes or no, as people write it.

    Raises:
        ValueError: it is neither.
    """
    known = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
    if text.lower() not in known:
        raise ValueError("write yes or no")
    return known[text.lower()]


def positive(text: str) -> float:
    """A number above 0.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("a number above 0 is needed")
    return value


def whole(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """Reads whole numbers in a range, and raises ValueError for others."""

    def read(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            raise ValueError(f"a whole number from {least}{' up' if most is None else f' to {most}'} is needed")
        return value

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Reads one of some words, and raises ValueError for others."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"write {' or '.join(words)}")
        return text

    return read


def parse_address(text: str) -> Address:
    """An address from text; a bare path is a folder of images, a video, a CSV file or the like, by what it is called.

    Raises:
        UsageError: it has no scheme and nothing tells what it is.
    """
    secret = re.sub(r"((?:^|[?&#])password=)[^&#]*", r"\1***", re.sub(r"//[^/@]*@", "//***@", text))
    if text == "-":
        return Address("stdin", "-", {}, text)
    if found := re.fullmatch(r"([a-z][a-z0-9_]+):(.*)", text, re.DOTALL):
        scheme, rest = _SECURE.get(found[1], found[1]), found[2]
        if scheme in _WHOLE:
            target, _, settings = text.partition("#")
        else:
            target, _, settings = rest.partition("?") if scheme != "gstreamer" else (rest, "", "")
        return Address(scheme, target, _settings(settings, secret), secret)
    path, _, settings = text.partition("?")
    scheme = "images" if Path(path).is_dir() else _BY_SUFFIX.get(Path(path).suffix.lower(), "")
    if not scheme:
        raise UsageError(f"'{text}' does not say what it is", hint="write a scheme before it, for example file:, csv: or camera:")
    return Address(scheme, path, _settings(settings, secret), secret)


def _settings(text: str, whole: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        return dict(parse_qsl(text, keep_blank_values=True, strict_parsing=True))
    except ValueError as error:
        raise UsageError(f"the settings of '{whole}' are not written as name=value&name=value") from error
