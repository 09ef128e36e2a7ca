"""Energy counters of x86 processors (RAPL) through the kernel's powercap class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewright.benchmarks.meters._sysfs import natural, number, text, unreadable, way_out
from edgewright.benchmarks.power import METERS, Clock
from edgewright.benchmarks.sampling import SampledMeter
from edgewright.errors import MeterError, UsageError

__all__ = ["RaplMeter"]


@dataclass(frozen=True, slots=True)
class _Domain:
    folder: Path
    name: str
    """As in "package-0", "psys", or "package-0/dram" for a part of a package."""


@METERS.register("rapl")
class RaplMeter(SampledMeter):
    """One domain of RAPL: psys (the whole platform) where the processor has it, else the first package.

    The counters move about every millisecond, in steps of 61 microjoules on Intel processors (2^-14 J, the default of the
    Intel SDM, volume 3, "Package RAPL Domain"), and wrap at `max_energy_range_uj`. Domains contain each other, so exactly one
    is read. What is outside of it (memory modules, disks, converters) is not in the figure.

    Args:
        option: a domain: "package-1", "dram", "package-0/core", or its folder, "intel-rapl:0:1".
    """

    name = "rapl"
    kind = "mean"
    default_hz = 100.0
    update_s = 0.001
    unit_joules = 2.0**-14

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        domains = _domains(root)
        if not domains:
            raise MeterError(f"rapl: {_nothing(root)}", hint="on x86, load the driver: sudo modprobe intel_rapl_msr")
        domain = _named(domains, option) if option else _default(domains)
        self._file = domain.folder / "energy_uj"
        if reason := unreadable(self._file, root):
            raise MeterError(f"rapl: {reason}", hint=way_out(self._file, root, reason))
        self.scope = domain.name
        try:
            self.wraps_at_joules = number(domain.folder / "max_energy_range_uj") * 1e-6
        except (OSError, ValueError) as error:
            raise MeterError(f"rapl: where the counter of {domain.name} wraps is not known: {error}") from error
        packages = [other.name for other in domains if other.name.startswith("package-") and "/" not in other.name]
        if len(packages) > 1 and domain.name in packages:
            self.facts.append(f"{domain.name} is one of {len(packages)} packages; the others are not in the figure")

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if the domain that is read by default can be read, else the reason."""
        domains = _domains(root)
        return unreadable(_default(domains).folder / "energy_uj", root) if domains else _nothing(root)

    def read(self) -> float:
        """The counter, in joules."""
        return number(self._file) * 1e-6


def _nothing(root: Path) -> str:
    folder = root / "sys/class/powercap"
    return "no /sys/class/powercap/intel-rapl:*" + ("" if folder.is_dir() else ", and no /sys/class/powercap either")


def _domains(root: Path) -> list[_Domain]:
    """All domains, packages first; the memory-mapped copies of package counters (intel-rapl-mmio) are left out."""
    found: list[_Domain] = []
    for folder in sorted(
        (root / "sys/class/powercap").glob("intel-rapl:*"), key=lambda path: (path.name.count(":"), natural(path))
    ):
        name = text(folder / "name") or folder.name
        if folder.name.count(":") > 1:
            parent = text(folder.parent / folder.name.rpartition(":")[0] / "name") or folder.name.rpartition(":")[0]
            name = f"{parent}/{name}"
        found.append(_Domain(folder, name))
    return found


def _default(domains: Sequence[_Domain]) -> _Domain:
    """Psys if its counter runs, some firmware leaves it at 0; else the first package."""
    for domain in domains:
        if domain.name == "psys" and text(domain.folder / "energy_uj") not in ("", "0"):
            return domain
    return next((domain for domain in domains if domain.name.startswith("package-")), domains[0])


def _named(domains: Sequence[_Domain], option: str) -> _Domain:
    matching = [d for d in domains if option in (d.name, d.folder.name)] or [d for d in domains if d.name.endswith(f"/{option}")]
    names = ", ".join(domain.name for domain in domains)
    if option == "all":
        raise UsageError("rapl:all would add up counters that contain each other; name one domain", hint=f"there are: {names}")
    if not matching:
        raise MeterError(f"rapl has no domain '{option}' here", hint=f"there are: {names}")
    if len(matching) > 1:
        raise UsageError(
            f"rapl has {len(matching)} domains '{option}': {', '.join(d.name for d in matching)}", hint="write one of these names"
        )
    return matching[0]
