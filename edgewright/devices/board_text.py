"""The TOML of a board's profile: read and checked key by key."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.metadata import entry_points
from typing import Any

from edgewright.errors import UsageError

__all__ = ["KEYS", "LIMITS", "LISTS", "near", "parse_size", "read_profile", "read_toml"]

SCHEMA = 1

_TEXTS = ("title", "architecture", "transport", "address", "python", "folder", "governor")
LISTS = ("engines", "meters")
LIMITS = ("ram", "flash")
KEYS = ("schema", "extends", *_TEXTS, *LISTS, "limits", "options")
"""What may stand in a profile; `limits` and `options` are tables."""

ARCHITECTURES = ("aarch64", "armv7l", "armv6l", "x86_64", "i686", "riscv64", "ppc64le", "s390x", "loongarch64")
"""As Linux names them."""

_SYNONYMS = {"arm64": "aarch64", "armv8": "aarch64", "armhf": "armv7l", "armv7": "armv7l", "amd64": "x86_64", "x64": "x86_64"}

_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?) *([A-Za-z]+)", re.ASCII)
_UNITS = {
    **{"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40},
}


def read_profile(text: str, source: str, *, plugins: bool = True) -> tuple[str | None, dict[str, Any]]:
    """What a profile extends, and what it says itself, as fields of `Board`.

    Args:
        text: the TOML.
        source: what messages call it.
        plugins: check that its transport, engines and meters exist.

    Returns:
        The profile that it extends, None if it stands alone; the fields that it sets, and "options" in any case.

    Raises:
        UsageError: it is no valid TOML, has a key that profiles do not have, or a value that cannot be; file and key are named.
    """
    data = read_toml(text, source)
    _refuse_unknown(data, KEYS, source)
    schema = data.get("schema", SCHEMA)
    if type(schema) is not int or schema != SCHEMA:
        raise UsageError(
            f"{source} is written in schema {schema!r}, this Edgewright reads schema {SCHEMA}",
            hint="upgrade Edgewright" if type(schema) is int and schema > SCHEMA else f"write schema = {SCHEMA}",
        )
    extends = data.get("extends")
    if extends is not None and not isinstance(extends, str):
        raise UsageError(
            f"{source}: 'extends' is {extends!r}, a profile's name is expected",
            hint='write for example extends = "raspberry_pi_5"',
        )
    own = _values(data, source)
    for kind, folder in _PLUGINS.items() if plugins else ():
        for item in own.get(kind, ()) if kind != "transport" else filter(None, [own.get(kind)]):
            _require_plugin(item.partition(":")[0] if kind == "meters" else item, kind.removesuffix("s"), folder, source)
    return extends, own


_PLUGINS = {"transport": ("devices", "transports"), "engines": ("runtime", "engines"), "meters": ("benchmarks", "meters")}
"""Where the plug-ins that a profile names are: only their file names are looked at, their packages are not imported."""


def _values(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What a profile says, as fields of `Board`; what it leaves out is left out, but for the options."""
    own: dict[str, Any] = {}
    for key in _TEXTS:
        if key in data:
            own[key] = _text(data[key], key, source)
    for key in LISTS:
        if key in data:
            own[key] = _names(data[key], key, source)
    limits = _table(data, "limits", source)
    _refuse_unknown(limits, LIMITS, f"{source}: [limits]")
    for key, value in limits.items():
        own[f"{key}_bytes"] = parse_size(value, f"{source}: limits.{key}")
    own["options"] = {key: _option(value, f"{source}: options.{key}") for key, value in _table(data, "options", source).items()}
    return own


def _text(value: object, key: str, source: str) -> str:
    """The text of one key, checked for what can stand there."""
    if not isinstance(value, str):
        raise UsageError(
            f"{source}: '{key}' is {value!r}, a text is expected", hint=f'write for example {key} = "{_EXAMPLES[key]}"'
        )
    if not value.isprintable() or value != value.strip():
        raise UsageError(f"{source}: '{key}' is {value!r}, it must have no control characters and no spaces at its ends")
    why = ""
    if key == "architecture" and value not in ("", *ARCHITECTURES):
        same = _SYNONYMS.get(value.lower())
        meant = f"did you mean {same}? " if same else near(value, ARCHITECTURES)
        raise UsageError(
            f"{source}: 'architecture' is '{value}', which Linux does not call any",
            hint=f'{meant}known: {", ".join(ARCHITECTURES)}; "" for any',
        )
    if key == "transport" and not value:
        why = "a transport's name is expected"
    elif key == "address" and (value.startswith("-") or " " in value):
        why = "an address has no spaces and does not begin with '-'"
    elif key == "folder" and not re.fullmatch(r"~?(/+[^/].*)", value):
        why = "a folder that begins with / or ~/ is expected"
    elif key == "python" and not _is_command(value):
        why = "a command is expected"
    elif key == "governor" and value and not re.fullmatch(r"[a-z_]+", value):
        why = "a governor's name is expected"
    if why:
        raise UsageError(f"{source}: '{key}' is '{value}', {why}", hint=f'write for example {key} = "{_EXAMPLES[key]}"')
    return value


_EXAMPLES = {
    "title": "Raspberry Pi 5",
    "architecture": "aarch64",
    "transport": "ssh",
    "address": "pi@192.168.1.20",
    "python": "python3",
    "folder": "~/.edgewright",
    "governor": "performance",
    "engines": '["litert"]',
    "meters": '["hwmon"]',
}


def _is_command(text: str) -> bool:
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    return bool(words) and not words[0].startswith("-")


def _names(value: object, key: str, source: str) -> tuple[str, ...]:
    """The names of engines or meters; a meter may have its option behind a colon."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(
            f"{source}: '{key}' is {value!r}, a list of names is expected", hint=f"write for example {key} = {_EXAMPLES[key]}"
        )
    return tuple(dict.fromkeys(value))


def _require_plugin(name: str, kind: str, folder: tuple[str, str], source: str) -> None:
    """Refuse the name of a plug-in that there is not, without importing any: engines and meters belong to other packages."""
    places = resources.files("edgewright").joinpath(folder[0]).joinpath(folder[1])
    known = {file.name.removesuffix(".py") for file in places.iterdir() if file.name.endswith(".py") and file.name[0] != "_"}
    if name in known or name in (known := known | {point.name for point in entry_points(group=f"edgewright.{kind}s")}):
        return
    raise UsageError(f"{source}: there is no {kind} '{name}'", hint=f"{near(name, known)}known: {', '.join(sorted(known))}")


def _table(data: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"{source}: '{key}' is {table!r}, a table is expected", hint=f"write [{key}] and its keys below")
    return table


def _option(value: object, where: str) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).isprintable():
        return str(value)
    raise UsageError(f"{where} is {value!r}, a text or a number is expected")


def parse_size(value: object, where: str) -> int | None:
    """Bytes from "4 GiB", "512 MB" or a whole number; None from an empty text, which takes an inherited limit away.

    Args:
        value: of the TOML.
        where: what messages call it.

    Raises:
        UsageError: it is no size.
    """
    if value == "":
        return None
    size = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())) and found[2] in _UNITS:
        size = round(float(found[1]) * _UNITS[found[2]])
    if size < 1:
        raise UsageError(
            f"{where} is {value!r}, which is no size",
            hint='write for example "4 GiB" or "512 MB"; units: ' + ", ".join(_UNITS),
        )
    return size


def _refuse_unknown(data: Mapping[str, Any], known: tuple[str, ...], source: str) -> None:
    for key in data:
        if key not in known:
            raise UsageError(
                f"{source} has '{key}', which profiles do not have", hint=f"{near(key, known)}known: {', '.join(known)}"
            )


def near(word: str, known: Iterable[str]) -> str:
    """The question whether the nearest of the known words was meant, for the front of a hint; empty if none is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {found[0]}? " if found else ""


def read_toml(text: str, source: str) -> dict[str, Any]:
    """The data of a TOML text.

    Raises:
        UsageError: it is none.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # of TOML itself, or of a number or nesting that Python refuses
        raise UsageError(
            f"{source} is no valid TOML: {error}", hint="'edgewright devices show raspberry_pi_5' prints a whole one"
        ) from error
