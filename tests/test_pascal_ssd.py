"""The detection lesson: batches whose boxes fit their pictures, heads that answer for their anchors, models that survive saving."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lessonlib import box_learning, pascal_ssd
from lessonlib.average_precision import mean_average_precision
from lessonlib.boxes import largest
from lessonlib.core import ConfigError
from lessonlib.data import DataError
from lessonlib.models import load_model, save_model
from lessonlib.pascal import Picture, read_pascal, xml_text
from lessonlib.ssd import detector_body, head_anchors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve dark pictures with none to three bright rectangles, dogs and cats."""
    path, rng = tmp_path_factory.mktemp("pascal_2007"), np.random.default_rng(0)
    for name in ("Annotations", "JPEGImages"): (path / name).mkdir()
    for i in range(12):
        size = [(96, 72), (72, 96)][i % 2]
        pixels, boxes = np.full((*size[::-1], 3), 20, np.uint8), []
        for _ in range(i % 4):
            x, y = rng.integers(0, 40, 2)
            w, h = rng.integers(15, 30, 2)
            pixels[y:y + h, x:x + w] = rng.integers(100, 255, 3)
            boxes.append((x, y, x + w, y + h))
        names = tuple("dog" if n % 2 else "cat" for n in range(len(boxes)))
        picture = Picture(Path(f"{i:06}.jpg"), size, np.array(boxes, np.float32).reshape(-1, 4), names,
                          np.zeros(len(boxes), bool), Path(f"{i:06}.xml"))
        Image.fromarray(pixels).save(path / "JPEGImages" / picture.file)
        (path / "Annotations" / picture.source).write_text(xml_text(picture), "utf-8")
    return path


def get_dls(path, **settings): return pascal_ssd.get_dls(path, **{"size": 64, "bs": 4, "seed": 1, "valid_pct": .34, **settings})


def test_boxes_of_the_validation_set_fit_their_pictures(folder):
    dls = get_dls(folder)
    truth = box_learning.truths(pascal_ssd.pictures_of(dls, "valid"), dls.classes)
    boxes, labels = [], []
    for _, some, numbers in dls.valid:
        boxes += list(some.as_subclass(torch.Tensor))
        labels += list(numbers.as_subclass(torch.Tensor))
    for one, other, n, m in zip(boxes, truth.boxes, labels, truth.labels):
        assert n[n > 0].tolist() == m[m > 0].tolist()
        assert torch.allclose(one[n > 0], other[m > 0], atol=.02)


def test_batches_are_padded_at_the_end_and_pictures_without_objects_are_fine(folder):
    dls = get_dls(folder)
    for dl in (dls.train, dls.valid):
        for images, boxes, labels in dl:
            assert images.shape[1:] == (3, 64, 64) and boxes.shape[:2] == labels.shape and boxes.abs().max() <= 1
            assert ((labels[:, 1:] > 0) <= (labels[:, :-1] > 0)).all() and int(labels.max()) <= len(dls.classes)
    assert dls.classes == ["cat", "dog"]


def test_bright_pixels_are_inside_moved_boxes(folder):
    dls = get_dls(folder, zoom=(1., 1.4))
    torch.manual_seed(0)
    for batch in dls.train:
        for image, some, numbers in zip(*(part.cpu().as_subclass(torch.Tensor) for part in batch)):
            for box in some[numbers > 0]:
                x1, y1, x2, y2 = ((box + 1) * 32).round().long().clamp(0, 64).tolist()
                if x2 - x1 > 6 and y2 - y1 > 6: assert image[:, y1 + 2:y2 - 2, x1 + 2:x2 - 2].amax(0).float().mean() > -.4


def test_the_split_is_seeded_or_by_lists(folder):
    pictures = read_pascal(folder)
    one, again, other = (pascal_ssd.split_pictures(pictures, .3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other) and one.tolist().count("valid") == 3
    assert set(one) == {"train", "valid"}
    assert pascal_ssd.split_pictures(in_parts(pictures, "train", "valid")).tolist() == ["train"] * 6 + ["valid"] * 6
    three = pascal_ssd.split_pictures(in_parts(pictures, "train", "test"), .5, 1).tolist()
    assert three[6:] == ["test"] * 6 and three[:6].count("valid") == 3


def in_parts(pictures, *parts):
    """The same pictures, in as many equal parts."""
    return [replace(p, part=parts[i * len(parts) // len(pictures)]) for i, p in enumerate(pictures)]


def test_the_test_part_is_scored_and_never_learnt_from(folder, monkeypatch):
    pictures = in_parts(read_pascal(folder), "train", "valid", "test")
    monkeypatch.setattr(pascal_ssd, "read_pascal", lambda *_: pictures)
    dls = get_dls(folder)
    assert [len(dl.dataset) for dl in dls.loaders] == [4, 4, 4]
    learn = pascal_ssd.get_learner(dls, head="grid", size=64)
    value, judged = pascal_ssd.score(learn)
    found = box_learning.find_all(learn, dls.loaders[2])
    assert [p.file for p in judged] == [p.file for p in pictures[8:]]
    assert value == pytest.approx(mean_average_precision(found, box_learning.truths(pictures[8:], dls.classes), 2), nan_ok=True)
    for one, again in zip(dls.loaders[2], dls.loaders[2]): assert torch.equal(one[0], again[0]) # Nothing is moved


def test_without_a_test_part_the_validation_set_is_scored(folder):
    dls = get_dls(folder)
    assert [p.file for p in pascal_ssd.score(pascal_ssd.get_learner(dls, head="grid", size=64))[1]] == \
        [p.file for p in pascal_ssd.pictures_of(dls, "valid")]


def test_what_shall_stay_stays(folder):
    learn = pascal_ssd.get_learner(get_dls(folder), size=64)
    groups = [[p.detach().clone() for p in group] for group in learn.splitter(learn.model)]
    with learn.no_bar(), learn.no_logging(): pascal_ssd.fit(learn, {"epochs": (0, 1), "still": 1, "lrs": (1e-3, 1e-2)})
    same = [all(torch.equal(a, b) for a, b in zip(group, now)) for group, now in zip(groups, learn.splitter(learn.model))]
    assert same == [True, False, False]


@pytest.mark.parametrize("head", ["grid", "grids", "pyramid"])
def test_a_learner_trains_and_its_metric_is_that_of_its_detections(folder, head):
    dls = get_dls(folder)
    learn = pascal_ssd.get_learner(dls, head=head, size=64)
    with learn.no_bar(), learn.no_logging(): pascal_ssd.fit(learn, {"epochs": (1, 1), "still": 0, "lrs": (1e-4, 1e-3)})
    held, found = pascal_ssd.pictures_of(dls, "valid"), box_learning.find_all(learn)
    score = mean_average_precision(found, box_learning.truths(held, dls.classes), 2)
    assert learn.recorder.losses[-1].isfinite() and learn.recorder.values[-1][-1] == pytest.approx(score, abs=1e-6, nan_ok=True)
    assert len(found.boxes) == len(held) and found.boxes.abs().max() <= 1


def test_cached_maps_are_those_of_the_body_and_mirrored_boxes_fit(folder):
    dls = get_dls(folder)
    body = detector_body("efficientnet_lite0").eval()
    cached = box_learning.cache_features(dls, body, bs=4)
    assert len(cached.train_ds) == 2 * len(dls.train_ds) and len(cached.valid_ds) == len(dls.valid_ds)
    plain, mirror = [row for row in cached.train_ds if row[2].any()][:1][0], None
    for row in cached.train_ds:
        flipped = torch.stack([-row[1][:, 2], row[1][:, 1], -row[1][:, 0], row[1][:, 3]], 1)
        if torch.allclose(flipped * (row[2] > 0)[:, None], plain[1], atol=1e-6) and row is not plain: mirror = row
    assert mirror is not None and mirror[2].tolist() == plain[2].tolist()
    learn = pascal_ssd.train_head(cached, "grid", "efficientnet_lite0", 64, epochs=1, classes="bce", place="l1")
    assert len(box_learning.find_all(learn).boxes) == len(dls.valid_ds)


def test_a_saved_model_finds_the_same(folder, tmp_path):
    dls = get_dls(folder)
    learn = pascal_ssd.get_learner(dls, size=64)
    card = pascal_ssd.make_card(.5, dls.classes, arch="efficientnet_lite0", head="pyramid", size=64, epochs=1)
    model, again = load_model(save_model(tmp_path / "model", learn.model.cpu(), card))
    file = pascal_ssd.pictures_of(dls, "valid")[0].file
    found = pascal_ssd.predict_picture(model, again, file, least=0.)
    assert found and {thing["name"] for thing in found} <= {"cat", "dog"}
    assert all(0 <= thing["box"][0] <= thing["box"][2] <= 96 for thing in found)
    (tmp_path / "broken.jpg").write_text("no picture", "utf-8")
    for name in ("broken.jpg", "missing.jpg"):
        with pytest.raises(DataError, match=name): pascal_ssd.predict_picture(model, again, tmp_path / name)


def test_the_largest_object():
    boxes = torch.tensor([[[0., 0, .1, .1], [-1, -1, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    box, number = largest(boxes, torch.tensor([[3, 5], [0, 0]]))
    assert box.tolist() == [[-1, -1, 0, 0], [0, 0, 0, 0]] and number.tolist() == [4, 0]


def test_wrong_settings_are_refused(folder):
    with pytest.raises(ConfigError, match="a multiple of 32"): head_anchors("pyramid", 100)
    with pytest.raises(ConfigError, match="'grid', 'grids' or 'pyramid'"): pascal_ssd.build_model("efficientnet_lite0", "yolo", 3)
    with pytest.raises(DataError, match="holds no boxes"): get_dls(folder / "JPEGImages")
