"""The evaluation job on files as `engine_outputs` writes them: tasks, labels, matching, remarks, every refusal."""

import json

import numpy as np
import pytest
from sklearn import metrics

from edgewright.benchmarks.evaluation import evaluate_outputs
from edgewright.errors import EdgewrightError, SamplesError, ShapeError, UsageError
from edgewright.worker import run

RNG = np.random.default_rng(0)


def specs(*names, shape=(1, 3), **more):
    return [{"name": name, "shape": list(shape), **{"dtype": "float32", **more}} for name in names]


@pytest.fixture
def evaluate(tmp_path):
    """Evaluate arrays; `arrays` are the labels and slices, `file` and `original` lists of outputs."""

    def call(arrays, file, original=None, names=("probs",), names_before=None, x=None, inputs=None, classes=None, **options):
        count = len(file[0])
        x = np.arange(count, dtype=np.float32)[:, None] if x is None else x
        np.savez(tmp_path / "eval.npz", x=x, **arrays)
        np.savez(tmp_path / "file.npz", **{str(at): values for at, values in enumerate(file)})
        if original is not None:
            np.savez(tmp_path / "original.npz", **{str(at): values for at, values in enumerate(original)})
        if classes:
            (tmp_path / "labels.txt").write_text("\n".join(classes))
        found = evaluate_outputs(
            str(tmp_path / "file.npz"),
            None if original is None else str(tmp_path / "original.npz"),
            {"source": str(tmp_path / "eval.npz")},
            inputs or specs("x", shape=(1, *x.shape[1:])),
            specs(*names),
            None if original is None else specs(*(names_before or names)),
            **options,
        )
        assert json.loads(json.dumps(found)) == found
        return found

    return call


def classes_of(count=240, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    scores = (rng.random((count, classes)) + 0.6 * np.eye(classes)[labels]).astype(np.float32)
    return labels, scores


def metric(found, name, subject="probs"):
    return next(m for m in found["metrics"] if m["name"] == name and m["subject"] == subject)


def test_classification_beside_the_original(evaluate):
    labels, original = classes_of()
    file = original.copy()
    file[:30] = file[:30, ::-1]
    site = np.array(["north", "south"])[np.arange(240) % 2]
    found = evaluate({"y": labels, "slice:site": site}, [file], [original], classes=["cat", "dog", "owl"])
    before, after = ((scores.argmax(axis=1) == labels) for scores in (original, file))
    assert found["task"] == "classification" and found["primary"] == {"name": "accuracy", "subject": "probs"}
    assert metric(found, "accuracy")["value"] == pytest.approx(after.mean())
    assert metric(found, "accuracy_change")["value"] == pytest.approx(100 * (after.mean() - before.mean()))
    assert metric(found, "roc_auc")["value"] == pytest.approx(metrics.roc_auc_score(np.eye(3)[labels], file, average="macro"))
    kinds = [(g["kind"], g["group"], g["value"]) for g in found["groups"]]
    assert {k[0] for k in kinds[:3]} == {"class"} and sorted(k[2] for k in kinds[:3]) == ["cat", "dog", "owl"]
    assert sorted(kinds[3:]) == [("slice", "site", "north"), ("slice", "site", "south")]
    north = next(g for g in found["groups"] if g["value"] == "north")
    assert north["metric"] == "accuracy" and north["file"] == pytest.approx(after[::2].mean())
    flips = found["flips"]
    assert (flips["samples"], flips["broken"], flips["fixed"]) == (240, (before & ~after).sum(), (~before & after).sum())
    first = flips["listed"][0]
    assert first["label"] == ["cat", "dog", "owl"][labels[first["index"]]] and first["slices"] == {"site": site[first["index"]]}
    assert found["warnings"] == [] and found["count"] == 240 and "240 samples" in found["samples"]


def test_without_an_original(evaluate):
    labels, scores = classes_of()
    found = evaluate({"y": labels}, [scores])
    assert found["flips"] is None and not any(m["name"].endswith("_change") for m in found["metrics"])
    assert {g["value"] for g in found["groups"]} == {"0", "1", "2"} and all(g["change"] is None for g in found["groups"])


def test_samples_and_seed_decide_all_figures(evaluate):
    labels, scores = classes_of()
    first, again, other = (evaluate({"y": labels}, [scores], [scores[:, ::-1]], seed=seed) for seed in (0, 0, 1))
    assert first == again and metric(first, "f1_macro") != metric(other, "f1_macro")
    assert metric(first, "f1_macro")["value"] == metric(other, "f1_macro")["value"]


def test_in_a_child_process(tmp_path):
    labels, scores = classes_of()
    np.savez(tmp_path / "eval.npz", x=np.arange(240, dtype=np.float32)[:, None], y=labels)
    np.savez(tmp_path / "file.npz", **{"0": scores})
    said = []
    found = run(
        "edgewright.benchmarks.evaluation:evaluate_outputs",
        what="evaluating",
        on_progress=lambda share, text: said.append((share, text)),
        candidate=str(tmp_path / "file.npz"),
        reference=None,
        samples={"source": str(tmp_path / "eval.npz")},
        inputs=specs("x", shape=(1, 1)),
        outputs=specs("probs"),
    )
    assert metric(found, "accuracy")["value"] == pytest.approx((scores.argmax(axis=1) == labels).mean())
    assert said == [(0.0, "figures of output 'probs' over 240 samples")]


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_one_score_per_sample_has_the_threshold_of_the_original(evaluate):
    """The file's scores alone look like logits."""
    labels = np.arange(200) % 2
    original = np.where(labels == 1, 0.7, 0.3)[:, None].astype(np.float32)
    file = original + np.float32(0.35)
    found = evaluate({"y": labels}, [file], [original])
    assert found["thresholds"] == {"probs": 0.5} and "above 0.5: the original's scores are probabilities" in found["notes"][0]
    assert metric(found, "accuracy")["value"] == 0.5 and found["flips"]["broken"] == 100
    logits = evaluate({"y": labels}, [original - 0.5])
    assert logits["thresholds"] == {"probs": 0.0} and "the file's scores are logits" in logits["notes"][0]
    assert metric(logits, "accuracy")["value"] == 1.0
    asked = evaluate({"y": labels}, [file], [original], threshold=0.8)
    assert metric(asked, "accuracy")["value"] == 1.0 and "as asked for" in asked["notes"][0]


def test_one_hot_labels_and_several_labels(evaluate):
    labels, scores = classes_of()
    one_hot = evaluate({"y": np.eye(3)[labels]}, [scores])
    assert one_hot["task"] == "classification" and metric(one_hot, "accuracy") == metric(
        evaluate({"y": labels}, [scores]), "accuracy"
    )
    declared = evaluate({"y": np.eye(3, dtype=int)[labels]}, [scores - 0.7], task="multilabel")
    assert declared["primary"]["name"] == "f1_macro"
    assert metric(declared, "f1_macro")["value"] == pytest.approx(
        metrics.f1_score(np.eye(3)[labels], scores > 0.7, average="macro")
    )


def test_numbers(evaluate):
    labels = RNG.normal(size=200).astype(np.float32)
    original, file = ((labels + error)[:, None] for error in (np.float32(1.0), np.float32(1.5)))
    found = evaluate({"y": labels, "slice:half": np.arange(200) // 100}, [file], [original])
    assert found["task"] == "regression" and found["primary"]["name"] == "rmse" and found["flips"] is None
    assert metric(found, "rmse")["value"] == pytest.approx(1.5, abs=1e-5)
    assert metric(found, "rmse_change")["value"] == pytest.approx(-50.0, abs=1e-3)
    assert metric(found, "rmse_change")["unit"] == "%"
    assert [(g["kind"], g["metric"]) for g in found["groups"]] == [("slice", "rmse")] * 2


def test_anomalies_by_reconstruction(evaluate):
    """Inputs of an int8 model: the errors are between real numbers, and more samples than one batch."""
    labels = (np.arange(150) % 5 == 0).astype(int)
    x = RNG.normal(size=(150, 4, 2)).astype(np.float32)
    original = x + (0.1 + labels)[:, None, None].astype(np.float32)
    file = x + np.where(np.arange(150) < 10, 0.7, 0.1 + labels)[:, None, None].astype(np.float32)
    inputs = specs("x", shape=(1, 4, 2), dtype="int8", scale=0.1, zero_point=3)
    found = evaluate({"y": labels}, [file], [original], x=x, inputs=inputs, names=("back",))
    scores = ((file - x) ** 2).mean(axis=(1, 2))
    assert found["task"] == "anomaly" and found["primary"] == {"name": "roc_auc", "subject": "back"}
    assert metric(found, "roc_auc", "back")["value"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-3)
    limit = found["thresholds"]["back"]
    assert limit == pytest.approx((0.01 + 1.21) / 2, abs=1e-4)  # halfway between the original's two scores
    assert f"{limit:.6g}" in found["notes"][0] and "original's scores" in found["notes"][0]
    assert {(g["value"], g["samples"]) for g in found["groups"]} == {("normal", 120), ("anomaly", 30)}
    assert found["flips"]["broken"] == 2  # the two anomalies of the first ten, which score 0.49 now
    assert {f["index"] for f in found["flips"]["listed"]} == {0, 5}
    alone = evaluate({"y": labels}, [file], x=x, names=("back",))
    assert "on the file's scores" in alone["notes"][0]
    assert evaluate({"y": labels}, [file], x=x, names=("back",), threshold=2.0)["thresholds"] == {"back": 2.0}


# --- several outputs --------------------------------------------------------------------------------------------------


def test_labels_by_output_in_the_models_order(evaluate):
    labels, scores = classes_of()
    size = RNG.normal(size=(240, 1)).astype(np.float32)
    arrays = {"y:kind": labels, "y:size": size[:, 0]}
    found = evaluate(arrays, [size + 1, scores, scores], names=("size", "kind", "embedding"))
    assert list(dict.fromkeys(m["subject"] for m in found["metrics"])) == ["size", "kind"]
    assert found["primary"] == {"name": "rmse", "subject": "size"} and found["task"] == "regression"
    assert metric(found, "rmse", "size")["value"] == pytest.approx(1.0, abs=1e-5)
    assert found["warnings"] == ["there are no labels for the output embedding: it is not evaluated"]
    other = evaluate(arrays, [size + 1, scores, scores], names=("size", "kind", "embedding"), metric="f1_macro")
    assert other["primary"] == {"name": "f1_macro", "subject": "kind"} and other["task"] == "classification"


def test_plain_labels_go_to_the_only_output_that_they_fit(evaluate):
    labels, scores = classes_of()
    found = evaluate({"y": labels + 0}, [RNG.normal(size=(240, 5, 5)), scores], names=("features", "kind"))
    assert found["primary"] == {"name": "accuracy", "subject": "kind"} and "features" in found["warnings"][0]
    with pytest.raises(SamplesError, match=r"'y' of shape \(240,\) fit a, b .*a \(240, 3\), b \(240, 3\).*y:<output>"):
        evaluate({"y": labels}, [scores, scores], names=("a", "b"))
    with pytest.raises(SamplesError, match=r"fit none of the outputs a \(240, 2, 2\), b \(240, 2, 2\)"):
        evaluate({"y": labels}, [np.zeros((240, 2, 2))] * 2, names=("a", "b"))


def test_originals_outputs_by_name_or_by_position(evaluate):
    labels, scores = classes_of()
    size = RNG.normal(size=(240, 1)).astype(np.float32)
    arrays = {"y:kind": labels, "y:size": size[:, 0]}
    swapped = evaluate(arrays, [scores, size], [size, scores], names=("kind", "size"), names_before=("size", "kind"))
    assert swapped["flips"]["broken"] == 0 and metric(swapped, "accuracy_change", "kind")["value"] == 0.0
    renamed = evaluate(arrays, [scores, size], [scores, size], names=("kind", "size"), names_before=("a", "b"))
    assert renamed["metrics"] == swapped["metrics"]


# --- class names ------------------------------------------------------------------------------------------------------


def test_labels_are_matched_to_the_models_classes_by_name(evaluate):
    """Texts are numbered in alphabetical order; the model has another."""
    labels, scores = classes_of()
    order = ("owl", "cat", "dog")
    found = evaluate({"y": np.array(order)[labels]}, [scores], class_names=order)
    assert metric(found, "accuracy")["value"] == pytest.approx((scores.argmax(axis=1) == labels).mean())
    assert "matched to the model's classes by name" in found["notes"][0] and not found["warnings"]
    counts = {g["value"]: g["file"] for g in found["groups"]}
    assert counts["owl"] == pytest.approx((scores.argmax(axis=1)[labels == 0] == 0).mean())


@pytest.mark.parametrize(
    ("classes", "own", "names", "warning"),
    [
        (["a", "b", "c"], None, {"a", "b", "c"}, ""),
        (None, ["a", "b", "c"], {"a", "b", "c"}, ""),
        (["a", "b"], None, {"0", "1", "2"}, "has 3 classes, the samples name 2"),
        (None, ["a", "b"], {"0", "1", "2"}, "has 3 classes, the model names 2"),
        (["x", "y", "z"], ["a", "b", "c"], {"a", "b", "c"}, "the samples name the classes x, y, z, the model a, b, c"),
    ],
)
def test_class_names(evaluate, classes, own, names, warning):
    labels, scores = classes_of()
    found = evaluate({"y": labels}, [scores], classes=classes, class_names=own)
    assert {g["value"] for g in found["groups"]} == names
    assert [warning in said for said in found["warnings"]] == ([True] if warning else [])


def test_names_belong_to_the_output_of_as_many_classes(evaluate):
    labels, scores = classes_of()
    more, wide = classes_of(classes=5)
    arrays = {"y:kind": labels, "y:other": more}
    found = evaluate(arrays, [scores, wide], names=("kind", "other"), class_names=["a", "b", "c"])
    assert {g["value"] for g in found["groups"]} == {"a", "b", "c", "0", "1", "2", "3", "4"} and not found["warnings"]


# --- remarks ----------------------------------------------------------------------------------------------------------


def test_warnings_of_few_samples(evaluate):
    labels = np.repeat([0, 1, 2], [60, 19, 10])
    found = evaluate({"y": labels}, [np.eye(4, dtype=np.float32)[labels]])
    assert found["warnings"] == [
        "there are 89 evaluation samples, 100 or more are recommended",
        "no sample has the label 3 of output 'probs'",
        "classes of output 'probs' with fewer than 20 samples: 1 (19), 2 (10); their figures are rough",
    ]
    assert "no sample is of class 3" in metric(found, "roc_auc")["why_absent"]


def test_threshold_that_nothing_uses(evaluate):
    labels, scores = classes_of()
    assert "threshold of 0.3 is not used" in evaluate({"y": labels}, [scores], threshold=0.3)["warnings"][0]


def test_slices_of_too_many_values_are_left_out(evaluate):
    labels, scores = classes_of()
    found = evaluate({"y": labels, "slice:id": np.arange(240)}, [scores])
    assert not [g for g in found["groups"] if g["kind"] == "slice"] and "'id' has 240" in found["warnings"][0]


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(evaluate, *arguments, error=SamplesError, parts, **options):
    with pytest.raises(error) as caught:
        evaluate(*arguments, **options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_refused(evaluate):
    labels, scores = classes_of()
    refused(evaluate, {}, [scores], parts=["no labels", "eval.npz", "'y' or 'y:<output>'", "class folders"])
    refused(evaluate, {"y:kind": labels}, [scores], parts=["labels for kind", "outputs probs"])
    refused(evaluate, {"y": labels + 1}, [scores], parts=["label 3", "classes are 0 to 2", "--task"])
    refused(evaluate, {"y": labels}, [scores], task="regression", parts=["(240,)", "(240, 3)", "do not fit regression"])
    refused(evaluate, {"y": labels}, [scores], task="detection", error=UsageError, parts=["'detection'", "classification"])
    refused(evaluate, {"y": labels}, [scores], metric="rmse", error=UsageError, parts=["'rmse'", "accuracy, balanced_accuracy"])
    refused(evaluate, {"y": labels}, [scores], top_k=0, error=UsageError, parts=["top-0", "2 is the least"])
    refused(evaluate, {"y": labels}, [scores], [scores[:, :2]], error=ShapeError, parts=["(240, 3)", "(240, 2)"])
    refused(evaluate, {"y": labels}, [scores], [scores[:9]], error=ShapeError, parts=["(9, 3)", "240 samples", "original.npz"])
    refused(
        evaluate, {"y": labels}, [scores], [scores, scores], names_before=("a", "b"), error=ShapeError, parts=["probs", "a, b"]
    )
    refused(evaluate, {"y": labels}, [scores], names=("probs", "more"), parts=["file.npz", "no array for the output more"])


@pytest.mark.parametrize("whose", ["file.npz", "the original"])
def test_outputs_that_are_not_finite_are_refused_by_name(evaluate, whose):
    labels, scores = classes_of()
    broken = scores.copy()
    broken[3, 1], broken[4] = np.inf, np.nan
    file, original = (broken, scores) if whose == "file.npz" else (scores, broken)
    parts = [f"'probs' of {whose}", "4 NaN or infinite values of 720", "verify"]
    refused(evaluate, {"y": labels}, [file], [original], error=EdgewrightError, parts=parts)


def test_a_file_that_holds_no_outputs(evaluate, tmp_path):
    labels, scores = classes_of()
    evaluate({"y": labels}, [scores])
    (tmp_path / "file.npz").write_bytes(b"PK no")
    with pytest.raises(SamplesError, match=r"file\.npz holds no readable outputs"):
        evaluate_outputs(
            str(tmp_path / "file.npz"),
            None,
            {"source": str(tmp_path / "eval.npz")},
            specs("x", shape=(1, 1)),
            specs("probs"),
        )
