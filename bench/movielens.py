"""Time one epoch of matrix factorisation: this lesson's loader and learner beside fastai's.

    python bench/movielens.py [--path FOLDER] [--repeats 3] [--big 1024] [--threads N] [--losses]

Both train the formula of fastai's EmbeddingDotBias (40 factors, sigmoid range, weight decay) on the same
nine tenths of the ratings and validate on the same tenth, with fastai's `Learner`, in one process. The
methods take turns in every repeat, after an untimed epoch of the fast ones, so that a change of the machine's
load meets all of them. The table has the median time and the median of the ratios within the repeats.
"""
import argparse
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.learner import Learner

from lessonlib.core import output_dir
from lessonlib.data import get_data
from lessonlib.movielens import get_learner, make_dls, mse
from lessonlib.ratings import RatingData, load_ratings, read_ratings

FACTORS, SEED = 40, 42


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows that fastai's `RandomSplitter` trains on, and those it holds out."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    return order[n // 10:], order[:n // 10]


def fastai_learner(data: RatingData, bs: int) -> Learner:
    """Return what the course has: `CollabDataLoaders` and `collab_learner`."""
    table = read_ratings(data.path)[["user", "movie", "rating"]]
    dls = CollabDataLoaders.from_df(table, valid_pct=.1, seed=SEED, bs=bs, device=torch.device("cpu"))
    return collab_learner(dls, n_factors=FACTORS, y_range=(0, 5.5), wd=.1, path=output_dir())


def our_learner(data: RatingData, bs: int, wd: float = .1) -> Learner:
    """Return the lesson's loaders and its dot product with biases."""
    dls = make_dls(data, *rows(len(data.x)), bs=bs)
    dls.to(torch.device("cpu"))
    return get_learner(dls, kind="dot", n_factors=FACTORS, wd=wd)


def epoch_seconds(learn: Learner) -> float:
    """Train and validate once; return the time that took."""
    with learn.no_bar(), learn.no_logging():
        start = time.perf_counter()
        learn.fit(1, 5e-3)
        return time.perf_counter() - start


def make_methods(data: RatingData, big: int) -> dict[str, partial]:
    """Return what makes each learner, by name; the others are compared with the first."""
    return {"fastai, batches of 64": partial(fastai_learner, data, 64),
            "lessonlib, batches of 64": partial(our_learner, data, 64),
            f"fastai, batches of {big}": partial(fastai_learner, data, big),
            f"lessonlib, batches of {big}": partial(our_learner, data, big)}


def measure(methods: dict[str, partial], repeats: int) -> dict[str, list[float]]:
    """Time an epoch of a fresh learner per method and repeat, the methods taking turns; print each."""
    for name, make in methods.items():
        if "lessonlib" in name: epoch_seconds(make())
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, make in methods.items(): seconds[name].append(epoch_seconds(make()))
        print("  ".join(f"{times[-1]:.2f}" for times in seconds.values()), flush=True)
    return seconds


def print_losses(data: RatingData, big: int, epochs: int = 5) -> None:
    """Train at each batch size to the end: a fast epoch is worth something only if it learns.

    Decay acts once per step, so fewer steps need more of it.
    """
    for bs, wd in ((64, .1), (big, .5)):
        torch.manual_seed(SEED)
        learn = our_learner(data, bs, wd)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3)
        print(f"batches of {bs}: validation MSE {mse(learn.model, learn.dls.valid):.3f} after {epochs} epochs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="a MovieLens folder; that of get_data('movielens') if not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--big", type=int, default=1024, help="the lesson's own batch size")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--losses", action="store_true", help="also train to the end at both batch sizes")
    args = parser.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    data = load_ratings(args.path or get_data("movielens"))
    print(f"{len(data.x):,} ratings, {data.shape[0]:,} users, {data.shape[1]:,} films; torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}", flush=True)
    seconds = measure(make_methods(data, args.big), args.repeats)
    first = next(iter(seconds.values()))
    print(f"\n{'one epoch, training and validation':36}{'median s':>10}{'min s':>9}{'max s':>9}{'times faster':>15}")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, times))
        print(f"{name:36}{statistics.median(times):10.2f}{min(times):9.2f}{max(times):9.2f}{ratio:15.1f}")
    if args.losses: print_losses(data, args.big)


if __name__ == "__main__": main()
