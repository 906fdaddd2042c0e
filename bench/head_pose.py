"""Head pose: how far off are the answers for unseen people, and how fast are the poses read?

    python bench/head_pose.py errors [--seeds 5] [--recipes mean,average,heat,still,random]
    python bench/head_pose.py reading [--turns 5]

The scale, the data and the settings are those of the lesson (LESSONS_SCALE, LESSONS_DATA, LESSONS_SET).
"""
import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import pandas as pd
from fastai.vision.augment import aug_transforms

from lessonlib import head_pose, poses
from lessonlib.core import Config, current_scale, scaled, set_seed
from lessonlib.data import get_data


def trained(cfg: Config, seed: int) -> pd.DataFrame:
    """Train the lesson's way; another seed deals other people into the held-out fold."""
    learn = head_pose.get_learner(head_pose.get_dls(get_data(cfg.dataset), seed=seed, **cfg), **cfg)
    with learn.no_bar(), learn.no_logging(): head_pose.fit(learn, cfg)
    return head_pose.predictions(learn)


def mean(cfg: Config, seed: int) -> pd.DataFrame:
    """Say that every head is at the mean place."""
    table = head_pose.head_table(get_data(cfg.dataset), cfg.same)
    held = head_pose.split_people(table, cfg.folds, cfg.fold, cfg.valid, seed)
    away = table[["x", "y"]] - table[~held][["x", "y"]].mean()
    return table.assign(error=np.hypot(away.x, away.y))[held]


def average(cfg: Config, seed: int) -> pd.DataFrame:
    """Average the features, then a linear layer and y_range, as the course does."""
    return trained(Config(cfg, head="average"), seed)


def heat(cfg: Config, seed: int) -> pd.DataFrame:
    """Take the expectation over a heat map: the lesson's recipe."""
    return trained(cfg, seed)


def still(cfg: Config, seed: int) -> pd.DataFrame:
    """Leave the geometry of the pictures as it is, but for mirroring."""
    original = head_pose.augmentations
    with patch.object(head_pose, "augmentations", partial(lights_of, original)): return trained(cfg, seed)


def lights_of(original: Callable, arch: str) -> list:
    """Return mirroring, lighting and the normalisation."""
    moves = aug_transforms(max_rotate=0, max_zoom=1, max_warp=0, max_lighting=.3, p_lighting=.9, align_corners=False)
    return [*moves, original(arch)[-1]]


def random(cfg: Config, seed: int) -> pd.DataFrame:
    """Hold out a fifth of the frames at random: what this flatters."""
    def at_random(table: pd.DataFrame, *rest: object) -> np.ndarray:
        return np.random.default_rng(seed).permutation(len(table)) < len(table) / cfg.folds
    with patch.object(head_pose, "split_people", at_random): return trained(cfg, seed)


RECIPES: dict[str, Callable[[Config, int], pd.DataFrame]] = {f.__name__: f for f in (mean, average, heat, still, random)}


def errors(cfg: Config, names: list[str], seeds: range) -> None:
    """Print a row per recipe: the mean over seeds, and the spread over people."""
    print(f"{cfg.dataset}, {current_scale()}, {cfg.size} px high, {cfg.epochs} epochs\n")
    print("| recipe | px, mean | sd | each seed | people: lowest to highest | seconds |\n| --- | --- | --- | --- | --- | --- |")
    for name in names:
        means, people, seconds = [], [], []
        for seed in seeds:
            set_seed(seed)
            began = time.perf_counter()
            found = RECIPES[name](cfg, seed)
            seconds.append(time.perf_counter() - began)
            means.append(found.error.mean())
            people += list(found.groupby("person").error.mean())
        each = ", ".join(f"{value:.1f}" for value in means)
        spread = np.std(means, ddof=1) if len(means) > 1 else float("nan")
        print(f"| {name} | {np.mean(means):.1f} | {spread:.1f} | {each} | {min(people):.0f} to {max(people):.0f} "
              f"| {np.mean(seconds):.0f} |", flush=True)


def reading(cfg: Config, turns: int) -> None:
    """Get the labels of an epoch side by side, in turns: file by file as the course did; all at once; as the lesson does."""
    path = get_data(cfg.dataset)
    table = head_pose.head_table(path, cfg.same)
    files = [str(file).replace("_rgb.jpg", "_pose.txt") for file in table.file]
    labels = dict(zip(table.file, table[["x", "y"]].to_numpy()))
    camera = poses.read_calibration(path / table.folder[0] / "rgb.cal")

    def genfromtxt_per_item() -> np.ndarray:
        return np.concatenate([camera.project(np.genfromtxt(file, skip_header=3)[None]) for file in files])

    def all_at_once() -> np.ndarray:
        poses._poses.cache_clear()
        return camera.project(poses.read_poses(files)[:, 3])

    def again() -> np.ndarray: return camera.project(poses.read_poses(files)[:, 3])

    def label_per_item() -> np.ndarray: return np.stack([labels[file] for file in table.file])

    ways = genfromtxt_per_item, all_at_once, again, label_per_item
    assert np.allclose(genfromtxt_per_item(), all_at_once()) and np.array_equal(all_at_once(), again())
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(turns):
        for way in ways:
            began = time.perf_counter()
            way()
            times[way.__name__].append(time.perf_counter() - began)
    course, once, _, per_item = (float(np.median(times[way.__name__])) for way in ways)
    print(f"{len(files)} poses, median of {turns} turns\n\n| way | ms | times faster |\n| --- | --- | --- |")
    for name, values in times.items(): print(f"| {name} | {1000 * np.median(values):.2f} | {course / np.median(values):.0f} |")
    ours = once / cfg.epochs + per_item
    print(f"| per epoch of {cfg.epochs}, reading included | {1000 * ours:.2f} | {course / ours:.0f} |")


def main() -> None:
    """Run one of the two."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("errors", "reading"))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--recipes", default=",".join(RECIPES), help=f"of {', '.join(RECIPES)}")
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    cfg = scaled(head_pose.CONFIGS)
    if args.what == "reading": reading(cfg, args.turns)
    else: errors(cfg, args.recipes.split(","), range(args.first, args.first + args.seeds))


if __name__ == "__main__": main()
