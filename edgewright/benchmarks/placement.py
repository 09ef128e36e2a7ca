"""How much of a model runs in a delegate or on a device, and the check that it is as much as was expected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgewright.errors import PlacementError, UsageError
from edgewright.runtime import Session

__all__ = ["Expectation", "check", "parse_expectation", "record"]

DELEGATE = "delegate"
"""Name in an expectation that any delegate or accelerator fulfils."""

_LISTED = 12
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Expectation:
    """What part of a model's multiply-adds is expected to run where.

    Args:
        where: "delegate" for any delegate or accelerator, else a part of a device's name in any case: "xnnpack", "NPU".
        share: between 0 and 1.
    """

    where: str
    share: float

    def __str__(self) -> str:
        return f"{self.where}>={100 * self.share:g}%"

    def meets(self, op: Mapping[str, Any]) -> bool:
        """Whether an op of `record` runs there."""
        return bool(op["delegate"]) if self.where == DELEGATE else self.where.lower() in str(op["device"]).lower()


def parse_expectation(text: str) -> Expectation:
    """An expectation from a command line, for example "delegate>=95%", "xnnpack>=95%", "NPU>=90%".

    Raises:
        UsageError: the text is of another form, or the share is no percentage between 0 and 100.
    """
    found = re.fullmatch(r"\s*([^<>=%]*[^<>=%\s])\s*>=\s*([0-9.]+)\s*%\s*", text)
    hint = "write for example delegate>=95%, xnnpack>=95% or NPU>=90%, in quotes: it has a > in it"
    if found is None:
        raise UsageError(f"'{text}' is no expectation of where a model runs", hint)
    try:
        share = float(found[2]) / 100
    except ValueError as error:
        raise UsageError(f"'{text}' expects {found[2]} %, which is no number", hint) from error
    if not 0 <= share <= 1:
        raise UsageError(f"'{text}' expects {found[2]} %, a share is between 0 and 100 %", hint)
    where = found[1].strip()
    return Expectation(DELEGATE if where.lower() == DELEGATE else where, share)


def record(session: Session) -> dict[str, Any]:
    """Where the ops of a model run.

    Args:
        session: the model.

    Returns:
        JSON values. `ops`: fields of `PlacedOp`; `note`; `count` of ops; `macs` of one sample, those of ops without a count
        left out; `delegate`: `ops`, `macs` and `macs_share` of what a delegate or accelerator took; `devices`: the same by
        `device`, largest first. `macs_share` is None for a model without multiply-adds.

    Raises:
        UnsupportedError: the engine does not tell; the message says why.
    """
    placed = session.placement()
    ops = [op.to_json() for op in placed.ops]
    devices = dict.fromkeys(op["device"] for op in ops)
    sums = [{"device": device, **_sum(ops, (op for op in ops if op["device"] == device))} for device in devices]
    return {
        "ops": ops,
        "note": placed.note,
        "count": len(ops),
        "macs": _macs(ops),
        "delegate": _sum(ops, (op for op in ops if op["delegate"])),
        "devices": sorted(sums, key=lambda entry: (-entry["macs"], -entry["ops"])),
    }


def _macs(ops: Iterable[Mapping[str, Any]]) -> int:
    return sum(op["macs"] or 0 for op in ops)


def _sum(every: Sequence[Mapping[str, Any]], some: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Ops and multiply-adds of some of the ops."""
    chosen, total = list(some), _macs(every)
    return {"ops": len(chosen), "macs": _macs(chosen), "macs_share": _macs(chosen) / total if total else None}


def check(placed: Mapping[str, Any], expectation: Expectation) -> None:
    """Refuse a model of which less runs where it was expected to run.

    Multiply-adds decide, the count of ops stands beside them; a model without any is judged by its count of ops.

    Args:
        placed: of `record`, or a benchmark's record that has it under "placement".
        expectation: of `parse_expectation`.

    Raises:
        PlacementError: less runs there; the message gives both shares and the ops outside with their reasons. Also if the
            engine does not tell where its ops run, or leaves out multiply-adds that could turn the result.
    """
    placed = placed.get("placement", placed)
    if "ops" not in placed:
        why = placed.get("why_absent", "there is no placement in the record")
        raise PlacementError(f"{expectation} was expected, and it is not known where the ops run: {why}")
    ops = placed["ops"]
    inside = [op for op in ops if expectation.meets(op)]
    outside = [op for op in ops if not expectation.meets(op)]
    total = _macs(ops)
    share = _macs(inside) / total if total else len(inside) / max(1, len(ops))
    where = "a delegate" if expectation.where == DELEGATE else expectation.where
    counts = f"{len(inside)} of {len(ops)} ops"
    found = f"{_percent(share)} of the multiply-adds run in {where} ({counts})" if total else f"{counts} run in {where}"
    uncounted = [op for op in outside if op["macs"] is None]
    if share >= expectation.share and not (uncounted and total):
        return
    if share >= expectation.share:
        found += f", but {len(uncounted)} ops outside have an unknown number of them"
    raise PlacementError(f"{found}, {expectation} was expected; outside: {_listing(outside, total)}", _hint(expectation, ops))


def _percent(share: float) -> str:
    """A share that never rounds up to what it falls short of."""
    return f"{int(share * 10000) / 100:g} %"


def _listing(ops: Sequence[Mapping[str, Any]], total: int) -> str:
    """Ops by reason and type, those with the most multiply-adds first."""
    reasons: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for op in ops:
        reasons.setdefault(op["reason"] or f"runs on {op['device']}", {}).setdefault(op["op"], []).append(op)
    parts, left = [], _LISTED
    for reason, kinds in sorted(reasons.items(), key=lambda item: -sum(map(_macs, item[1].values()))):
        ordered = sorted(kinds.items(), key=lambda item: (-_macs(item[1]), -len(item[1])))
        named = [_described(kind, members, total) for kind, members in ordered[:left]]
        more = sum(len(members) for _, members in ordered[left:])
        left -= len(named)
        parts.append(", ".join(named + ([f"{more} other ops"] if more else [])) + f" ({reason})")
    return "; ".join(parts)


def _described(kind: str, members: Sequence[Mapping[str, Any]], total: int) -> str:
    """Ops of one type: how many, their part of the multiply-adds, some names."""
    weight = f", {_percent(_macs(members) / total)}" if total and _macs(members) else ""
    shown = list(dict.fromkeys(_short(op["name"]) for op in members))
    names = ", ".join(f"'{name}'" for name in shown[:_NAMED]) + (" ..." if len(shown) > _NAMED else "")
    return f"{len(members)} {kind}{weight}: {names}"


def _short(name: str) -> str:
    """A name that leaves a message readable.

    Converters join the names of fused layers by ";", an activation's before the layer's, each a path under the model's
    name: the last one is taken, and of its path the end.
    """
    part = name.split(";")[-1]
    while len(part) > 48 and "/" in part:
        part = part.partition("/")[2]
    return part if len(part) <= 48 else f"...{part[-45:]}"


def _hint(expectation: Expectation, ops: Sequence[Mapping[str, Any]]) -> str:
    """What to do about it."""
    devices = " and ".join(dict.fromkeys(op["device"] or "a device that the engine does not name" for op in ops))
    if expectation.where != DELEGATE:
        return f"it ran on {devices}: name one of these, or choose an engine that has {expectation.where}"
    if not any(op["delegate"] for op in ops):
        return f"all of it ran on {devices}: choose an engine or a format with a delegate for these ops, or expect CPU>=100%"
    return (
        "convert the model so that these ops fit the delegate, for example with calibrated int8 and fixed sizes, or expect less"
    )
