"""Declarations as text and as JSON: what preprocessing, detection, windows, smoothing and fusion read alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from edgewright.errors import UsageError

__all__ = ["from_fields", "is_number", "read_number", "read_settings", "says_number"]

T = TypeVar("T")


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def says_number(text: str) -> bool:
    """Whether a text is a number, nan and inf among them."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_number(text: str, what: str, kind: type[int] | type[float]) -> int | float:
    """A number from text.

    Raises:
        UsageError: it is none.
    """
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{what} is '{text}', it must be a {'whole ' if kind is int else ''}number") from error


def read_settings(text: str, what: str, known: Iterable[str]) -> dict[str, str]:
    """Settings of `key=value,key=value`.

    Raises:
        UsageError: a key is unknown or given twice; the message names the known ones.
    """
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known or not equals:
            raise UsageError(f"{what} has no setting '{part}'", hint=f"write key=value, known: {', '.join(known)}")
        if key in given:
            raise UsageError(f"{what} sets {key} twice: '{given[key]}' and '{value}'")
        given[key] = value
    return given


def from_fields(cls: type[T], what: str, data: Mapping[str, Any]) -> T:
    """A declaration from the plain form of its fields.

    Raises:
        UsageError: a field is unknown, missing, or has an impossible value.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(known)):
        raise UsageError(
            f"{what} has unknown settings: {', '.join(unknown)}",
            hint=f"known: {', '.join(known)}; a newer Edgewright may have written them",
        )
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
    except TypeError as error:
        raise UsageError(f"{what} lacks a setting or has one of a wrong kind: {error}") from error
