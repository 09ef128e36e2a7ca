"""Memory of the process that this is called in: what is resident, its peak, and the arena that an engine plans."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewright.errors import EdgewrightError
from edgewright.runtime import Session

__all__ = ["arena", "memory_now", "reset_peak", "resident"]


def reset_peak() -> bool:
    """Have Linux count the peak of resident memory from now on; whether it does (see proc_pid_clear_refs(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def memory_now() -> dict[str, int]:
    """Resident bytes: "now" where Linux tells, "peak" also on other Unix systems."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
        return {"now": found["VmRSS"], "peak": found["VmHWM"]}
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": peak if sys.platform == "darwin" else peak * 1024}


def resident(before: Mapping[str, int], loaded: Mapping[str, int], end: Mapping[str, int], reset: bool) -> dict[str, Any]:
    """What a record tells of memory, from three readings of `memory_now`.

    Args:
        before: before the engine was imported.
        loaded: after the model was loaded.
        end: after the inferences.
        reset: whether the peak was reset before.
    """
    why = "" if "now" in end else f"{platform.system()} does not tell a process its resident memory"
    # The kernel sums its per-core counters at different moments: a peak may read a little below an earlier reading.
    readings = [reading for state in (loaded, end) for reading in state.values()]
    return {
        "before_bytes": before.get("now"),
        "loaded_bytes": loaded.get("now"),
        "peak_bytes": max(readings, default=None),
        "peak_since": "load" if reset else "start",
        "why_absent": why,
    }


def arena(session: Session) -> tuple[int | None, str]:
    """Bytes of the engine's arena, or None and the reason why they are not known."""
    try:
        found = session.arena_bytes()
    except EdgewrightError as error:
        return None, error.message
    return found, session.arena_why_absent
