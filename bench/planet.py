"""What resizing, augmentation and views are worth on the chips, and how fast F2 is found at all thresholds.

    python bench/planet.py [--seeds 3] [--recipes progressive,small,large,...]
    python bench/planet.py --speed

The scale, the data and the settings are those of the lesson (LESSONS_SCALE, LESSONS_DATA, LESSONS_SET).
"""
import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.metrics import fbeta_score

from lessonlib import planet
from lessonlib.core import Config, current_scale, scaled, set_seed
from lessonlib.data import get_data

RECIPES = {  # Settings that differ from the lesson's; epochs at the small and at the large size
    "progressive": {}, "small": {"size_large": "size"}, "large": {"size": "size_large"},
    "none": {"augment": "none"}, "flip": {"augment": "flip"}, "frozen": {"epochs": (0, 0)},
    "small-long": {"size_large": "size", "epochs": (6, 9)},
    "small-long-none": {"size_large": "size", "epochs": (6, 9), "augment": "none"}}


def train(recipe: str, cfg: Config, seed: int) -> tuple[float, float, float]:
    """Return F2 with one view and with eight, and the seconds of training."""
    changed = {key: cfg.get(value, value) if isinstance(value, str) else value for key, value in RECIPES[recipe].items()}
    cfg = Config(cfg, **changed, seed=seed)
    set_seed(seed)
    learn = planet.get_learner(planet.get_dls(get_data(cfg.dataset), **cfg), **cfg)
    began = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        if recipe == "frozen": planet.fit_head(planet.enlarge(learn, cfg), cfg.penalty)
        else: planet.fit(learn, cfg)
    seconds = time.perf_counter() - began
    found = []
    learn.model.eval()
    for xb, yb in learn.dls.valid:
        x = xb.as_subclass(torch.Tensor)
        with torch.no_grad(): one = learn.model(x).sigmoid()
        found.append([part.numpy(force=True) for part in (one, planet.predict_views(learn.model, x), yb > 0)])
    one, eight, targs = (np.concatenate([np.asarray(row[i]) for row in found]) for i in range(3))
    return planet.crossed_f2(one, targs), planet.crossed_f2(eight, targs), seconds


def quality(seeds: int, recipes: list[str]) -> None:
    """Print a table, a line as soon as a recipe is through."""
    warnings.filterwarnings("ignore")
    cfg = scaled(planet.CONFIGS)
    print(f"{cfg.dataset}, {current_scale()}, {cfg.size} px, then {cfg.size_large} px\n")
    print("| recipe | F2, one view | each seed | eight views | each seed | training |\n| --- | --- | --- | --- | --- | --- |")
    for recipe in recipes:
        one, eight, seconds = np.array([train(recipe, cfg, seed) for seed in range(seeds)]).T
        cells = [f"{x.mean():.3f} ± {x.std(ddof=1):.3f} | {' '.join(f'{v:.3f}' for v in x)}" for x in (one, eight)]
        print(f"| {recipe} | {' | '.join(cells)} | {seconds.mean():.0f} s |", flush=True)


def speed(n: int = 40_479, repeats: int = 3) -> None:
    """Compare one call of `f_beta_curve` with a loop over scikit-learn, in turns."""
    rng = np.random.default_rng(0)
    targs = rng.random((n, 17)) < .17
    probs = np.clip(targs * .3 + rng.random((n, 17)) * .7, 0, 1).astype(np.float32)
    thresholds = np.linspace(.005, .995, 100)
    ways = {
        "ours": lambda: planet.f_beta_curve(probs, targs, thresholds),
        "theirs": lambda: np.array([fbeta_score(targs, probs > t, beta=2, average="samples", zero_division=0)
                                    for t in thresholds])}
    took: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            took[name].append(time.perf_counter() - began)
    ours, theirs = (min(seconds) for seconds in took.values())
    print(f"F2 of {n:,} chips at 100 thresholds: {ours:.3f} s, a loop over scikit-learn {theirs:.1f} s: "
          f"{theirs / ours:.0f} times faster; largest difference {np.abs(found['ours'] - found['theirs']).max():.1e}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--recipes", default=",".join(RECIPES), help=f"of {', '.join(RECIPES)}")
    options.add_argument("--speed", action="store_true", help="time the metric instead of training")
    args = options.parse_args()
    speed() if args.speed else quality(args.seeds, args.recipes.split(","))
