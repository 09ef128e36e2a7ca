"""What must be equal so that two benchmark reports tell of two models, and not of two machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["REASONS", "device_of", "differing", "threads_of", "warnings_of"]

REASONS = {
    "machine": "the machine",
    "device": "the device",
    "engine": "the engine",
    "library": "the engine's library",
    "precision": "the precision of computing",
    "processor": "the processor that the engine used",
    "inputs": "the shape of the inputs",
    "governor": "the governor",
    "throttled": "throttling",
}
"""What may differ between two reports so that a limit says nothing of the model alone; names that --allow takes."""


def threads_of(report: Mapping[str, Any]) -> list[int]:
    """The thread counts that a report has figures of."""
    return list(map(int, report["settings"]["threads"]))


def device_of(report: Mapping[str, Any]) -> str | None:
    """The board that a report was made on; None if it does not say so, which means the machine of the command line."""
    device = report["settings"].get("device")
    device = device.get("name") if isinstance(device, Mapping) else device
    return None if device is None else str(device)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    """What differs between the conditions of two reports, in words with both values, by name (`REASONS`)."""
    found = {}
    facts = [_facts(report) for report in (a, b)]
    for name, title in REASONS.items():
        first, second = (fact.get(name) for fact in facts)
        if name == "throttled":
            told = [
                f"the {word} was measured while the machine was slowed down ({why})"
                for word, why in (("first", first), ("second", second))
                if why
            ]
            if told:
                found[name] = " and ".join(told)
        elif first is not None and second is not None and first[0] != second[0]:
            found[name] = f"{title} is {first[1]} in the first and {second[1]} in the second"
    return found


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal and how it is called, by name; "throttled" is the reason, empty if the machine was not."""
    model, settings = report["model"], report["settings"]
    machine, execution = settings["machine"], model["execution"]
    memory = machine.get("memory_bytes")
    name = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']} {machine['architecture']}"
    name += f", {memory / 2**30:.1f} GiB" if memory else ""
    precision = " ".join(
        [execution["precision"], *sorted(execution.get("kinds", ())), *(["(exact)"] if settings.get("exact") else [])]
    )
    fed = ", ".join("x".join(map(str, one.get("fed", one["shape"]))) for one in model["inputs"])
    conditions = _conditions(report)
    governors = sorted({str(value) for one in conditions for value in (one.get("before") or {}).get("governor", {}).values()})
    named = {
        "device": device_of(report),
        "engine": model["engine"],
        "library": model["library"] or None,
        "precision": precision,
        "processor": execution["device"],
        "inputs": fed,
        "governor": ", ".join(governors) or None,
    }
    return {
        "machine": (settings["fingerprint"], f"{name} ({machine['hostname']}, fingerprint {settings['fingerprint'][:8]})"),
        **{key: (value, value) for key, value in named.items() if value is not None},
        "throttled": next((str(one.get("why") or "no reason kept") for one in conditions if one.get("throttled")), ""),
    }


def _conditions(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was noted of clocks and heat, wherever it stands: of the whole report, of a thread count, of single processes."""
    found: list[Mapping[str, Any]] = []
    todo: list[Any] = [report["settings"], report["details"]]
    while todo:
        node = todo.pop()
        if isinstance(node, Mapping):
            todo += [value for key, value in node.items() if key != "conditions"]
            kept = node.get("conditions")
            found += [one for one in (kept if isinstance(kept, list) else [kept]) if isinstance(one, Mapping)]
        elif isinstance(node, list) and node and isinstance(node[0], Mapping):
            todo += node
    return found


def warnings_of(a: Mapping[str, Any], b: Mapping[str, Any], found: Mapping[str, str]) -> list[str]:
    """What a reader must know beside the figures."""
    warnings = list(found.values())
    first, second = a["settings"], b["settings"]
    if a["model"]["sha256"] == b["model"]["sha256"]:
        warnings.append("both reports are of the same file: a change is one of the machine, the engine or chance")
    names = [one["machine"]["hostname"] for one in (first, second)]
    if names[0] != names[1] and "machine" not in found:
        warnings.append(f"the machines are of one make but not the same: {names[0]} and {names[1]}")
    for key, title in (("duration_s", "seconds of timed inferences"), ("warmup_s", "seconds of warm-up")):
        if first.get(key) != second.get(key):
            warnings.append(f"{title} are {first.get(key)} in the first and {second.get(key)} in the second")
    for word, report in (("first", a), ("second", b)):
        load, cores = report["settings"].get("load_average"), report["settings"]["machine"]["cores"]
        if load is not None and load > 0.5 * cores:
            warnings.append(
                f"other work was running before the {word} was measured: a load average of {load:.1f} on {cores} cores"
            )
        if (share := _least_share(report)) < 0.9:
            told = f"a process of the {word} had a core for only {share:.0%} of the time"
            warnings.append(f"{told}: other work was running; measure again when it is done")
    return warnings


def _least_share(report: Mapping[str, Any]) -> float:
    """The least share of a core that a process with one thread had while it was timed; 1 where that is not known."""
    if 1 not in threads_of(report):
        return 1.0
    found = report["details"] if len(threads_of(report)) == 1 else report["details"].get("threads=1", {})
    return min((process.get("cpu_share") or 1.0 for process in found.get("processes", ())), default=1.0)
