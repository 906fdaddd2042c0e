"""Spoiling pictures against the course's way, memory of a large photograph, and the losses of the lesson over several seeds.

    python bench/superres.py --spoil [--data FOLDER] [--side 96]   # pictures a second, on two cores
    python bench/superres.py --memory [--size 2000,3000]           # MB and seconds of restoring a photograph
    python bench/superres.py [--seeds 5] [--first 42] [--recipes pixel,features,gan,...]

The scale, the data and the settings are those of the lesson (LESSONS_SCALE, LESSONS_DATA, LESSONS_SET).
"""
import argparse
import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from lessonlib import superres_gan
from lessonlib.core import Config, current_scale, scaled, set_seed
from lessonlib.crappify import crappify
from lessonlib.data import get_data
from lessonlib.likeness import PerceptualDistance
from lessonlib.numerics import keep_memory

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None # Where files cost nothing, if there is such a place


def one_by_one(source: Path, dest: Path, side: int) -> None:
    """Spoil a folder as the course's function does: open, shrink, draw, save, one file after the other."""
    for file in sorted(source.rglob("*.jpg")):
        target = dest / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(file)
        scale = side / min(image.size)
        image = image.resize([int(edge * scale) for edge in image.size], Image.Resampling.BILINEAR).convert("RGB")
        quality = random.randint(10, 70)
        place = random.randint(0, image.width // 2), random.randint(0, image.height // 2)
        ImageDraw.Draw(image).text(place, str(quality), fill=(255, 255, 255))
        image.save(target, quality=quality)


def spoil(source: Path, side: int, rounds: int = 5) -> None:
    """Time both ways in turns, on four times as many files as there are, then compare the bytes of two runs."""
    if (source / "images").is_dir(): source = source / "images"
    with tempfile.TemporaryDirectory(dir=MEMORY) as room:
        for file in source.rglob("*.jpg"):
            for copy in range(4): shutil.copy(file, Path(room) / f"{copy}_{file.parent.name}_{file.name}")
        race(Path(room), side, rounds)


def race(source: Path, side: int, rounds: int) -> None:
    """Time both ways in turns, and compare the bytes of two runs."""
    n, seconds, kept = len(list(source.rglob("*.jpg"))), {"one by one": [], "crappify": []}, []
    for turn in range(rounds + 1):
        for name, times in seconds.items():
            with tempfile.TemporaryDirectory(dir=MEMORY) as room:
                began = time.perf_counter()
                if name == "crappify": crappify(source, Path(room) / "bad", side)
                else: one_by_one(source, Path(room) / "bad", side)
                if turn: times.append(time.perf_counter() - began)
                if name == "crappify":
                    kept.append({f.relative_to(room): f.read_bytes() for f in Path(room).rglob("*.jpg")})
    print(f"{n} pictures, side {side}, two processes, {rounds} rounds in turns\n\n| way | pictures a second, median | range |\n| --- | --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {n / np.median(times):.0f} | {n / max(times):.0f} to {n / min(times):.0f} |")
    ratios = np.array(seconds["one by one"]) / np.array(seconds["crappify"])
    print(f"\nratio: {np.median(ratios):.2f}, {ratios.min():.2f} to {ratios.max():.2f}; "
          f"the same bytes in all {len(kept)} runs: {all(one == kept[0] for one in kept)}")


MEASURE = """import sys, time
import numpy as np
from PIL import Image
from lessonlib.core import peak_rss_mb
from lessonlib.superres_gan import CONFIGS, build_model, restore
cfg, size = CONFIGS["sample"], tuple(map(int, sys.argv[1].split(",")))
model, before = build_model(cfg["arch"], cfg["widths"], cfg["window"]), peak_rss_mb()
image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
began = time.perf_counter()
restored = restore(image, model)
assert restored.size == image.size
print(f"{size[0]} x {size[1]}: {peak_rss_mb():.0f} MB at most, {before:.0f} before; {time.perf_counter() - began:.1f} s")"""


def memory(size: str) -> None:
    """Restore a picture in a process of its own."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", MEASURE, size], check=True)


def pixel(learn, cfg, done):
    """Train with the pixel loss alone."""
    return learn


def longer(learn, cfg, done):
    """Go on with the pixel loss, for as many epochs as the feature loss."""
    more = superres_gan.branch(learn, torch.nn.MSELoss(), cfg)
    more.fit_one_cycle(cfg.epochs_features, cfg.lr_features)
    return more


def features(learn, cfg, done):
    """Go on with the feature loss."""
    return superres_gan.fit_features(learn, cfg)


def gan(learn, cfg, done):
    """Go on from the feature loss with a critic, anchored by features: the lesson's GAN."""
    critic = superres_gan.fit_critic(done["features"].model, learn.dls, cfg)
    return superres_gan.fit_gan(done["features"], critic.model, cfg)


def course(learn, cfg, done):
    """Go on from the pixel loss with a critic, anchored by pixels, as the course does."""
    critic = superres_gan.fit_critic(learn.model, learn.dls, cfg)
    return superres_gan.fit_gan(learn, critic.model, Config(cfg, anchor=60.), anchor=torch.nn.L1Loss())


RECIPES = {"pixel": pixel, "longer": longer, "features": features, "gan": gan, "course": course}


def run(names: list[str], cfg: Config, seed: int) -> dict[str, list[float]]:
    """Train one generator with the pixel loss and let each recipe go on from it; judge all, and the bicubic pictures."""
    os.environ["LESSONS_SEED"] = str(seed)
    set_seed(seed)
    learn = superres_gan.get_learner(superres_gan.get_dls(get_data(cfg.dataset), **cfg), **cfg)
    began = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): superres_gan.fit(learn, cfg)
    trained = time.perf_counter() - began
    bad, true = (torch.stack(pictures) for pictures in zip(*learn.dls.valid.dataset))
    eye, found, done = PerceptualDistance(cfg.judge), {}, {}
    def note(name: str, preds: torch.Tensor, seconds: float) -> None:
        found[name] = [float(values.mean()) for values in superres_gan.judge(preds, true, eye).values()] + [seconds]
    note("bicubic", bad, 0)
    for name in names:
        set_seed(seed)
        began = time.perf_counter()
        with quiet(): done[name] = RECIPES[name](learn, cfg, done)
        taken = trained if name == "pixel" else time.perf_counter() - began
        note(name, superres_gan.restore_batch(done[name].model, bad), taken)
    return found


def quiet():
    """Keep fastai from printing its tables."""
    return contextlib.redirect_stdout(io.StringIO())


def main() -> None:
    """Print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--spoil", action="store_true", help="time the spoiling instead")
    options.add_argument("--memory", action="store_true", help="measure a large photograph instead")
    options.add_argument("--data", type=Path, help="a folder of JPEGs to spoil; the lesson's if not given")
    options.add_argument("--side", type=int, default=96)
    options.add_argument("--size", default="2000,3000")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--first", type=int, default=42, help="the first seed")
    options.add_argument("--recipes", default=",".join(RECIPES), help=f"of {', '.join(RECIPES)}")
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    keep_memory()
    cfg = scaled(superres_gan.CONFIGS)
    if args.spoil: return spoil(args.data or get_data(cfg.dataset), args.side)
    if args.memory: return memory(args.size)
    runs = []
    for seed in range(args.first, args.first + args.seeds):
        runs.append(run(args.recipes.split(","), cfg, seed))
        print(seed, {name: [round(value, 4) for value in row] for name, row in runs[-1].items()}, flush=True)
    print(f"\n{cfg.dataset}, {current_scale()}, {cfg.stages}\n\n| recipe | PSNR | SSIM | distance | sharpness | seconds |\n| --- " + "| --- " * 5 + "|")
    for name in runs[0]:
        values = np.array([one[name] for one in runs])
        sd = values.std(0, ddof=1) if len(runs) > 1 else np.full(5, np.nan)
        cells = [f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(values.mean(0)[:4], sd, (2, 3, 3, 2))]
        print(f"| {name} | {' | '.join(cells)} | {values[:, 4].mean():.0f} |")


if __name__ == "__main__": main()
