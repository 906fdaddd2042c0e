"""Which recipe for a classifier of pets: error rates on the same pictures, over several seeds of split and training.

    python bench/pets.py [--seeds 5] [--recipes probe,plain,gentle,...]
    LESSONS_SET="target=species,size_large=192" python bench/pets.py --recipes colours,probe-large
    LESSONS_SCALE=small LESSONS_SET="dataset=dogscats" python bench/pets.py --recipes probe-large,gentle-large

The scale, the data and the settings are those of the lesson (LESSONS_SCALE, LESSONS_DATA, LESSONS_SET).
"""
import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from fastai.learner import Learner
from fastai.vision.core import PILImage
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lessonlib import pets
from lessonlib.core import Config, current_scale, scaled, set_seed
from lessonlib.data import get_data


def majority(learn: Learner, cfg: Config) -> float:
    """Say of all pictures what most of those for training are."""
    train, valid = ([int(y) for _, y in part] for part in (learn.dls.train_ds, learn.dls.valid_ds))
    return float(np.mean(np.array(valid) != np.bincount(train).argmax()))


def colours(learn: Learner, cfg: Config) -> float:
    """Fit a logistic regression on histograms of 8 x 8 x 8 colours."""
    def histogram(picture: PILImage) -> np.ndarray:
        cells = np.asarray(picture).reshape(-1, 3) // 32 @ (64, 8, 1)
        return np.sqrt(np.bincount(cells, minlength=512) / len(cells))
    (x, y), held = (zip(*[(histogram(x), int(y)) for x, y in part]) for part in (learn.dls.train_ds, learn.dls.valid_ds))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=.01, max_iter=1000)).fit(np.stack(x), y)
    return float(1 - model.score(*held))


def frozen(learn: Learner, cfg: Config) -> None:
    """Train the head with the body frozen, as the course does."""
    learn.fit_one_cycle(cfg.epochs[0], cfg.lr_head)


def naive(learn: Learner, cfg: Config) -> None:
    """Train the head, then all layers for an epoch with the head's rate."""
    frozen(learn, cfg)
    learn.unfreeze()
    learn.fit_one_cycle(1, cfg.lr_head)


def discriminative(learn: Learner, cfg: Config) -> None:
    """Train the head, then all layers, each group with its rate."""
    frozen(learn, cfg)
    learn.unfreeze()
    learn.fit_one_cycle(cfg.epochs[1], slice(*cfg.lrs))


def plain(learn: Learner, cfg: Config) -> None:
    """Take fastai's defaults."""
    learn.fine_tune(cfg.epochs_plain)


def probe(learn: Learner, cfg: Config) -> None:
    """Solve the head by logistic regression; the body stays as it is."""
    pets.fit_probe(learn, cfg.probe_C)


def gentle(learn: Learner, cfg: Config) -> None:
    """Fit a probe, then tune the layers below it: the lesson's recipe."""
    pets.fit(learn, cfg)


SMALL: dict[str, Callable] = {f.__name__: f for f in (majority, colours, frozen, naive, discriminative, probe, plain, gentle)}
LARGE: dict[str, Callable] = {"probe-large": probe, "gentle-large": gentle}


def run(name: str, cfg: Config, seed: int) -> tuple[float, float]:
    """Return the error rate of a recipe and the seconds it took."""
    recipe = SMALL.get(name) or LARGE[name]
    if name in LARGE: cfg = Config(cfg, size=cfg.size_large, arch=cfg.arch_large)
    set_seed(seed)
    dls = pets.get_dls(get_data(cfg.dataset), seed=seed, **cfg)
    learn = pets.get_learner(dls, keep_stats=recipe is not plain, **cfg)
    began = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        found = recipe(learn, cfg)
        seconds = time.perf_counter() - began
        return (learn.validate()[1] if found is None else found), seconds


def main() -> None:
    """Print a table, a line as soon as a recipe is through."""
    known = [*SMALL, *LARGE]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--recipes", default=",".join(known), help=f"of {', '.join(known)}")
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    cfg = scaled(pets.CONFIGS)
    print(f"{cfg.dataset}, {current_scale()}, {cfg.size} px (large: {cfg.size_large} px)\n")
    print("| recipe | error, mean | sd | each seed | time of each |\n| --- | --- | --- | --- | --- |", flush=True)
    for name in args.recipes.split(","):
        runs = [run(name, cfg, seed) for seed in range(args.first, args.first + args.seeds)]
        errors, seconds = (np.array(column) for column in zip(*runs))
        each = ", ".join(f"{100 * error:.2f}" for error in errors)
        spread = errors.std(ddof=1) if len(errors) > 1 else float("nan")
        print(f"| {name} | {100 * errors.mean():.2f} % | {100 * spread:.2f} | {each} | {seconds.mean():.0f} s |",
              flush=True)


if __name__ == "__main__": main()
