"""The int8 file computes what the fake-quantized Keras model computes, to one step of its output's scale, on drawn layers.

LiteRT, with its default and with its reference kernels, against Keras: on samples that ranges were learned from ("inside")
and on samples that reach beyond them. See fake_quant_job.py, which runs in a child and draws every case from kind and seed.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fake_quant_job.py")

KERNELS = (
    "Conv1D",
    "Conv2D",
    "Conv1DTranspose",
    "Conv2DTranspose",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "Dense",
    "Conv, BatchNorm, ReLU",
    "SeparableConv1D",
    "SeparableConv2D",
    "kernel with activation",
)
EXACT = (
    *KERNELS,
    *("dead channels", "dead channels, transposed", "dead layer", "faint channels"),
    *("Conv2DTranspose, BatchNorm, ReLU", "Conv2DTranspose with activation"),
    *("SeparableConv, BatchNorm, ReLU", "chain"),
    *("GlobalAveragePooling2D, Flatten", "Concatenate, Flatten"),
    *(f"{kind}Pooling{dims}D" for kind in ("Average", "Max", "GlobalAverage", "GlobalMax") for dims in (1, 2)),
    *"Add Subtract Multiply Average Maximum Minimum Concatenate Rescaling ZeroPadding2D UpSampling2D".split(),
    *"ReLU ReLU6 LeakyReLU PReLU Softmax elu gelu hard_swish hard_sigmoid sigmoid tanh exponential Embedding".split(),
    *("SimpleRNN", "LSTM", "GRU"),
)
"""Kinds whose every rounding is learned: 1 step, whatever the samples, but for what AMPLIFIED and TWICE say."""

AMPLIFIED = ("kernel with activation", "Conv2DTranspose with activation", "Conv2DTranspose, BatchNorm, ReLU")
"""Kinds that are rounded before an activation: one step there is worth several behind it where its scale is larger."""

TWICE = {
    "SeparableConv1D": 5,
    "SeparableConv2D": 5,
    "SeparableConv, BatchNorm, ReLU": 6,
    "chain": 3,
    "UpSampling2D": 2,  # bilinear, in the reference kernels
    "SimpleRNN": 16,
    "LSTM": 16,
    "GRU": 16,
}
"""Kinds of which several ops round, each as learned, and a step of one is worth several of the next: measured, and some."""

INSIDE = {
    # Keras rounds once what LiteRT computes in two ops and rounds twice
    "Flatten, Dense with softmax": 4,
    "Conv2DTranspose with relu, no bias": 3,
    "Add of three": 2,
    "Multiply of three": 4,
    "Average of three": 2,
    "Maximum of three": 1,
    "Normalization": 2,
    "BatchNormalization": 4,
    "swish": 3,
    "MultiHeadAttention": 4,
    # exponentials and logarithms in int8
    "selu": 12,
    "softplus": 20,
    "mish": 30,
    # the reciprocal root of a variance in int8: nothing can be promised
    "LayerNormalization": 255,
}
"""Kinds with a range that is measured, not learned: steps at most on samples within the ranges, as measured, and some."""

FLOAT = {
    "GlobalMaxPooling1D": {"REDUCE_MAX"},
    "GlobalMaxPooling2D": {"REDUCE_MAX"},
    "Minimum": {"MINIMUM"},
    "ReLU6": {"RELU6"},
    "Conv2DTranspose with activation": {"RELU6"},
    "Conv2DTranspose, BatchNorm, ReLU": {"RELU6"},
    "kernel with activation": {"ELU", "LEAKY_RELU"},
    "LeakyReLU": {"LEAKY_RELU"},
    "PReLU": {"PRELU"},
    "elu": {"ELU"},
    "selu": {"EXP", "GREATER"},
    "softplus": {"EXP", "LOG"},
    "mish": {"EXP", "LOG"},
    "exponential": {"EXP"},
    "UpSampling2D": {"TILE"},
}
"""Ops that the quantizer leaves float, by kind."""

KINDS = (*EXACT, *INSIDE)
LONG = ("SimpleRNN", "LSTM", "GRU")
"""Kinds that take seconds each: unrolled."""


def draw(folder, seeds):
    """The job's answers by kind; `seeds` gives the seeds of a kind."""
    cases = [f"{kind}:{seed}" for kind in KINDS for seed in seeds(kind)]
    command = [sys.executable, SCRIPT, folder, *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, f"{(folder / 'last.json').read_text()}\n{done.stderr[-3000:]}"
    found = {kind: [] for kind in KINDS}
    for line in (folder / "found.jsonl").read_text().splitlines():
        answer = json.loads(line)
        found[answer["case"].rpartition(":")[0]].append(answer)
    assert sum(map(len, found.values())) == len(cases)
    return found


def problems(answer):
    """What is wrong with one case."""
    kind = answer["case"].rpartition(":")[0]
    if "error" in answer:
        yield answer["error"].strip().splitlines()[-1]
        return
    for step in answer["steps"]:
        if abs(step - 1.0) > 1e-5:
            yield f"a scale is {step:.4f} times the learned one"
    for engine in ("xnnpack", "reference"):
        if engine not in answer:  # the reference kernels have no ELU
            continue
        allowed = INSIDE.get(kind, TWICE.get(kind, 1))
        if kind in AMPLIFIED:
            allowed += math.ceil(1.5 * answer["gain"])  # the steepest, hard_swish
        for data in ("inside",) if kind in INSIDE else ("inside", "beyond"):
            if answer[engine][data] > allowed:
                yield f"{engine} is {answer[engine][data]} steps off on samples {data} the ranges, {allowed} are allowed"
    if left := set(answer["float_ops"]) - FLOAT.get(kind, set()):
        yield f"{', '.join(sorted(left))} stays float"


def check(answers):
    """Fail with every wrong case, in full, and how to repeat it."""
    wrong = [(answer, list(problems(answer))) for answer in answers]
    told = [
        f"{'; '.join(found)}\n  repeat: python {SCRIPT.name} FOLDER '{answer['case']}'\n  {json.dumps(answer)[:3000]}"
        for answer, found in wrong
        if found
    ]
    assert not told, "\n".join(told)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Four cases of the common kinds, three of the wrong ones, two of each other one."""
    seeds = {**dict.fromkeys(KERNELS, range(4)), **dict.fromkeys(LONG, ())}
    return draw(tmp_path_factory.mktemp("few"), lambda kind: seeds.get(kind, range(2)))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Eight other cases of every kind."""
    return draw(tmp_path_factory.mktemp("many"), lambda kind: range(1000, 1008))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LONG])
def test_the_file_computes_what_the_model_computes(few, kind):
    check(few[kind])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_computes_what_the_model_computes_in_many_cases(many, kind):
    check(many[kind])


def test_cases_are_many_and_not_trivial(few):
    answers = [answer for kind in KINDS for answer in few[kind]]
    assert sum(map(len, few.values())) >= 150
    levels = sorted(answer["levels"] for answer in answers)
    assert levels[len(levels) // 10] >= 8 and levels[len(levels) // 2] >= 60  # of 256
    assert {name for answer in answers for name in answer["data"]} >= {"high", "negative", "tiny", "large"}
    assert sum(answer["end"] == "none" for answer in answers) >= 20 <= sum(bool(answer["steps"]) for answer in answers)
    assert len({json.dumps(answer["layers"]) for answer in answers}) >= 80
