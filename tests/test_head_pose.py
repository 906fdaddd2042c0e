"""Poses cut short, cameras missing, people on both sides of a split: what the head pose lesson must refuse, and what it must keep."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lessonlib import head_pose, points, poses
from lessonlib.core import ConfigError
from lessonlib.data import DataError
from lessonlib.models import load_model, save_model

CAMERA = """500 0 320
0 500 240
0 0 1

0 0 0 0

1 0 0
0 1 0
0 0 1

0 0 0

640 480
"""
REAL = Path(os.environ.get("LESSONS_DATA", "/nowhere")) / "biwi_head_pose"
PEOPLE = "01", "03", "07", "21", "22"


def write_pose(file, centre):
    """Write a pose as the makers of BIWI did: six digits, a blank after each number."""
    rows = ["1 0 0 ", "0 1 0 ", "0 0 1 ", "", " ".join(f"{number:g}" for number in centre) + " ", ""]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture
def heads(tmp_path):
    """Five folders of four frames: a bright disc on noise, where its pose says."""
    path, rng = tmp_path / "biwi_head_pose", np.random.default_rng(0)
    for folder in PEOPLE:
        (path / folder).mkdir(parents=True)
        (path / folder / "rgb.cal").write_text(CAMERA, encoding="utf-8")
        for number in range(4):
            x, y = rng.uniform((100, 100), (540, 380))
            pixels = rng.integers(0, 60, (480, 640, 3), dtype=np.uint8)
            rows, columns = np.ogrid[:480, :640]
            pixels[(rows - y)**2 + (columns - x)**2 < 50**2] = 220
            stem = path / folder / f"frame_{number:05}"
            Image.fromarray(pixels).save(f"{stem}_rgb.jpg")
            write_pose(Path(f"{stem}_pose.txt"), ((x - 320) * 2, (y - 240) * 2, 1000))
    return path


def get_dls(path, **settings):
    """Read small pictures in small batches."""
    return head_pose.get_dls(path, **{"size": 32, "bs": 4, "seed": 1, "same": "made", **settings})


def items(part): return [Path(item) for item in part.items]


# Poses and cameras

def test_poses_are_those_that_numpy_reads(heads):
    files = sorted(heads.glob("*/*_pose.txt"))
    found = poses.read_poses(files)
    assert found.shape == (20, 4, 3) and found.dtype == np.float64
    for file, pose in zip(files, found):
        assert np.array_equal(pose[3], np.genfromtxt(file, skip_header=3))
        assert np.array_equal(pose[:3], np.genfromtxt(file, skip_footer=1)[:3])


def test_poses_are_read_once_and_again_when_a_file_changes(heads):
    files = sorted(heads.glob("*/*_pose.txt"))
    before = poses.read_poses(files)
    assert poses.read_poses(files) is before
    write_pose(files[3], (1, 2, 3000))
    assert poses.read_poses(files)[3, 3].tolist() == [1, 2, 3000]


def test_poses_that_are_kept_cannot_be_changed(heads):
    with pytest.raises(ValueError): poses.read_poses(heads.glob("*/*_pose.txt"))[0] = 0


def test_no_poses_make_an_empty_array(): assert poses.read_poses([]).shape == (0, 4, 3)


@pytest.mark.parametrize("keep", [0, 10, 40])
def test_a_pose_cut_short_is_named(heads, keep):
    file = heads / "07/frame_00002_pose.txt"
    file.write_text(file.read_text("utf-8")[:keep], "utf-8")
    with pytest.raises(DataError, match="07.frame_00002_pose.txt"): get_dls(heads)


@pytest.mark.parametrize("word", ["x", "<html>", "nan", "inf", "1.2.3", "1e", "--1"])
def test_a_pose_that_is_not_numbers_is_named(heads, word):
    file = heads / "07/frame_00002_pose.txt"
    file.write_text(file.read_text("utf-8").replace("1 0 0", f"{word} 0 0", 1), "utf-8")
    with pytest.raises(DataError, match="07.frame_00002_pose.txt"): get_dls(heads)


def test_a_picture_without_a_pose_is_named(heads):
    (heads / "07/frame_00002_pose.txt").unlink()
    with pytest.raises(DataError, match="07.frame_00002_pose.txt is missing"): get_dls(heads)


def test_a_head_behind_the_camera_is_named(heads):
    write_pose(heads / "07/frame_00002_pose.txt", (1, 2, -1000))
    with pytest.raises(DataError, match="07.frame_00002_rgb.jpg"): get_dls(heads)


def test_a_missing_camera_is_named(heads):
    (heads / "07/rgb.cal").unlink()
    with pytest.raises(DataError, match="07.rgb.cal is missing"): get_dls(heads)


@pytest.mark.parametrize("keep", [0, 5, 30, -9])
def test_a_camera_cut_short_is_named(heads, keep):
    (heads / "07/rgb.cal").write_text(CAMERA[:keep], "utf-8")
    with pytest.raises(DataError, match="07.rgb.cal"): get_dls(heads)


@pytest.mark.parametrize("text", [CAMERA.replace("500", "f", 1), "<html>not found</html>", CAMERA + "7"])
def test_a_file_that_is_no_camera_is_named(heads, text):
    (heads / "07/rgb.cal").write_text(text, "utf-8")
    with pytest.raises(DataError, match="07.rgb.cal"): get_dls(heads)


def test_every_folder_has_its_own_camera(heads):
    (heads / "07/rgb.cal").write_text(CAMERA.replace("320", "330"), "utf-8")
    table = head_pose.head_table(heads)
    shifted = head_pose.head_table(heads).x - [10 if folder == "07" else 0 for folder in table.folder]
    read = poses.read_poses(str(file).replace("_rgb.jpg", "_pose.txt") for file in table.file)
    assert np.allclose(shifted, read[:, 3, 0] / read[:, 3, 2] * 500 + 320)


def test_rotation_and_shift_between_the_cameras_count():
    turn = np.array([[0., -1, 0], [1, 0, 0], [0, 0, 1]])
    camera = poses.Calibration(np.diag([500., 400, 1]), turn, np.array([0, 0, 500.]), (640, 480))
    assert np.allclose(camera.project(np.array([[100., 50, 500]])), [[-25, 40]])


# Pictures

@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_named(heads, content):
    (heads / "07/frame_00002_rgb.jpg").write_bytes(content)
    with pytest.raises(DataError, match="07.frame_00002_rgb.jpg"): get_dls(heads)


def test_a_cut_off_picture_is_named(heads):
    file = heads / "07/frame_00002_rgb.jpg"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(DataError, match="07.frame_00002_rgb.jpg"): get_dls(heads)


def test_a_picture_of_another_size_than_its_camera_is_named(heads):
    Image.new("RGB", (320, 240)).save(heads / "07/frame_00002_rgb.jpg")
    with pytest.raises(DataError, match="07.frame_00002_rgb.jpg has 320 x 240"): get_dls(heads)


@pytest.mark.parametrize("made", [(), ("01",), ("01", "12")])
def test_an_empty_set_is_named(tmp_path, made):
    for folder in made: (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=tmp_path.name): get_dls(tmp_path)


# The split

def test_nobody_is_on_both_sides(heads):
    for fold in range(3):
        dls = get_dls(heads, folds=3, fold=fold)
        people = [{poses.person_of(file.parent.name, "made") for file in items(part)}
                  for part in (dls.train, dls.valid)]
        assert not people[0] & people[1] and people[0] | people[1] == {"01", "03", "07"}


def test_the_folds_hold_everybody_out_once(heads):
    table = head_pose.head_table(heads, "made")
    for seed in range(4):
        held = [head_pose.split_people(table, 3, fold, seed=seed) for fold in range(3)]
        assert (np.sum(held, axis=0) == 1).all()


def test_people_recorded_twice_depend_on_the_set():
    assert [poses.person_of("21", same) for same in ("biwi", "made", "none")] == ["02", "03", "21"]
    for same, number in ("biwi", 20), ("made", 20), ("none", 24):
        assert len({poses.person_of(f"{n:02}", same) for n in range(1, 25)}) == number


def test_an_unknown_table_of_people_is_an_error(heads):
    with pytest.raises(ConfigError, match="twins"): get_dls(heads, same="twins")


def test_a_person_may_be_chosen(heads):
    dls = get_dls(heads, valid="03")
    assert {file.parent.name for file in items(dls.valid)} == {"03", "21"}


@pytest.mark.parametrize(("settings", "message"), [
    ({"valid": "99"}, "99"), ({"valid": "01 x"}, "no person is called x"), ({"valid": "21"}, "21"),
    ({"valid": "01 03 07"}, "none to learn from"), ({"folds": 5, "fold": 4}, "leaves it empty"),
    ({"folds": 1, "fold": 0}, "none to learn from")])
def test_an_unknown_person_and_an_empty_part_are_errors(heads, settings, message):
    with pytest.raises(DataError, match=message) as caught: get_dls(heads, **settings)
    assert "biwi_head_pose" in str(caught.value)


def test_the_split_does_not_depend_on_place_or_size(heads, tmp_path):
    before = [file.name for file in items(get_dls(heads).valid)]
    moved = shutil.copytree(heads, tmp_path / "another place")
    assert [file.name for file in items(get_dls(moved, size=48).valid)] == before


# Batches

def test_points_are_x_then_y_in_the_unit_square(heads):
    dls = get_dls(heads)
    table = head_pose.head_table(heads, "made").set_index("file")
    for part in dls.train_ds, dls.valid_ds:
        for item, (_, point) in zip(part.items, part): assert np.allclose(point, table.loc[item, ["x", "y"]].astype(float) * [43 / 640, 32 / 480])
    _, points = dls.valid.one_batch()
    wanted = table.loc[dls.valid.items[:len(points)], ["x", "y"]].to_numpy() / [320, 240] - 1
    assert np.allclose(points[:, 0].cpu(), wanted, atol=1e-5)


def test_the_disc_is_where_the_point_says_after_augmentation(heads):
    for seed in range(3):
        torch.manual_seed(seed)
        images, points = (part.as_subclass(torch.Tensor).cpu() for part in get_dls(heads, size=96, bs=16).train.one_batch())
        grey = images.mean(1)
        bright = (grey > grey.amin((1, 2), keepdim=True) * .4 + grey.amax((1, 2), keepdim=True) * .6).float()
        for mask, point in zip(bright, points[:, 0]):
            if not (point.abs() < .7).all(): continue
            rows, columns = mask.nonzero(as_tuple=True)
            centre = torch.stack([(columns.float().mean() + .5) / 64 - 1, (rows.float().mean() + .5) / 48 - 1])
            assert ((centre - point) * torch.tensor([64, 48])).norm() < 1.5


def test_a_size_that_does_not_fit_the_grid_is_an_error(heads):
    with pytest.raises(ConfigError, match="multiple of 16"): get_dls(heads, size=100)


# Model and loss

@pytest.mark.parametrize("head", ["heat map", "average"])
@pytest.mark.parametrize("arch", ["efficientnet_lite0", "resnet18"])
def test_models_answer_with_a_point_in_the_frame(arch, head):
    model = head_pose.build_model(arch, head).eval()
    with torch.no_grad(): points = model(torch.randn(2, 3, 64, 96))
    assert points.shape == (2, 1, 2) and (points.abs() <= 1).all()


def test_an_unknown_head_is_an_error():
    with pytest.raises(ConfigError, match="anchors"): head_pose.build_model("resnet18", "anchors")


def test_the_soft_argmax_finds_a_peak_and_has_gradients():
    scores = torch.zeros(1, 2, 5, 7)
    scores[0, 0, 4, 0] = scores[0, 1, 0, 6] = 50
    scores.requires_grad_()
    places = head_pose.SoftArgmax()(scores)
    assert torch.allclose(places, torch.tensor([[[-6 / 7, 4 / 5], [6 / 7, -4 / 5]]]), atol=1e-4)
    head_pose.SoftArgmax()(scores * .01).sum().backward()
    assert (scores.grad != 0).all()


def test_points_outside_have_no_influence():
    preds, targs = torch.zeros(3, 1, 2, requires_grad=True), torch.tensor([[[.5, .5]], [[1.5, 0]], [[0, -7.]]])
    loss = points.masked_mse(preds, targs)
    loss.backward()
    assert loss.item() == pytest.approx(.25) and (preds.grad[1:] == 0).all() and (preds.grad[0] != 0).all()


def test_no_point_inside_makes_no_error():
    preds = torch.zeros(2, 1, 2, requires_grad=True)
    loss = points.masked_mse(preds, torch.full((2, 1, 2), 3.))
    loss.backward()
    assert loss.item() == 0 and (preds.grad == 0).all()


# Training and keeping

def test_a_saved_model_finds_the_same_heads(heads, tmp_path):
    settings = {**head_pose.CONFIGS["sample"], "epochs": 1, "size": 48, "bs": 4, "folds": 3}
    learn = head_pose.get_learner(get_dls(heads, **settings), **settings)
    with learn.no_bar(), learn.no_logging(): head_pose.fit(learn, settings)
    found = head_pose.predictions(learn)
    assert np.isfinite(found.error).all() and list(found.file) == items(learn.dls.valid)
    people = head_pose.error_by_person(found)
    assert set(people.index) == set(found.person) and people.frames.sum() == len(found)
    folder = save_model(tmp_path / "model", learn.model, head_pose.make_card(found, **settings))
    model, card = load_model(folder)
    for row in found.itertuples():
        assert head_pose.predict_picture(model, card, row.file) == pytest.approx((row.answer_x, row.answer_y), abs=.5)
    (tmp_path / "note.jpg").write_text("no picture", encoding="utf-8")
    with pytest.raises(DataError, match="note.jpg"): head_pose.predict_picture(model, card, tmp_path / "note.jpg")


def test_cross_validation_judges_everyone_once(heads):
    settings = {**head_pose.CONFIGS["sample"], "epochs": 1, "size": 32, "bs": 4, "folds": 3}
    found = head_pose.cross_validate(heads, settings, seed=1)
    assert len(found) == 20 and found.file.is_unique and set(found.fold) == {0, 1, 2}


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real frames in LESSONS_DATA")
def test_the_real_set_loads_and_trains():
    settings = {**head_pose.CONFIGS["small"], "epochs": 1}
    table = head_pose.head_table(REAL)
    frames = sorted(REAL.glob("[0-9][0-9]/*_rgb.jpg"))
    assert list(table.file) == frames and table.x.between(0, 640).all() and table.y.between(0, 480).all()
    learn = head_pose.get_learner(head_pose.get_dls(REAL, seed=1, **settings), **settings)
    with learn.no_bar(), learn.no_logging(): head_pose.fit(learn, settings)
    assert np.isfinite(head_pose.predictions(learn).error).all()
