"""The made scenes of the detection lesson: exact boxes, the same files each time, all classes, what hides what."""
import numpy as np
import pytest
from PIL import Image

from lessonlib.pascal import CLASSES, read_pascal
from lessonlib.samples.pascal import DRAWN, LEAST, Thing, _visible, draw_scene, make_pascal
from lessonlib.samples.pascal_pen import Cutout, Pen, cut_out, smooth
from lessonlib.samples.pascal_places import PLACES, empty_place


@pytest.fixture(scope="module")
def scenes(): return [draw_scene(i)[1] for i in range(1, 61)]


def thing(x, near, size=(20, 20), name="car"):
    full = Image.new("L", size, 255)
    return Thing(name, Cutout(full.convert("RGB"), full), x, 5, near, "ground")


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("px", [12, 60, 150])
def test_every_class_can_be_drawn_at_any_size(name, px):
    cut = cut_out(DRAWN[name](px, np.random.default_rng(px)))
    assert cut.image.size == cut.mask.size and cut.mask.getbbox() == (0, 0, *cut.mask.size)
    assert .6 * px <= cut.mask.height <= px + 2
    assert np.asarray(cut.image)[np.asarray(cut.mask) > 127].std() > 5


def test_the_same_seed_draws_the_same_picture_and_another_another():
    one, again, other = (np.asarray(draw_scene(5, seed)[0]) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_boxes_are_inside_and_have_an_area(scenes):
    for scene in scenes:
        assert 1 <= len(scene.names) <= 6 and set(scene.names) <= set(CLASSES)
        assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] <= scene.size).all()
        assert (scene.areas >= 40).all()


def test_all_classes_and_all_sizes_occur(scenes):
    assert {name for scene in scenes for name in scene.names} == set(DRAWN)
    shares = np.concatenate([np.sqrt(scene.areas / np.prod(scene.size)) for scene in scenes])
    assert shares.min() < .15 and shares.max() > .5 and {len(scene.names) for scene in scenes} >= {1, 2, 3, 4}


def test_a_box_is_that_of_the_pixels_that_are_seen():
    """Compared with a picture of labels, painted from the farthest to the nearest."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        things = [thing(int(rng.integers(-10, 60)), float(rng.random()), tuple(rng.integers(5, 40, 2).tolist())) for _ in range(5)]
        seen = _visible(things, (64, 48))
        labels = np.full((48, 64), -1)
        for n, each in reversed(list(enumerate(seen))):
            w, h = each.thing.cutout.mask.size
            labels[max(each.thing.y, 0):each.thing.y + h, max(each.thing.x, 0):max(each.thing.x + w, 0)] = n
        for n, each in enumerate(seen):
            rows, cols = np.nonzero(labels == n)
            assert each.box == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
            assert each.share == pytest.approx(len(rows) / each.thing.area()) and each.share >= LEAST


def test_what_is_almost_hidden_is_taken_away():
    assert [seen.thing.near for seen in _visible([thing(0, 1.), thing(2, 2.)], (40, 30))] == [2.]
    assert len(_visible([thing(-15, 1.)], (40, 30))) == 0


def test_the_set_is_read_like_the_original_and_does_not_depend_on_the_processes(tmp_path):
    rooms = [make_pascal(tmp_path / str(n), 10, workers=n) for n in (1, 2) if not (tmp_path / str(n)).mkdir()]
    files = [sorted(file.relative_to(room) for file in room.rglob("*") if file.is_file()) for room in rooms]
    assert files[0] == files[1] and len(files[0]) == 23
    for file in files[0]: assert (rooms[0] / file).read_bytes() == (rooms[1] / file).read_bytes()
    found = read_pascal(rooms[0])
    assert [p.part for p in found] == ["train"] * 8 + ["valid", "test"]
    for picture, scene in zip(found, [draw_scene(i)[1] for i in range(1, 11)]):
        assert picture.names == scene.names and np.array_equal(picture.boxes, scene.boxes)
        assert np.array_equal(picture.difficult, scene.difficult)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_places_have_the_size_that_was_asked_for(place):
    stage = empty_place(place, (96, 72), np.random.default_rng(0))
    assert stage.image.size == (96, 72) and 0 < stage.row < 72 and stage.camera > 0


def test_parts_that_stick_out_are_cut():
    pen = Pen(1., 20, np.random.default_rng(0))
    pen.oval(0, 0, .5, .5, (200, 0, 0))
    pen.box(2, 2, 3, 3, (0, 200, 0))
    pen.line([(.5, .5), (3, 3)], .1, (0, 0, 200))
    assert cut_out(pen).mask.size == (20, 20)
    assert min(x for x, _ in smooth([(0, 0), (1, 0), (1, 1)])) > 0


def test_an_empty_drawing_is_one_pixel(): assert cut_out(Pen(1., 20, np.random.default_rng(0))).mask.size == (1, 1)
