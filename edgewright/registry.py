"""Plug-ins: one file each, found by file name, imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgewright.errors import PluginError

__all__ = ["Kind"]

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


@dataclass(slots=True)
class Kind(Generic[T]):
    """One kind of plug-in: a folder of modules, each named after the plug-in that it registers.

    Args:
        name: what a message calls one of them, for example "reader".
        package: the folder as a dotted name; a file `x.py` in it is the plug-in "x".
        api: version number of the interface; third parties declare the one they were written for.

    Third parties add theirs through the entry point group `edgewright.<name>s`.
    """

    name: str
    package: str
    api: int = 1
    _classes: dict[str, type[T]] = field(default_factory=dict)
    _points: dict[str, Any] | None = None

    def register(self, plugin: str, *, api: int = 1) -> Callable[[C], C]:
        """Class decorator that files a class under a plug-in name.

        Raises:
            PluginError: the class was written for another version of this interface.
        """
        if api != self.api:
            raise PluginError(
                f"{self.name} '{plugin}' is written for interface version {api}, this Edgewright has version {self.api}",
                hint=f"install a version of the {self.name} made for this Edgewright",
            )

        def file_under(cls: C) -> C:
            self._classes[plugin] = cls
            return cls

        return file_under

    def names(self) -> list[str]:
        """Names of all plug-ins of this kind, sorted; imports none of them."""
        return sorted({*self._shipped(), *self._third_party()})

    def get(self, plugin: str) -> type[T]:
        """The class of one plug-in, imported now if it was not before.

        Raises:
            PluginError: there is no plug-in of this name, or its module registers none.
        """
        if plugin not in self._classes:
            if plugin in self._shipped():
                importlib.import_module(f"{self.package}.{plugin}")
            elif plugin in (third := self._third_party()):
                third[plugin].load()
            else:
                raise PluginError(
                    f"there is no {self.name} '{plugin}'",
                    hint=f"known: {', '.join(self.names())}",
                )
        if plugin not in self._classes:
            raise PluginError(f"the module of {self.name} '{plugin}' registers no {self.name} of that name")
        return self._classes[plugin]

    def _shipped(self) -> set[str]:
        spec = find_spec(self.package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        return {file.stem for folder in folders for file in Path(folder).glob("*.py") if not file.stem.startswith("_")}

    def _third_party(self) -> dict[str, Any]:
        """Entry points by name, looked up once: reading every installed package's list takes 30 ms."""
        if self._points is None:
            self._points = {point.name: point for point in entry_points(group=f"edgewright.{self.name}s")}
        return self._points
