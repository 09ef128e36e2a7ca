"""Changes to a profile's TOML that leave its comments and its order as they are."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgewright.devices.board_text import KEYS, LIMITS, LISTS, near, read_toml
from edgewright.devices.boards import boards_folder, parse_board
from edgewright.errors import UsageError

__all__ = ["Edit", "edit_by_hand", "edited", "parse_changes"]

Key = tuple[str, ...]
"""A key: ("address",), ("limits", "ram")."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]\s*(?:#.*)?$")
_VALUE = r"\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|\[[^\]\n]*\]|[^\s#\"'\[{]+"


@dataclass(frozen=True, slots=True)
class Edit:
    """A changed profile.

    Args:
        text: its TOML.
        kept: comments and order are as they were; False where the file had to be written anew.
    """

    text: str
    kept: bool


def parse_changes(assignments: Iterable[str], removed: Iterable[str] = ()) -> dict[Key, Any]:
    """Values by key from `key=value` texts, and None for each key that is to go.

    Lists are written as TOML or with commas, all else as plain text: `limits.ram=2 GiB`, `engines=litert,openvino`.

    Raises:
        UsageError: a text is of another form, names a key that profiles do not have, or one that another text names too.
    """
    found: dict[Key, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text} is not of the form KEY=VALUE", hint='write for example --set limits.ram="2 GiB"')
        path = _path(key.strip(), "--set")
        parsed = _value(path, value.strip())
        if path in found:
            raise UsageError(f"--set sets {key.strip()} twice, to {found[path]!r} and to {parsed!r}", hint="give it once")
        found[path] = parsed
    for text in removed:
        path = _path(text.strip(), "--unset")
        if path in found:
            raise UsageError(
                f"{text.strip()} is named twice, to be set and to be unset, or to be unset twice", hint="give it once"
            )
        found[path] = None
    return found


def _path(key: str, flag: str) -> Key:
    path = tuple(part.strip() for part in key.split(".", 1))
    tables = [*(f"limits.{name}" for name in LIMITS), "options.NAME"]
    known = [name for name in KEYS if name not in ("schema", "limits", "options")]
    good = path[0] == "options" or path in [("limits", name) for name in LIMITS] if len(path) == 2 else path[0] in known
    if not good or not path[-1]:
        raise UsageError(
            f"{flag} names '{key}', which profiles do not have",
            hint=f"{near(key, [*known, *tables])}known: {', '.join([*known, *tables])}",
        )
    return path


def _value(path: Key, text: str) -> Any:
    """A value as TOML has it; quotes and brackets of TOML are understood, and not needed."""
    if len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("'", "'"), ("[", "]")}:
        data = read_toml(f"value = {text}", f"--set {'.'.join(path)}={text}")
        if list(data) == ["value"]:
            return data["value"]
    if path[0] in LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    return int(text) if path[0] == "limits" and re.fullmatch(r"[0-9]{1,18}", text) else text


def edited(text: str, changes: Mapping[Key, Any], source: str) -> Edit:
    """The text with keys set to values, or without those whose value is None.

    Lines are changed one by one; what comes out is read again, and if it does not say exactly what it should (a value over
    several lines, a dotted key), the file is written anew, without its comments.

    Raises:
        UsageError: the text is no valid TOML.
    """
    wanted = read_toml(text, source)
    for path, value in changes.items():
        _change(wanted, path, value)
    lines = text.splitlines()
    for path, value in changes.items():
        lines = _unset(lines, path) if value is None else _set(lines, path, value)
    changed = "\n".join(lines) + "\n" if lines else ""
    try:
        if read_toml(changed, source) == wanted:
            return Edit(changed, kept=True)
    except UsageError:
        pass  # a line that only looked like the key's
    return Edit(_written(wanted), kept=not any(line.lstrip().startswith("#") or " #" in line for line in text.splitlines()))


def _change(data: dict[str, Any], path: Key, value: Any) -> None:
    table = data
    if len(path) == 2:
        table = data.setdefault(path[0], {}) if value is not None else data.get(path[0], {})
        if not isinstance(table, dict):
            return  # the checks of the whole will tell
    if value is None:
        table.pop(path[-1], None)
    else:
        table[path[-1]] = value


def _set(lines: list[str], path: Key, value: Any) -> list[str]:
    found = _line_of(lines, path)
    if found is not None:
        number, line = found
        return [*lines[:number], f"{line[1]}{_toml(value)}{line[3]}", *lines[number + 1 :]]
    begin, end = _section(lines, path[0] if len(path) == 2 else "")
    new = f"{_key(path[-1])} = {_toml(value)}"
    if begin is None:
        return [*lines, *([""] if lines and lines[-1].strip() else []), f"[{path[0]}]", new]
    while end > begin and not lines[end - 1].strip():
        end -= 1
    return [*lines[:end], new, *lines[end:]]


def _unset(lines: list[str], path: Key) -> list[str]:
    found = _line_of(lines, path)
    return lines if found is None else [*lines[: found[0]], *lines[found[0] + 1 :]]


def _line_of(lines: list[str], path: Key) -> tuple[int, re.Match[str]] | None:
    """The line that sets a key to a value of one line, in three parts: up to the value, the value, what is behind it."""
    begin, end = _section(lines, path[0] if len(path) == 2 else "")
    key = re.escape(_key(path[-1]))
    for number in range(end if begin is None else begin, end):
        if found := re.fullmatch(rf"(\s*{key}\s*=\s*)({_VALUE})(\s*(?:#.*)?)", lines[number]):
            return number, found
    return None


def _section(lines: list[str], table: str) -> tuple[int | None, int]:
    """Where a table's lines begin and end; comments in front of the next table belong to that. None if there is no such table."""
    begin: int | None = None if table else 0
    for number, line in enumerate(lines):
        if not (header := _HEADER.match(line)):
            continue
        if begin is not None:
            while number > begin and lines[number - 1].lstrip().startswith("#"):
                number -= 1
            return begin, number
        if header[1] == table:
            begin = number + 1
    return begin, len(lines)


def _written(data: Mapping[str, Any]) -> str:
    """A profile's data as TOML."""
    plain = [f"{_key(key)} = {_toml(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for name, table in data.items():
        if isinstance(table, dict):
            plain += ["", f"[{_key(name)}]", *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(plain).lstrip("\n") + "\n"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _toml(name)


def _toml(value: Any) -> str:
    """A value as TOML; the escapes of JSON's strings are TOML's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)


def edit_by_hand(name: str, text: str) -> str:
    """Open a profile's text in the user's editor, and give what it has become once that is a valid profile.

    What is no valid profile is kept beside the boards as NAME.rejected, so that no work is lost; the board stays as it was.

    Raises:
        UsageError: no editor is named, it cannot be started or fails, or what was written is no valid profile.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    file = boards_folder() / f"{name}.toml"
    if not editor.strip():
        raise UsageError("no editor is named", hint=f"set EDITOR, use --set KEY=VALUE, or edit {file} yourself")
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        copy = pathlib.Path(folder) / file.name
        copy.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(copy)], check=False).returncode
            changed = copy.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the editor '{editor}' cannot be used: {error}", hint="set EDITOR, or use --set KEY=VALUE"
            ) from error
        if code:
            raise UsageError(f"the editor '{editor}' ended with code {code}: {file} stays as it was", hint="edit it again")
    try:
        parse_board(name, changed, str(file), file=file)
    except UsageError as error:
        rejected, kept = file.with_suffix(".rejected"), ""
        with suppress(OSError):
            rejected.write_text(changed, encoding="utf-8")
            kept = f"; what you wrote is kept in {rejected}"
        raise UsageError(f"{error.message}; the board stays as it was", hint=f"{error.hint}{kept}") from error
    return changed
