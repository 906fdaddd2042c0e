"""Planet: bad input is refused by name, real chips load and train, the metric is right at its edges."""
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import fbeta_score

from lessonlib import chips, planet
from lessonlib.core import ConfigError
from lessonlib.download import DataError
from lessonlib.pictures import prepare_whole


def write_chips(folder: Path, rows: dict[str, str]) -> Path:
    """Lay out noise with tags as the small sets are."""
    (folder / "train").mkdir(parents=True)
    for name in rows: Image.effect_noise((64, 64), 60).convert("RGB").save(folder / f"train/{name}.jpg")
    lines = "\n".join(f"{name},{tags}" for name, tags in rows.items())
    (folder / "labels.csv").write_text(f"image_name,tags\n{lines}\n", encoding="utf-8")
    return folder


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    return write_chips(tmp_path, {f"train_{i}": "clear primary" if i % 2 else "haze primary water" for i in range(10)})


def test_unknown_tag_is_named_with_its_line(ten: Path):
    table = ten / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("haze primary water", "haze primery", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"labels.csv, line 2: the chip train_0 has the tag 'primery'.*agriculture"):
        planet.get_dls(ten)


def test_chip_without_tags_is_named(ten: Path):
    table = ten / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8") + "train_99,\n", encoding="utf-8")
    with pytest.raises(DataError, match="train_99 has no tag"): planet.get_dls(ten)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0cut off"])
def test_broken_chip_is_named_and_skipped_only_when_asked(ten: Path, content: bytes):
    (ten / "train/train_3.jpg").write_bytes(content)
    with pytest.raises(DataError, match="train_3.jpg"): planet.get_dls(ten)
    with pytest.warns(UserWarning, match="train_3.jpg"): dls = planet.get_dls(ten, skip_broken=True, bs=4)
    assert len(dls.train.items) + len(dls.valid.items) == 9


def test_missing_chip_is_named(ten: Path):
    (ten / "train/train_7.jpg").unlink()
    with pytest.raises(DataError, match="train_7.jpg"): planet.get_dls(ten)


def test_empty_split_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="3 chip.*too few"):
        planet.get_dls(write_chips(tmp_path, {f"train_{i}": "clear primary" for i in range(3)}))


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="neither train_v2.csv nor labels.csv"): planet.get_dls(tmp_path)


def test_wrong_augmentation_is_refused(ten: Path):
    with pytest.raises(ConfigError, match="dihedral"): planet.get_dls(ten, augment="twist")


def test_another_split_is_refused_when_enlarging(ten: Path):
    cfg = {**planet.CONFIGS["sample"], "size": 32, "size_large": 48, "bs": 4, "seed": 1}
    learn = planet.get_learner(planet.get_dls(ten, **cfg), **cfg)
    with pytest.raises(DataError, match="split"): planet.enlarge(learn, {**cfg, "seed": 2})


def test_four_components_give_the_same_tensor_as_three(tmp_path: Path):
    colours = np.stack(np.broadcast_arrays(*np.ogrid[40:200:64j, 30:220:64j], 120), -1).astype(np.uint8)
    picture = Image.fromarray(colours)
    picture.save(tmp_path / "three.png")
    Image.merge("CMYK", [*(Image.fromarray(255 - colours[..., i]) for i in range(3)), Image.new("L", (64, 64))]).save(
        tmp_path / "four.jpg", quality=98)
    half = {"mean": (.5,) * 3, "std": (.5,) * 3}
    three, four = (prepare_whole(tmp_path / name, 64, **half) for name in ("three.png", "four.jpg"))
    assert (three - four).abs().mean() < .03


@settings(max_examples=60)
@given(arrays(np.float32, (6, 4), elements=st.floats(0, 1, width=32)), arrays(bool, (6, 4)),
       st.lists(st.floats(.01, .99), min_size=1, max_size=9, unique=True), st.sampled_from([.5, 1., 2.]))
def test_curve_is_scikit_learns(probs: np.ndarray, targs: np.ndarray, steps: list[float], beta: float):
    thresholds = np.sort(np.array(steps, dtype=np.float32))
    theirs = [fbeta_score(targs, probs > t, beta=beta, average="samples", zero_division=0) for t in thresholds]
    np.testing.assert_allclose(planet.f_beta_curve(probs, targs, thresholds, beta), theirs, atol=1e-9)
    np.testing.assert_allclose([planet.f_beta(probs > t, targs, beta) for t in thresholds], theirs, atol=1e-9)


def test_a_threshold_is_never_judged_on_what_chose_it():
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(200):
        probs, targs = rng.random((20, 17)), rng.random((20, 17)) < .3
        gaps.append(planet.f_beta_curve(probs, targs, planet.THRESHOLDS).max() - planet.crossed_f2(probs, targs))
    assert np.mean(gaps) > .005


@pytest.mark.skipif("LESSONS_DATA" not in os.environ, reason="LESSONS_DATA names no folder of real sets")
@pytest.mark.parametrize("name", ["planet_tiny", "planet_scenes"])
def test_real_chips_load_and_train(name: str):
    path = Path(os.environ["LESSONS_DATA"]) / name
    if not path.is_dir(): pytest.skip(f"{path} is not there")
    cfg = {**planet.CONFIGS["sample"], "bs": 4, "size": 64, "size_large": 96, "epochs": (1, 1)}
    dls = planet.get_dls(path, **cfg)
    xb, yb = dls.one_batch()
    assert xb.shape[1:] == (3, 64, 64) and yb.shape[1] == 17 and xb.abs().max() < 5
    learn = planet.get_learner(dls, **cfg)
    with learn.no_bar(), learn.no_logging(): planet.fit(learn, cfg)
    assert np.isfinite(learn.recorder.values[-1][1])


def test_the_maker_and_the_lesson_know_the_same_tags():
    from lessonlib.samples import planet as sample
    assert sample.TAGS == chips.TAGS


def test_submission_refuses_what_kaggle_would():
    sheet = chips.submission_df(["a", "b"], np.eye(2, 17), .2)
    for wrong, said in ((sheet.rename(columns={"tags": "labels"}), "columns"), (sheet.iloc[:1], "missing"),
                        (sheet.assign(image_name=["a", "c"]), "missing"), (sheet.assign(tags="fog"), "unknown tag")):
        with pytest.raises(DataError, match=said): chips.check_submission(wrong, sheet)
