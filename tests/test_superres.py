"""Broken pictures, bombs, interrupted runs, odd sizes and kinds: what restoring must refuse, and what it must keep."""
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import lessonlib.crappify as crappify_module
from lessonlib import superres_gan
from lessonlib.adversary import ShowSamples, TrainCritic, build_critic, critic_loss, through_jpeg
from lessonlib.core import Config, ConfigError, scaled
from lessonlib.crappify import MAX_PIXELS, crappify, open_photo
from lessonlib.data import DataError
from lessonlib.feature_loss import FeatureLoss
from lessonlib.generator import build_generator
from lessonlib.likeness import PerceptualDistance, psnr
from lessonlib.models import load_model, save_model
from lessonlib.noise_gan import fit_wgan
from lessonlib.photo_pairs import PhotoPairs, pair_loaders
from lessonlib.tiles import in_tiles

CFG = Config(superres_gan.CONFIGS["sample"], side=24, stages=((48, 32),), bs=4, valid_pct=.25, widths=(16, 12, 10, 8),
             window=4, epochs=(1,), epochs_features=1, epochs_critic=1, epochs_gan=(2,), critic=(8, 16))


def draw(seed, size=(56, 48)):
    """Draw coloured bars of a random slope."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size[1], :size[0]]
    wave = np.sin((x * rng.normal() + y * rng.normal()) / 4)[..., None] * rng.normal(0, 60, 3) + rng.integers(60, 200, 3)
    return Image.fromarray(wave.clip(0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Sixteen pictures in two folders; results go elsewhere."""
    monkeypatch.setenv("LESSONS_OUT", str(tmp_path / "out"))
    for number in range(16):
        folder = tmp_path / f"set/{'cats' if number % 2 else 'dogs'}"
        folder.mkdir(parents=True, exist_ok=True)
        draw(number).save(folder / f"{number:02d}.jpg", quality=95)
    return tmp_path / "set"


def bytes_below(folder): return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*")}


def cut_off(file):
    draw(0, (300, 300)).save(file, "JPEG")
    file.write_bytes(file.read_bytes()[:2000])


BROKEN = {"cut off.jpg": (cut_off, "cannot be read"),
          "dot.png": (lambda file: Image.new("RGB", (1, 1)).save(file), "1 x 1 pixels"),
          "bomb.png": (lambda file: Image.new("1", (20_000, 20_000)).save(file), "bomb|expected 80,000,000"),
          "text.jpg": (lambda file: file.write_text("no picture", encoding="utf-8"), "cannot be read"),
          "empty.jpg": (lambda file: file.touch(), "cannot be read")}


# Spoiling

@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named_and_the_rest_is_done(photos, tmp_path, name):
    BROKEN[name][0](photos / name)
    before = bytes_below(photos)
    report = crappify(photos, tmp_path / "bad", side=24)
    assert list(report.refused) == [name] and report.written == len(report.names) == 16
    assert any(word in report.refused[name] for word in BROKEN[name][1].split("|"))
    assert bytes_below(photos) == before
    assert sorted(bytes_below(tmp_path / "bad")) == sorted(["crappify.json", *report.names])


def test_a_huge_picture_is_refused_from_its_header_alone(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 %d 9000 255\n" % (MAX_PIXELS // 9000 + 1))
    with pytest.raises(DataError, match=r"x\.pgm claims 8,889 x 9,000 pixels"): open_photo(tmp_path / "x.pgm")


def test_the_bytes_depend_on_name_and_seed_only(photos, tmp_path):
    first = crappify(photos, tmp_path / "a", side=24, seed=3, workers=1)
    other = tmp_path / "moved"
    for file in sorted(photos.rglob("*.jpg"), reverse=True):
        (other / file.relative_to(photos)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other / file.relative_to(photos))
    second = crappify(other, tmp_path / "b", side=24, seed=3)
    assert first.names == second.names and bytes_below(tmp_path / "a") == bytes_below(tmp_path / "b")
    crappify(photos, tmp_path / "c", side=24, seed=4)
    assert all(bytes_below(tmp_path / "c")[name] != bytes_below(tmp_path / "a")[name] for name in first.names)


def test_two_processes_write_what_one_writes(photos, tmp_path, monkeypatch):
    crappify(photos, tmp_path / "one", side=24, workers=1)
    (tmp_path / "last").mkdir()
    for folder in ("cats", "dogs"): (tmp_path / "last" / folder).mkdir()
    crappify_module._from_the_end(str(photos), str(tmp_path / "last"), 24, 0, True)
    assert bytes_below(tmp_path / "last").items() == {name: data for name, data in bytes_below(tmp_path / "one").items()
                                                      if name.endswith(".jpg")}.items()
    monkeypatch.setattr(crappify_module, "FEW", 0)
    (photos / "cats/broken.jpg").write_text("no picture", encoding="utf-8")
    report = crappify(photos, tmp_path / "two", side=24)
    assert (report.written, report.kept, list(report.refused)) == (16, 0, ["cats/broken.jpg"])
    assert bytes_below(tmp_path / "two") == bytes_below(tmp_path / "one")


def test_another_picture_more_changes_no_other(photos, tmp_path):
    crappify(photos, tmp_path / "a", side=24)
    draw(99).save(photos / "00 first.png")
    assert crappify(photos, tmp_path / "b", side=24).written == 17
    assert bytes_below(tmp_path / "a").items() <= bytes_below(tmp_path / "b").items()


def test_an_interrupted_run_goes_on(photos, tmp_path):
    crappify(photos, tmp_path / "bad", side=24)
    whole = bytes_below(tmp_path / "bad")
    for number, file in enumerate(sorted((tmp_path / "bad").rglob("*.jpg"))):
        if number % 3: continue
        file.with_name(f".{file.name}.part").write_bytes(file.read_bytes()[:100]) # killed while it was written
        file.unlink()
    report = crappify(photos, tmp_path / "bad", side=24)
    assert (report.written, report.kept) == (6, 10) and bytes_below(tmp_path / "bad") == whole


def test_originals_and_copies_of_another_kind_are_safe(photos, tmp_path):
    crappify(photos, tmp_path / "bad", side=24)
    for dest in (photos, photos / "cats", tmp_path):
        with pytest.raises(DataError, match="overlap"): crappify(photos, dest)
    for change in ({"side": 30}, {"side": 24, "seed": 1}, {"side": 24, "number": False}):
        with pytest.raises(DataError, match="was made with"): crappify(photos, tmp_path / "bad", **change)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    with pytest.raises(DataError, match="holds other files"): crappify(photos, tmp_path / "mine")
    with pytest.raises(DataError, match="holds no pictures"): crappify(tmp_path / "none", tmp_path / "new")


# The split

def halves(dls): return [sorted(file.name for file in part.items) for part in (dls.train, dls.valid)]


def test_the_same_seed_gives_the_same_split_in_another_process(photos, monkeypatch):
    monkeypatch.setenv("LESSONS_SEED", "7")
    here = halves(superres_gan.get_dls(photos, **CFG))
    code = ("import json, sys; from lessonlib.superres_gan import get_dls; dls = get_dls(sys.argv[1], side=24, "
            "stages=((48, 32),), valid_pct=.25); print(json.dumps([sorted(f.name for f in part.items) "
            "for part in (dls.train, dls.valid)]))")
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code, photos], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == here
    monkeypatch.setenv("LESSONS_SEED", "8")
    assert halves(superres_gan.get_dls(photos, **CFG)) != here


def test_broken_pictures_are_left_out_with_a_warning(photos):
    for name in BROKEN: BROKEN[name][0](photos / name)
    with pytest.warns(UserWarning, match="5 pictures are left out"): dls = superres_gan.get_dls(photos, **CFG)
    assert sum(map(len, halves(dls))) == 16 and not {*halves(dls)[0], *halves(dls)[1]} & set(BROKEN)


def test_a_picture_and_what_is_made_of_it_are_in_one_half(photos, tmp_path):
    dls = superres_gan.get_dls(photos, **CFG)
    train, valid = halves(dls)
    assert not set(train) & set(valid) and len(valid) == 4
    for part in (dls.train, dls.valid):
        assert [file.name for file in part.dataset.bad] == [file.name for file in part.items]
    with pytest.raises(DataError, match="one half"):
        pair_loaders(["cats/01.jpg", "dogs/00.jpg"], ["dogs/00.jpg"], photos, tmp_path, 48, 32)


def test_both_pictures_of_a_pair_are_cut_alike(photos, tmp_path):
    report = crappify(photos, tmp_path / "bad", side=10_000, number=False) # hardly spoilt: only a JPEG
    pairs = PhotoPairs([photos / name for name in report.names], [report.path / name for name in report.names], 48, 32)
    torch.manual_seed(0)
    gains = []
    for x, y in (pairs[i] for i in range(16) for _ in range(3)):
        moved = torch.stack([y.flip(-1), y.roll(2, -1), y.roll(2, -2)])
        gains.append(float(psnr(x[None], y[None]) - psnr(x[None].expand_as(moved), moved).max()))
    assert min(gains) > -.1 and np.mean(gains) > 2 # Some pictures look the same when they are mirrored
    with pytest.raises(ConfigError, match="crop=64"): PhotoPairs([], [], 48, 64)


def test_too_few_pictures_and_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_OUT", str(tmp_path / "out"))
    (tmp_path / "few").mkdir()
    with pytest.raises(DataError, match="holds no pictures"): superres_gan.get_dls(tmp_path / "few", **CFG)
    draw(0).save(tmp_path / "few/one.jpg")
    with pytest.raises(DataError, match="0 to validate"): superres_gan.get_dls(tmp_path / "few", **CFG)


# The generator, tiles

def changing(window=4, widths=(16, 12, 10, 8)):
    """A generator that does something: drawn at random, its last layer and attention too."""
    torch.manual_seed(0)
    model = build_generator("efficientnet_lite0", widths, window, pretrained=True).eval()
    torch.nn.init.normal_(model.last.weight, std=.05)
    torch.nn.init.ones_(model.middle[1].gamma)
    return model


def test_untrained_it_is_the_baseline():
    x = torch.rand(2, 3, 37, 51)
    assert torch.equal(build_generator("efficientnet_lite0", (16, 12, 10, 8), 4).eval()(x), x)


@pytest.mark.parametrize("size", [(300, 420), (257, 400), (64, 300)])
def test_tiles_equal_the_whole(size):
    model, x = changing(), torch.rand(1, 3, *size)
    with torch.no_grad(): whole = model(x).clamp(0, 1)
    tiled = in_tiles(model, x, 320, 128)
    assert (tiled - whole).abs().max() < 1e-3 and (whole - x).abs().mean() > .005


def test_tiles_that_do_not_fit_are_refused():
    for tile, overlap in ((100, 32), (256, 30), (256, 128), (256, -32)):
        with pytest.raises(ConfigError, match="expected multiples of 32"): in_tiles(changing(), torch.rand(1, 3, 9, 9), tile, overlap)


def test_pictures_of_a_batch_do_not_look_at_each_other():
    model, x = changing().train(), torch.rand(3, 3, 32, 32)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("size", [(1, 1), (50, 70), (200, 3)])
def test_any_size_and_kind_comes_back_as_it_was(mode, size):
    image = draw(1, size).convert(mode)
    if "A" in mode: image.putalpha(draw(2, size).convert("L"))
    restored = superres_gan.restore(image, changing())
    assert (restored.mode, restored.size) == (mode, size)
    if "A" in mode: assert np.array_equal(np.asarray(restored)[..., -1], np.asarray(image)[..., -1])
    assert np.array_equal(superres_gan.restore(image, build_generator("efficientnet_lite0", (16, 8), 4)), image)


@pytest.mark.parametrize(("image", "mode"), [
    (draw(1).convert("P"), "RGB"), (draw(1).convert("CMYK"), "RGB"), (draw(1).convert("1"), "L"),
    (Image.fromarray(np.linspace(0, 65535, 56 * 48, dtype=np.uint16).reshape(48, 56)), "L")])
def test_other_kinds_become_the_nearest_one(image, mode):
    restored = superres_gan.restore(image, changing())
    assert (restored.mode, restored.size) == (mode, image.size)


def test_what_was_held_sideways_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(1, (64, 40)).save(tmp_path / "held.jpg", exif=exif)
    for source in (tmp_path / "held.jpg", Image.open(tmp_path / "held.jpg")):
        assert superres_gan.restore(source, changing()).size == (40, 64)
        assert superres_gan.restore(source, changing(), scale=1.5).size == (60, 96)


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "dot.png"])
def test_restore_names_what_it_cannot_read(tmp_path, name):
    BROKEN[name][0](tmp_path / name)
    with pytest.raises(DataError, match=name): superres_gan.restore(tmp_path / name, changing())
    with pytest.raises(DataError, match=r"gone\.jpg"): superres_gan.restore(tmp_path / "gone.jpg", changing())


# Training

def train(photos, **changes):
    """A generator after one epoch, with its settings."""
    cfg = Config(CFG, **changes)
    torch.manual_seed(0)
    learn = superres_gan.get_learner(superres_gan.get_dls(photos, **cfg), **cfg)
    with learn.no_bar(), learn.no_logging(): superres_gan.fit(learn, cfg)
    return learn, cfg



def test_a_trained_generator_is_saved_and_loaded(photos, tmp_path):
    learn, cfg = train(photos)
    save_model(tmp_path / "model", learn.model, superres_gan.make_card(learn, {"PSNR": 20.}, **cfg))
    model, card = load_model(tmp_path / "model")
    x = learn.dls.valid.one_batch()[0]
    assert torch.allclose(superres_gan.restore_batch(model, x), superres_gan.restore_batch(learn.model, x), atol=1e-5)
    assert card.metric == {"PSNR": 20.} and (superres_gan.restore_batch(model, x) - x).abs().max() > 0


def test_sizes_grow_on_the_same_split(photos):
    learn, _ = train(photos, stages=((32, 32), (48, 48)), epochs=(1, 1))
    assert learn.dls.valid.dataset.size == 48 and learn.dls.train.dataset.crop == 48
    assert sum(map(len, halves(learn.dls))) == 16


@pytest.mark.parametrize(("thresh", "learns"), [(10., True), (0., False)])
def test_the_game_keeps_its_rates_and_waits_for_the_critic(photos, thresh, learns):
    learn, cfg = train(photos, thresh=thresh)
    before = [p.clone() for p in learn.model.parameters()]
    critic = superres_gan.build_critic(cfg.critic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        game = superres_gan.fit_gan(learn, critic, cfg)
    switch = game.train_critic
    of_generator, of_critic = (list(rates) for rates in zip(*switch.rates))
    assert of_generator == sorted(of_generator, reverse=True) and of_generator[0] == pytest.approx(cfg.lr_gan)
    assert set(of_critic) == {cfg.lr_critic} and len(switch.losses) == len(switch.learnt) == 6
    assert all(switch.learnt) == learns and any(switch.learnt) == learns
    assert all(torch.equal(p, q) for p, q in zip(before, learn.model.parameters())), "the branch changed its trunk"
    moved = any(not torch.equal(p, q) for p, q in zip(before, game.model.parameters()))
    assert moved == learns
    assert all(p.grad is not None for p in critic.parameters())


def test_the_critic_does_not_learn_when_the_generator_does(photos):
    learn, cfg = train(photos)
    critic = build_critic(cfg.critic)
    game = superres_gan.branch(learn, superres_gan.AdversarialLoss(critic, torch.nn.L1Loss()), cfg, cbs=TrainCritic(critic, lr=0.))
    before = [p.clone() for p in critic.parameters()]
    with game.no_bar(), game.no_logging(): game.fit(1, 1e-3)
    assert all(torch.equal(p, q) for p, q in zip(before, critic.parameters()))


def test_samples_are_shown_after_each_epoch(photos):
    learn, cfg = train(photos)
    shown = []
    samples = ShowSamples(3, lambda pictures, alt, **_: shown.append((len(pictures), alt)))
    game = superres_gan.branch(learn, torch.nn.L1Loss(), cfg, cbs=samples)
    with game.no_bar(), game.no_logging(): game.fit(2, 1e-2)
    assert [n for n, _ in shown] == [3, 3] and "epoch 2" in shown[1][1]
    assert not torch.equal(*samples.kept)


def test_the_critic_gets_both_sorts_alike(photos):
    dls = superres_gan.get_dls(photos, **CFG)
    for part in (dls.train, dls.valid): part.dataset.bad = part.dataset.items # nothing is spoilt, nothing restored
    torch.manual_seed(0)
    still = build_generator("efficientnet_lite0", (16, 12, 10, 8), 4)
    for restored, real in superres_gan.critic_pictures(still, dls):
        assert restored.shape == real.shape == (len(real), 3, 32, 32) and torch.equal(restored, real)


def test_critic_loss_is_a_coin_at_zero():
    assert critic_loss(torch.zeros(2, 1, 3, 3), torch.tensor([0., 1.])).item() == pytest.approx(np.log(2))
    assert through_jpeg(torch.rand(2, 3, 9, 17)).shape == (2, 3, 9, 17)


def test_no_method_is_judged_by_what_it_was_trained_on():
    for cfg in superres_gan.CONFIGS.values(): assert cfg["judge"] not in (cfg["arch"], "efficientnet_lite0")


def test_a_feature_loss_has_nothing_to_learn(photos):
    learn, cfg = train(photos)
    keen = superres_gan.fit_features(learn, cfg)
    assert not any(p.requires_grad for p in keen.loss_func.parameters())
    x = torch.rand(1, 3, 32, 32)
    assert FeatureLoss(pretrained=False)(x, x).item() == 0
    assert PerceptualDistance(pretrained=False)(x, x).item() == 0


def test_settings_are_checked(monkeypatch):
    monkeypatch.setenv("LESSONS_SET", "anchor=3,epochs=(2,)")
    assert (scaled(superres_gan.CONFIGS).anchor, scaled(superres_gan.CONFIGS).epochs) == (3, (2,))
    monkeypatch.setenv("LESSONS_SET", "anker=3")
    with pytest.raises(ConfigError, match="'anker'"): scaled(superres_gan.CONFIGS)


def test_noise_gan_refuses_pictures_out_of_range():
    with pytest.raises(ConfigError, match="between 0 and 1"): fit_wgan(torch.rand(9, 4) * 255)
    assert fit_wgan(torch.rand(70, 4), steps=1).make(2).shape == (2, 4)
