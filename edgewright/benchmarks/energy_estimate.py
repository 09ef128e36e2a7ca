"""Energy of an inference from operations, traffic and published energies per operation: an estimate, never measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgewright.errors import UsageError

__all__ = ["PROFILES", "OperationEnergies", "estimate"]


@dataclass(frozen=True, slots=True)
class OperationEnergies:
    """Published energies of single operations.

    Args:
        name: what `estimate` takes.
        title: technology, in words.
        source: where the figures stand.
        mac_pj: by precision: picojoules of a multiplication and of an addition to the accumulator.
        memory_pj_per_64_bits: by kind of memory: least and most picojoules for 64 bits.
        leaves_out: what the figures do not contain, in words.
    """

    name: str
    title: str
    source: str
    mac_pj: Mapping[str, tuple[float, float]]
    memory_pj_per_64_bits: Mapping[str, tuple[float, float]]
    leaves_out: tuple[str, ...] = field(default=())


PROFILES: Mapping[str, OperationEnergies] = {
    "horowitz_2014_45nm": OperationEnergies(
        name="horowitz_2014_45nm",
        title="45 nm CMOS at 0.9 V",
        source="M. Horowitz, 'Computing's energy problem (and what we can do about it)', ISSCC 2014, pp. 10-14, figure 1.1.9",
        mac_pj={
            "int8": (0.2, 0.1),  # 8-bit multiplication; products are added up in 32 bits
            "float16": (1.1, 0.4),
            "int32": (3.1, 0.1),
            "float32": (3.7, 0.9),
        },
        memory_pj_per_64_bits={
            "sram_8_kib": (10.0, 10.0),
            "sram_32_kib": (20.0, 20.0),
            "sram_1_mib": (100.0, 100.0),
            "dram": (1300.0, 2600.0),
        },
        leaves_out=(
            "fetching, decoding and scheduling instructions (about 70 pJ each on a simple core, by the same source: "
            "far more than the arithmetic)",
            "caches between the memory and the arithmetic, and whatever is read more than once",
            "operations that are no MACs: activations, pooling, scaling",
            "leakage, clocks, voltage converters, idle power, everything else on the board",
            "the difference between 45 nm and the chip at hand",
        ),
    ),
}
"""Technologies with published figures, by name."""

_PRECISIONS = {"int8": "int8", "uint8": "int8", "float16": "float16", "float32": "float32", "int32": "int32"}


def estimate(
    macs: int, bytes_moved: int, precision: str, profile: str = "horowitz_2014_45nm", *, memory: str = "dram"
) -> dict[str, Any]:
    """Energy of one inference: MACs times the energy of one, plus the traffic times the energy of moving it.

    Args:
        macs: multiply-adds of one inference.
        bytes_moved: weights, inputs, outputs and activations that are written and read, each counted as often as it moves.
        precision: of the MACs: "int8", "float16", "int32", "float32".
        profile: a name of `PROFILES`.
        memory: where the bytes come from and go to: a key of the profile's memory figures.

    Returns:
        The fields of a `report.Metric` with the origin "estimated" (unit mJ; `low` and `high` are the range of the published
        figures, not a confidence interval), and `source`, `terms_mj`, `constants_pj`, `leaves_out` and `statement`. The value
        is None with a reason where the source has no figure for the precision.

    Raises:
        UsageError: there is no such profile or memory, or a count is negative.
    """
    if profile not in PROFILES:
        raise UsageError(f"there are no published energies '{profile}'", hint=f"known: {', '.join(sorted(PROFILES))}")
    energies = PROFILES[profile]
    if memory not in energies.memory_pj_per_64_bits:
        raise UsageError(
            f"'{profile}' has no figure for memory '{memory}'", hint=f"known: {', '.join(energies.memory_pj_per_64_bits)}"
        )
    if macs < 0 or bytes_moved < 0:
        raise UsageError(f"{macs} MACs and {bytes_moved} bytes cannot be estimated: neither can be negative")
    found: dict[str, Any] = {
        "name": "energy_per_inference_estimate",
        "subject": "",
        "unit": "mJ",
        "value": None,
        "samples": 0,
        "origin": "estimated",
        "why_absent": "",
        "low": None,
        "high": None,
        "interval": "",
        "source": energies.source,
        "technology": energies.title,
        "leaves_out": list(energies.leaves_out),
        "statement": "An estimate from published energies per operation, not a measurement of this model or this device.",
    }
    known = _PRECISIONS.get(precision, precision)
    if known not in energies.mac_pj:
        known_words = ", ".join(energies.mac_pj)
        return {**found, "why_absent": f"{energies.source} has no figure for {precision} (it has {known_words})"}
    multiply, add = energies.mac_pj[known]
    arithmetic = macs * (multiply + add) * 1e-9  # pJ to mJ
    least, most = (bytes_moved / 8 * picojoules * 1e-9 for picojoules in energies.memory_pj_per_64_bits[memory])
    traffic = (least + most) / 2
    found |= {
        "value": arithmetic + traffic,
        "terms_mj": {"macs": arithmetic, "memory": traffic},
        "inputs": {"macs": macs, "bytes_moved": bytes_moved, "precision": known, "memory": memory},
        "constants_pj": {
            "multiply": multiply,
            "add": add,
            "memory_64_bits_low": energies.memory_pj_per_64_bits[memory][0],
            "memory_64_bits_high": energies.memory_pj_per_64_bits[memory][1],
        },
    }
    if most > least:
        found |= {"low": arithmetic + least, "high": arithmetic + most, "interval": "range of the published figures for memory"}
    return found
