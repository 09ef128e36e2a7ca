"""What others may build on: the public names, each documented, and an import that costs nothing."""

import importlib
import inspect
import json
import subprocess
import sys

import pytest

import edgewright

GOLDEN = {
    "edgewright": """Artifact BenchSettings CompressReport Data EdgewrightError FileReport Judging Limits Metric ModelInfo
        Preprocess Recipe Report Samples Session Settings TensorSpec Trust Watch __version__ bench compress convert evaluate
        find_recipe inspect open_samples open_session parse_recipe require_success save_report verify""",
    "edgewright.artifact": """Artifact ModelMeta StepRecord TensorSpec atomic_folder deflated_bytes file_digest file_sha256
        files_of looks_like process_lives raw_bytes sweep_leftovers write_atomic""",
    "edgewright.benchmarks.accuracy": """PRIMARY accuracy change_of change_unit figures_of is_error metric_names
        task_metrics unit_of wilson_interval""",
    "edgewright.benchmarks.bench": """BenchTarget MeasureProcess batch_means bench bench_many histogram_of report_of t_interval
        t_quantile""",
    "edgewright.benchmarks.bench_settings": "BenchSettings DEFAULTS ProcessSettings",
    "edgewright.benchmarks.fidelity": "compare_outputs cosine sqnr_db top1_agreement",
    "edgewright.cache": "Cache Entry code_digest default_root",
    "edgewright.compression": "compress data_of find_all own_engine require_success takers",
    "edgewright.conversion": """Data Lowering MODEL_SUFFIXES Progress TRAINING_FORMATS Trust check_batch check_options
        check_route convert declare described inspect lower make_writer silent""",
    "edgewright.data": "Data declare",
    "edgewright.demo": "FILES RECIPES run_demo",
    "edgewright.errors": """ArtifactError BudgetError ConversionError DeviceBusyError DeviceError EXTRAS
        EdgewrightError EngineError MeterError MissingPackageError ModelError PlacementError PluginError
        RegressionError SamplesError ShapeError SinkError SourceError UnsupportedError UntrustedCodeError UsageError
        VerificationError WorkerCrashError WorkerError WorkerMemoryError WorkerTimeoutError error_from_json needs""",
    "edgewright.estimates": "Estimate estimate",
    "edgewright.evaluation": "Judging broken_budgets evaluate judge require_budget with_boxes",
    "edgewright.options": """EngineName Invocation Json Limit Memory PreprocessOption SamplesOption Seed Stride Timeout
        Window invocation_of limits_of origins_of preprocess_of""",
    "edgewright.planning": """BASELINE Export Opened PlannedStep Settings TARGETS Watch evaluate_title lower_title
        make_exports pass_title recipe_schema run_title""",
    "edgewright.preprocess": "Placement Preprocess decode encode read_image",
    "edgewright.preview": "estimated plan",
    "edgewright.receipts": "Claimed is_kernel match_tensors receipt size_metrics",
    "edgewright.recipe": "EXPORT LOWER Recipe StepSpec find_recipe parse_overrides parse_recipe recipe_names with_overrides",
    "edgewright.registry": "Kind",
    "edgewright.report": """CompressReport FileReport Flip Flips GroupChange Histogram Metric Promise Receipt Report
        TensorReceipt find_metric report_schema""",
    "edgewright.runtime": """ENGINES Execution Flow Frame Result SINKS SOURCES Session Sink Source Stream Windowing open_session
        open_sink open_source stream""",
    "edgewright.samples": "Samples SamplesSpec describe_samples is_function open_samples",
    "edgewright.step": "Claim Step StepContext checked",
    "edgewright.summary": "Findings Side save_report summarise",
    "edgewright.tasks": """Scored TASKS check_task decide default_threshold infer_task labels_of reconstruction_scores
        require_finite scores_of youden_threshold""",
    "edgewright.testing": """EngineCase EngineContract ReaderCase ReaderContract WriterCase WriterContract plus_one_onnx
        plus_one_openvino plus_one_tflite two_by_two_tflite""",
    "edgewright.verification": """ModelOutputs VERIFY_SAMPLES check convert_and_verify one_preprocessing outputs_of
        pair_outputs random_inputs require store_outputs stored_outputs tells verify""",
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
    with pytest.raises(AttributeError, match="has no attribute 'squeeze'"):
        edgewright.squeeze  # noqa: B018
    assert edgewright.__version__ == importlib.import_module("importlib.metadata").version("edgewright")
