"""The machine that a figure was measured on: its facts, and one short name for them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["fingerprint", "machine"]

_MEMORY_STEP = 64 << 20


def machine() -> dict[str, Any]:
    """System, processor and memory as plain values.

    Returns:
        `system`, `release` (the kernel's), `architecture`, `cpu`, `cores` (that this process may use), `memory_bytes`
        (None where the system does not tell), `hostname`.
    """
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "hostname": platform.node(),
    }


def fingerprint() -> str:
    """16 hex digits that are equal where latencies may be compared: the start of a SHA-256.

    It is taken over processor, cores, architecture, system and memory; not over the host's name and the kernel's
    release, so machines of one make share it. Memory counts in steps of 64 MiB: kernels keep some for themselves, and
    one release not the same as the next.
    """
    facts = machine()
    memory = facts["memory_bytes"]
    known = [facts[key] for key in ("cpu", "cores", "architecture", "system")]
    known.append(None if memory is None else round(memory / _MEMORY_STEP))
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    """The processor's name: of the board on ARM Linux, of the model elsewhere; the architecture if nothing tells."""
    for file, key in (("/proc/device-tree/model", None), ("/proc/cpuinfo", "model name")):
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if key is None:
            return text.strip("\0\n ")
        for line in text.splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    """Physical memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
