"""Counting pixels against fastai's metrics, and the recipes of the camvid lesson over several seeds.

    python bench/camvid.py --metrics                 # a batch of 8 masks of 720 x 960, 32 classes
    python bench/camvid.py [--seeds 5] [--recipes fit,small-only,...]

The scale, the data and the settings are those of the lesson (LESSONS_SCALE, LESSONS_DATA, LESSONS_SET).
"""
import argparse
import time
import warnings
from types import SimpleNamespace

import numpy as np
import torch
from fastai.metrics import DiceMulti, JaccardCoeffMulti

from lessonlib import camvid
from lessonlib.core import Config, current_scale, scaled, set_seed
from lessonlib.data import get_data
from lessonlib.segmentation import MatrixMetric, class_iou, count_pairs


def seconds(function, *arguments) -> tuple[float, object]:
    """Time one call."""
    start = time.perf_counter()
    found = function(*arguments)
    return time.perf_counter() - start, found


def score(metric, batch):
    """Count one batch and read the score off."""
    metric.reset()
    metric.accumulate(batch)
    return metric.value


def dice_of(batch) -> float:
    """Read fastai's Dice score off the confusion matrix."""
    metric = MatrixMetric(also_false=True)
    score(metric, batch)
    iou = class_iou(metric.matrix)
    return float(np.nanmean(2 * iou / (1 + iou)))


def metrics(rounds: int = 5, n: int = 32) -> None:
    """Time both ways in turns on the same logits; then on codes, without the search for the largest logit."""
    torch.manual_seed(0)
    y = torch.randint(0, n, (8, 720, 960))
    pred = torch.randn(8, n, 720, 960).scatter_add_(1, y[:, None], torch.full((8, 1, 720, 960), 2.))
    batch, codes = SimpleNamespace(pred=pred, y=y), pred.max(1).indices
    ways = {"JaccardCoeffMulti": lambda: score(JaccardCoeffMulti(), batch),
            "MatrixMetric, IoU": lambda: score(MatrixMetric(also_false=True), batch),
            "DiceMulti": lambda: score(DiceMulti(), batch), "MatrixMetric, Dice": lambda: dice_of(batch),
            "count_pairs alone": lambda: float(np.nanmean(class_iou(count_pairs(y, codes, n))))}
    times: dict[str, list[float]] = {name: [] for name in ways}
    values = {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            taken, values[name] = seconds(way)
            if turn: times[name].append(taken)
    print("| 8 x 720 x 960, 32 classes | value | ms, median | range | ratio |\n| --- | --- | --- | --- | --- |")
    for name in ways:
        base = "DiceMulti" if "Dice" in name else "JaccardCoeffMulti"
        t = np.array(times[name]) * 1e3
        ratio = np.median(np.array(times[base]) / np.array(times[name]))
        print(f"| {name} | {values[name]:.6f} | {np.median(t):.0f} | {t.min():.0f} to {t.max():.0f} | {ratio:.1f} |")
    assert abs(values["JaccardCoeffMulti"] - values["MatrixMetric, IoU"]) < 1e-5
    assert abs(values["DiceMulti"] - values["MatrixMetric, Dice"]) < 1e-5


RECIPES: dict[str, dict] = {
    "fit": {}, "half size only": {"epochs": "half"}, "every pixel the same": {"balance": 0.},
    "no augmentation": {"augment": False}, "body frozen": {"freeze_to": 2}}


def run(name: str, cfg: Config, seed: int) -> tuple[float, float, float, float, float]:
    """Return accuracy and mIoU of a recipe, both again with mirror images, and the seconds of training."""
    changes = dict(RECIPES[name])
    half = changes.pop("epochs", None) == "half"
    plain = not changes.pop("augment", True)
    cfg = Config(cfg, **changes)
    set_seed(seed)
    path = get_data(cfg.dataset)
    learn = camvid.get_learner(camvid.get_dls(path, **cfg), **cfg)
    if plain: _still(learn.dls)
    began = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        camvid.tune(learn, 0, cfg)
        if not half:
            camvid.enlarge(learn, cfg)
            if plain: _still(learn.dls)
            camvid.tune(learn, 1, cfg)
    taken = time.perf_counter() - began
    if half: cfg = Config(cfg, size_large=cfg.size)
    one, two = (camvid.evaluate(learn.model, camvid.make_card(learn, **cfg), path, "valid", mirror=mirror)
                for mirror in (False, True))
    return one.accuracy, one.miou, two.accuracy, two.miou, taken


def _still(dls) -> None:
    """Take the random changes out of the training batches."""
    keep = {"IntToFloatTensor", "Normalize"}
    dls.train.after_batch.fs = type(dls.train.after_batch.fs)(
        f for f in dls.train.after_batch.fs if type(f).__name__ in keep)


def main() -> None:
    """Print a table, a line as soon as a recipe is through."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--metrics", action="store_true", help="time the metrics instead")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--recipes", default=",".join(RECIPES), help=f"of {', '.join(RECIPES)}")
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    if args.metrics: return metrics()
    cfg = scaled(camvid.CONFIGS)
    print(f"{cfg.dataset}, {current_scale()}, {cfg.size}, then {cfg.size_large}\n")
    print("| recipe | accuracy | mIoU | accuracy, mirrored too | mIoU | each seed, mirrored too | training |\n"
          + "| --- " * 7 + "|", flush=True)
    for name in args.recipes.split(","):
        runs = np.array([run(name, cfg, seed) for seed in range(args.first, args.first + args.seeds)])
        mean, sd = runs.mean(0), runs.std(0, ddof=1) if len(runs) > 1 else np.full(5, np.nan)
        cells = [f"{m:.4f} ± {d:.4f}" for m, d in zip(mean[:4], sd[:4])]
        each = ", ".join(f"{accuracy:.4f}/{miou:.3f}" for _, _, accuracy, miou, _ in runs)
        print(f"| {name} | {' | '.join(cells)} | {each} | {mean[4]:.0f} s |", flush=True)


if __name__ == "__main__": main()
