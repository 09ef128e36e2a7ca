"""What passes do within their child process: losses, ranges within layers, shorter students; see training_job.py."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def found():
    script = Path(__file__).with_name("training_job.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_student_loses_whole_residual_blocks_evenly(found):
    short = found["shortening"]
    assert short["0.75"] == ["stem", "first0", "second0", "first1", "second1", "first3", "second3", "kind"]
    assert [len(short[depth]) for depth in ("0.5", "0.25")] == [4, 2]
    assert all(names[0] == "stem" and names[-1] == "kind" for names in (short["0.5"], short["0.25"]))
    assert "cannot be shortened to 0.5 of its 3 layers" in short["refused"]


def test_a_model_trains_with_the_loss_and_optimizer_it_was_compiled_with(found):
    own = found["own_losses"]
    assert own["ours"] == pytest.approx(own["wanted"], rel=1e-5)
    assert own["optimizer"] == ["SGD", 0.9, pytest.approx(1e-3)]
    assert own["uncompiled"] and own["unknown"][0] and "cannot be loaded" in own["unknown"][1][0]


@pytest.mark.parametrize("name", ["attention", "lstm", "gru", "gru_before", "simple"])
def test_layers_that_round_within_compute_nearly_the_same_and_load_again(found, name):
    one = found["inner"][name]
    assert 0 < one["error"] < 0.08, one
    assert one["reload"] == 0.0 and one["unset"] == []


def test_attention_and_cells_keep_the_names_of_their_weights(found):
    weights = found["inner"]["attention"]["weights"]
    for name in ("query", "key", "value", "attention_output"):
        assert f"attention/{name}/kernel" in weights
    assert "memory/lstm_cell/recurrent_kernel" in found["inner"]["lstm"]["weights"]
    assert found["inner"]["attention"]["ranges"] >= 6 + 2 * 7 + 3


def test_a_percentile_leaves_outliers_out_and_16_bits_are_symmetric(found):
    own = found["percentiles"]
    assert own["100.0"] == 100.0
    values = np.concatenate([np.linspace(0, 1, 9999), [100.0]])
    assert own["99.9"] == pytest.approx(np.percentile(values, 99.9), rel=1e-4)
    assert own["wide"] == [-3.0, 3.0]


def test_values_without_end_are_refused_by_the_name_of_their_layer(found):
    assert "values behind 'grows' are no finite numbers" in found["endless"] and "keep_float" in found["endless"]


def test_inputs_by_name_are_told_apart(found):
    assert found["named"] == pytest.approx([-1.0, 3.0], abs=0.05)
