"""What others may build on: the public names, each documented, and an import that costs nothing."""

import importlib
import inspect
import json
import subprocess
import sys

import pytest

import edgewright

GOLDEN = {
    "edgewright": """Artifact Data EdgewrightError Limits Metric ModelInfo Preprocess Report Samples Session TensorSpec Trust
        __version__ convert inspect open_samples open_session verify""",
    "edgewright.artifact": """Artifact ModelMeta StepRecord TensorSpec atomic_folder deflated_bytes file_sha256 files_of looks_like
        raw_bytes write_atomic""",
    "edgewright.benchmarks.accuracy": "accuracy wilson_interval",
    "edgewright.benchmarks.fidelity": "compare_outputs cosine sqnr_db top1_agreement",
    "edgewright.demo": "DemoRow FILES VARIANTS run_demo",
    "edgewright.errors": """ArtifactError BudgetError ConversionError EXTRAS EdgewrightError EngineError MissingPackageError
        ModelError PluginError SamplesError ShapeError UnsupportedError UntrustedCodeError UsageError VerificationError
        WorkerCrashError WorkerError WorkerMemoryError WorkerTimeoutError error_from_json needs""",
    "edgewright.conversion": "Data Progress TRAINING_FORMATS Trust convert declare described inspect silent",
    "edgewright.preprocess": "Placement Preprocess decode encode read_image",
    "edgewright.registry": "Kind",
    "edgewright.report": "Metric Report",
    "edgewright.runtime": "ENGINES Execution Session open_session",
    "edgewright.samples": "Samples SamplesSpec open_samples",
    "edgewright.step": "Step StepContext",
    "edgewright.verification": "ModelOutputs check convert_and_verify outputs_of require verify",
    "edgewright.worker": "Job Limits Worker progress run",
}

LIGHT = """
import sys, json
before = set(sys.modules)
import edgewright
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))))
"""


@pytest.mark.parametrize("module", GOLDEN)
def test_public_names(module):
    """A name that comes or goes is a decision: change this list with it, and CHANGELOG.md."""
    assert sorted(importlib.import_module(module).__all__) == sorted(GOLDEN[module].split())


@pytest.mark.parametrize("module", GOLDEN)
def test_public_names_are_documented(module):
    found = importlib.import_module(module)
    assert found.__doc__
    for name in found.__all__:
        value = getattr(found, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue  # documented in the source, by a string below it
        assert value.__doc__ and not value.__doc__.startswith(f"{name}("), f"{module}.{name} has no docstring"
        if inspect.isclass(value) and value.__module__.startswith("edgewright"):
            for method, function in vars(value).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    assert inspect.getdoc(getattr(value, method)), f"{module}.{name}.{method} has no docstring"


def test_import_edgewright_costs_nothing():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == ["edgewright"]


def test_names_that_there_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'compress'"):
        edgewright.compress  # noqa: B018
    assert edgewright.__version__ == importlib.import_module("importlib.metadata").version("edgewright")
