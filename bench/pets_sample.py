"""How hard the made set of pets is: error rates of simple and of good methods, over several splits.

    python bench/pets_sample.py [--path FOLDER] [--seeds 3] [--sizes 96,128] [--no-tune]
"""
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    aug_transforms,
    error_rate,
    set_seed,
    vision_learner,
)
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lessonlib.backbones import backbone, efficientnet_lite0
from lessonlib.numerics import apply_numerics


def breed_of(file: Path) -> str:
    """Return the breed that a file's name begins with."""
    return file.stem.rsplit("_", 1)[0]


def histogram(file: Path) -> np.ndarray:
    """Count the colours of a picture in 8 x 8 x 8 cells."""
    bins = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3) // 32 @ (64, 8, 1)
    return np.sqrt(np.bincount(bins, minlength=512) / len(bins))


@torch.no_grad()
def features(files: list[Path], size: int) -> np.ndarray:
    """Return the 1280 pooled features of ImageNet's EfficientNet-Lite0."""
    model = efficientnet_lite0().eval()
    body, pool = model[:-1], torch.nn.AdaptiveAvgPool2d(1)
    rows = []
    for start in range(0, len(files), 64):
        pictures = [ImageOps.fit(Image.open(f).convert("RGB"), (size, size)) for f in files[start:start + 64]]
        batch = torch.tensor(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2) / 127.5 - 1
        rows.append(pool(body(batch)).flatten(1))
    return torch.cat(rows).numpy()


def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut n numbers into 80 % for training and 20 % for validation."""
    order = np.random.default_rng(seed).permutation(n)
    return order[n // 5:], order[:n // 5]


def linear_error(x: np.ndarray, y: np.ndarray, seed: int, weight: float) -> float:
    """Return the error of logistic regression on a split."""
    train, valid = split(len(y), seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=weight, max_iter=400))
    return 1 - model.fit(x[train], y[train]).score(x[valid], y[valid])


def tuned_error(path: Path, files: list[Path], size: int, seed: int, epochs: int = 4) -> float:
    """Return the error after an epoch with a frozen body and `epochs` of the whole network."""
    net, names = backbone("efficientnet_lite0"), [f"images/{f.name}" for f in files]
    valid = {names[i] for i in split(len(files), seed)[1]}
    set_seed(seed)
    dls = _loaders(path, names, files, valid, size, net)
    learn = vision_learner(dls, net.arch, cut=net.cut, splitter=net.splitter, normalize=False, metrics=error_rate)
    apply_numerics(learn, net.numerics)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(epochs, 5e-3)
    return float(learn.validate()[1])


def _loaders(path, names, files, valid, size, net):
    import pandas as pd
    table = pd.DataFrame({"name": names, "label": [breed_of(f) for f in files], "is_valid": [n in valid for n in names]})
    tfms = [*aug_transforms(size=size, min_scale=.75, max_rotate=5, max_warp=0), Normalize.from_stats(net.mean, net.std)]
    return ImageDataLoaders.from_df(table, path, valid_col="is_valid", item_tfms=Resize(size * 5 // 4), bs=32,
                                    batch_tfms=tfms, num_workers=0)


def row(task: str, method: str, errors: list[float], seconds: float) -> None:
    """Print a line of the table."""
    each = ", ".join(f"{100 * e:.1f}" for e in errors)
    print(f"| {task} | {method} | {100 * np.mean(errors):.1f} % | {each} | {seconds / len(errors):.0f} s |", flush=True)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--path", type=Path)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--sizes", default="96,128")
    options.add_argument("--tune-sizes", default="128")
    options.add_argument("--no-tune", action="store_true")
    args = options.parse_args()
    if args.path is None:
        from lessonlib.samples.pets import make_pets
        args.path = make_pets(Path(tempfile.mkdtemp()))
    files = sorted((args.path / "images").glob("*.jpg"))
    breeds = np.array([breed_of(f) for f in files])
    cats = np.array([f.name[0].isupper() for f in files])
    seeds = range(args.seeds)
    print("| task | method | error, mean | each split | time |\n| --- | --- | --- | --- | --- |", flush=True)
    x = np.stack([histogram(f) for f in files])
    for task, y in (("cat or dog", cats), ("12 breeds", breeds)):
        began = time.perf_counter()
        row(task, "colour histogram", [linear_error(x, y, s, .01) for s in seeds], time.perf_counter() - began)
    for size in map(int, args.sizes.split(",")):
        x = features(files, size)
        for task, y in (("cat or dog", cats), ("12 breeds", breeds)):
            began = time.perf_counter()
            row(task, f"frozen, {size} px", [linear_error(x, y, s, .01) for s in seeds], time.perf_counter() - began)
    for size in [] if args.no_tune else map(int, args.tune_sizes.split(",")):
        began = time.perf_counter()
        row("12 breeds", f"fine-tuned, {size} px", [tuned_error(args.path, files, size, s) for s in seeds],
            time.perf_counter() - began)


if __name__ == "__main__": main()
