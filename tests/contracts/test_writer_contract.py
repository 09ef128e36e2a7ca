"""Every writer keeps the contract, in every precision and with every dtype of inputs and outputs that it offers."""

from dataclasses import fields

import pytest

from edgewright.converters.writers import PRECISIONS, WRITERS
from edgewright.errors import UnsupportedError, UsageError
from edgewright.testing import WriterCase, WriterContract


def _offered() -> list[WriterCase]:
    found = []
    for name in WRITERS.names():
        writer = WRITERS.get(name)
        known = {field.name for field in fields(writer.Options)}
        if "tflite" not in writer.consumes:
            continue
        for precision in PRECISIONS if "precision" in known else (None,):
            for io in ("float32", "int8", "uint8", "int16") if "io" in known else (None,):
                options = {key: value for key, value in (("precision", precision), ("io", io)) if value}
                try:
                    WriterCase(name, options).make()
                except (UsageError, UnsupportedError):
                    continue
                found.append(WriterCase(name, options))
    return found


OFFERED = _offered()


def test_every_writer_offers_something() -> None:
    assert {case.writer for case in OFFERED} == {name for name in WRITERS.names() if "tflite" in WRITERS.get(name).consumes}
    assert {(case.writer, case.options.get("precision")) for case in OFFERED} >= {("tflite", p) for p in PRECISIONS}


class TestWriters(WriterContract):
    @pytest.fixture(params=OFFERED, ids=str)
    def case(self, request: pytest.FixtureRequest) -> WriterCase:
        return request.param
