"""Every engine that is installed keeps the contract, with every format that it takes."""

from pathlib import Path

import pytest

from edgewright.runtime import ENGINES
from edgewright.testing import EngineCase, EngineContract

CASES = [(name, format) for name in ENGINES.names() for format in ENGINES.get(name).formats]


class TestEngines(EngineContract):
    @pytest.fixture(params=CASES, ids="-".join)
    def case(self, request: pytest.FixtureRequest, models: dict[str, Path]) -> EngineCase:
        engine, format = request.param
        if ENGINES.get(engine).version() is None:
            pytest.skip(f"{engine} is not installed")
        if format not in models:
            pytest.skip(f"no package here writes {format}")
        return EngineCase(engine, models[format], models[f"{format}_free"])
