"""Detection: what does the loss of a whole batch cost, what does each step of the lesson bring, how fast is the finished detector?

    python bench/detection.py loss [--turns 7] [--seed 0]
    python bench/detection.py growth [--turns 3]
    python bench/detection.py steps [--seeds 42 43 44 45 46] [--parts heads whole]
    python bench/detection.py bodies [--seeds 42] [--ways frozen unfrozen]
    python bench/detection.py speed [--turns 50]

`loss`: 64 pictures of 1 to 40 objects, 189 anchors, 20 classes, forward and backward, against a loop over pictures and objects as in
the course, side by side, in turns; the values must be equal. `growth`: the same batch with 8,732 anchors (SSD300) and with other
numbers of anchors and objects: seconds and memory, a fresh process for each. `steps`: mAP on the validation set after each step of
the lesson, and on the test part for the whole detector (`--parts heads`: the steps on a frozen body only). `bodies`: the whole detector,
with the body frozen and with it learning; LESSONS_SCALE=small and LESSONS_DATA choose the real set. `speed`: one picture at a time.
Seconds are those of the processor (one thread unless OMP_NUM_THREADS says otherwise), so other work on the machine does not count.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lessonlib import pascal_ssd
from lessonlib.anchors import SHAPES, make_anchors
from lessonlib.box_learning import cache_features
from lessonlib.core import peak_rss_mb, scaled, set_seed
from lessonlib.data import get_data
from lessonlib.detection import detect, detection_losses, suppress
from lessonlib.numerics import keep_memory
from lessonlib.ssd import detector_body, head_anchors

CLASSES = 20
WIDE = (1., 1.), (1.4, .7), (.7, 1.4)
WIDER = *WIDE, (1.7, .58), (.58, 1.7)


def ssd300() -> Tensor:
    """The 8,732 boxes of the paper's network for 300 pixels: six grids, four or six in a cell."""
    made = []
    for grid, shapes in ((38, WIDE), (19, WIDER), (10, WIDER), (5, WIDER), (3, WIDE), (1, WIDE)):
        made.append(make_anchors([grid], (1.5,), (*shapes, (1.3, 1.3))))
    return torch.cat(made)


def anchors_of(n: int) -> Tensor:
    """About n anchors: 189 and 8,732 are the course's and the paper's."""
    if n == 189: return make_anchors([4, 2, 1], (.7, 1., 1.3), SHAPES)
    if n == 8732: return ssd300()
    return make_anchors([round((n / 6) ** .5)], (.7, 1.), SHAPES)


def some_batch(anchors: Tensor, most: int, seed: int, bs: int = 64) -> tuple[Tensor, ...]:
    """Answers that need a gradient, and boxes of 1 to `most` objects, padded at the end."""
    torch.manual_seed(seed)
    centre, size = torch.rand(bs, most, 2) * 2 - 1, torch.rand(bs, most, 2) ** 2 + .05
    boxes = torch.cat([centre - size, centre + size], -1).clamp(-1, 1)
    counts = torch.randint(1, most + 1, (bs, 1))
    counts[0] = most
    labels = torch.randint(1, CLASSES + 1, (bs, most)) * (torch.arange(most) < counts)
    offsets, logits = torch.randn(bs, len(anchors), 4) / 2, torch.randn(bs, len(anchors), CLASSES) - 3
    return offsets.requires_grad_(), logits.requires_grad_(), boxes * (labels > 0)[..., None], labels


# The course's way: a picture after the other, an object after the other

def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Overlaps of the boxes of one picture with the anchors."""
    start, end = torch.max(a[:, None, :2], b[None, :, :2]), torch.min(a[:, None, 2:], b[None, :, 2:])
    side = (end - start).clamp(min=0)
    inter = side[..., 0] * side[..., 1]
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    return inter / (areas[0][:, None] + areas[1][None] - inter)


def map_to_ground_truth(overlaps: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Best object of each anchor; then each object takes its best anchor, one by one. Those who want the same take turns."""
    best, thing = overlaps.max(0)
    waiting, taken = dict.fromkeys(range(len(overlaps)), 0), set()
    while waiting:
        wishes: dict[int, list[int]] = {}
        for o, rank in waiting.items():
            if not rank and not taken: a = int(overlaps[o].argmax())
            else:
                order = [a for a in (overlaps[o] - 1e-6 * distance[o]).argsort(descending=True, stable=True).tolist() if a not in taken]
                a = order[rank % len(order)]
            wishes.setdefault(a, []).append(o)
        waiting = {}
        for a, queue in wishes.items():
            queue.sort(key=lambda o, a=a: -float(overlaps[o, a]))
            best[a], thing[a] = 1.99, queue[0]
            taken.add(a)
            waiting.update({o: rank for rank, o in enumerate(queue[1:])})
    return best, thing


def one_picture(offsets: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, anchors: Tensor, cells: Tensor,
                ) -> tuple[Tensor, Tensor, int]:
    """Loss of places and classes of one picture, as the course's `ssd_1_loss`."""
    keep = (labels > 0).nonzero()[:, 0]
    boxes, labels = boxes[keep], labels[keep]
    moved = offsets.tanh() / 2
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    mid, side = centre + moved[:, :2] * cells, size * (moved[:, 2:] + 1)
    actual = torch.cat([mid - side / 2, mid + side / 2], 1)
    far = ((boxes[:, None, :2] + boxes[:, None, 2:]) / 2 - centre[None]).square().sum(-1)
    overlap, thing = map_to_ground_truth(jaccard(boxes, anchors), far)
    pos = overlap > .5
    numbers = labels[thing]
    numbers[~pos] = 0
    at = pos.nonzero()[:, 0]
    place = (actual[at] - boxes[thing[at]]).abs().mean(1).sum()
    targets = torch.eye(CLASSES + 1)[numbers][:, 1:]
    classes = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return place, classes, len(at)


def by_pictures(offsets: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, anchors: Tensor, cells: Tensor) -> Tensor:
    """Loss of a batch as the course's `ssd_loss`, but divided by the number of matched anchors."""
    places, classes, n = 0., 0., 0
    for parts in zip(offsets, logits, boxes, labels):
        place, kind, found = one_picture(*parts, anchors, cells)
        places, classes, n = places + place, classes + kind, n + found
    return (places + classes) / max(n, len(offsets))


def at_once(offsets: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, anchors: Tensor, cells: Tensor) -> Tensor:
    """Loss of a batch as the lesson computes it."""
    return sum(detection_losses(offsets, logits, boxes, labels, anchors, classes="bce", place="l1", cells=cells,
                                least=.5, most=.5))


def step(way: Callable[..., Tensor], batch: tuple[Tensor, ...], *rest: Tensor) -> tuple[float, float, list[Tensor]]:
    """Processor seconds of forward and backward, the loss, and its gradients."""
    for part in batch[:2]: part.grad = None
    began = time.process_time()
    loss = way(*batch, *rest)
    loss.backward()
    return time.process_time() - began, float(loss.detach()), [part.grad for part in batch[:2]]


def loss(turns: int, seed: int) -> None:
    """Compare values, gradients and seconds of both ways."""
    anchors = anchors_of(189)
    cells, batch = (anchors[:, 2:] - anchors[:, :2]) * .9, some_batch(anchors, 40, seed)
    (_, one, grads), (_, other, others) = (step(way, batch, anchors, cells) for way in (by_pictures, at_once))
    gap = max(float((a - b).abs().max()) for a, b in zip(grads, others))
    print(f"64 pictures, {int((batch[3] > 0).sum())} objects, 189 anchors; loss {one:.6f} and {other:.6f}, "
          f"gradients differ by {gap:.1e} at most")
    assert abs(one - other) < 1e-5 * one and gap < 1e-6
    seconds: dict[str, list[float]] = {"by_pictures": [], "at_once": []}
    for _ in range(turns):
        for way in (by_pictures, at_once): seconds[way.__name__].append(step(way, batch, anchors, cells)[0])
    slow = float(np.median(seconds["by_pictures"]))
    print("\n| way | processor ms, median | lowest | times faster |\n| --- | --- | --- | --- |")
    for name, each in seconds.items():
        print(f"| {name} | {1000 * np.median(each):.1f} | {1000 * min(each):.1f} | {slow / np.median(each):.1f} |")


def child(anchors: int, objects: int, turns: int, seed: int) -> None:
    """Measure one size; print JSON."""
    torch.set_num_threads(1)
    boxes = anchors_of(anchors)
    batch = some_batch(boxes, objects, seed)
    before = peak_rss_mb()
    times = [step(at_once, batch, boxes, boxes[:, 2:] - boxes[:, :2])[0] for _ in range(turns)]
    print(json.dumps({"anchors": len(boxes), "objects": objects, "ms": 1000 * min(times), "MB": peak_rss_mb() - before}))


def growth(turns: int, seed: int) -> None:
    """Print a row for each number of anchors and objects."""
    print("| anchors | objects, at most | processor ms | MB on top of the batch |\n| --- | --- | --- | --- |")
    for anchors, objects in ((189, 40), (1000, 40), (3000, 40), (8732, 1), (8732, 10), (8732, 20), (8732, 40), (8732, 80)):
        call = [sys.executable, __file__, "child", "--anchors", str(anchors), "--objects", str(objects), "--turns", str(turns),
                "--seed", str(seed)]
        row = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
        print(f"| {row['anchors']:,} | {objects} | {row['ms']:.0f} | {row['MB']:.0f} |", flush=True)


STEPS = {"a grid of cells": ("grid", "bce", "l1"), "more anchors": ("grids", "bce", "l1"),
         "focal loss": ("grids", "focal", "l1"), "free offsets, smooth L1": ("grids", "focal", "smooth_l1"),
         "feature pyramid": ("pyramid", "focal", "smooth_l1")}


def quiet_fit(learn, cfg) -> float:
    """Train without a word; processor seconds."""
    began = time.process_time()
    with learn.no_bar(), learn.no_logging(): pascal_ssd.fit(learn, cfg)
    return time.process_time() - began


def steps(seeds: list[int], parts: list[str]) -> None:
    """Print mAP after each step: mean and standard deviation over the seeds, and the gain over the step before, seed by seed."""
    cfg = scaled(pascal_ssd.CONFIGS)
    dls = pascal_ssd.get_dls(get_data(cfg.dataset), **cfg)
    cached, heads = None, STEPS if "heads" in parts else {}
    if heads: cached = cache_features(dls, detector_body(cfg.arch, True))
    found: dict[str, list[float]] = {name: [] for name in (*heads, *(("whole", "whole, test part") if "whole" in parts else ()))}
    for seed in seeds:
        for name, (head, classes, place) in heads.items():
            set_seed(seed)
            learn = pascal_ssd.train_head(cached, head, cfg.arch, cfg.size, classes=classes, place=place)
            found[name].append(float(learn.recorder.values[-1][-1]))
        if "whole" in parts:
            set_seed(seed)
            learn = pascal_ssd.get_learner(dls, **cfg)
            quiet_fit(learn, cfg)
            found["whole"].append(float(learn.recorder.values[-1][-1]))
            found["whole, test part"].append(pascal_ssd.score(learn)[0])
        print(seed, {name: round(each[-1], 3) for name, each in found.items()}, flush=True)
    print("\n| step | mAP, mean ± sd | gain over the step before |\n| --- | --- | --- |")
    before = None
    for name, each in found.items():
        gain = "" if before is None else "{:+.3f} ± {:.3f}".format(*spread(np.subtract(each, before)))
        print("| {} | {:.3f} ± {:.3f} | {} |".format(name, *spread(each), gain))
        before = each


def spread(each) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(np.mean(each)), float(np.std(each, ddof=1)) if len(each) > 1 else 0.


def bodies(seeds: list[int], ways: list[str]) -> None:
    """Train the whole detector with the body frozen and not; each seed also draws its own split where the set has no lists."""
    cfg = scaled(pascal_ssd.CONFIGS)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in seeds:
        dls = pascal_ssd.get_dls(get_data(cfg.dataset), **cfg, seed=seed)
        for way in ways:
            set_seed(seed)
            learn = pascal_ssd.get_learner(dls, **cfg)
            epochs = (sum(cfg.epochs), 0) if way == "frozen" else cfg.epochs
            seconds = quiet_fit(learn, {**cfg, "epochs": epochs})
            found[way].append(pascal_ssd.score(learn)[0])
            print(f"seed {seed}, {way}: mAP {found[way][-1]:.3f}, {seconds:.0f} processor seconds, {peak_rss_mb():.0f} MB", flush=True)
    for way, each in found.items(): print("{}: {:.3f} ± {:.3f}".format(way, *spread(each)))


def speed(turns: int) -> None:
    """Print the milliseconds of one picture."""
    cfg = scaled(pascal_ssd.CONFIGS)
    print("| pixels | network ms | decode and suppress ms | suppression of 200 alone ms | its share |\n| --- | --- | --- | --- | --- |")
    for size in sorted({128, 256, cfg.size}):
        model = pascal_ssd.build_model(cfg.arch, cfg.head, CLASSES, size, True).eval().to(memory_format=torch.channels_last)
        x, places = torch.randn(1, 3, size, size), head_anchors(cfg.head, size)
        with torch.no_grad():
            answers = model(x)
            candidates = detect(*answers, places, least=0., overlap=1., most=200)
            work = (partial(model, x), partial(detect, *answers, places, least=0.), partial(suppress, *candidates))
            ms = [1000 * float(np.median([timed(each) for _ in range(turns)])) for each in work]
        print(f"| {size} | {ms[0]:.1f} | {ms[1]:.2f} | {ms[2]:.2f} | {ms[2] / (ms[0] + ms[1]):.1%} |")


def timed(work: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Run one of them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", nargs="?", default="loss", choices=("loss", "growth", "steps", "bodies", "speed", "child"))
    options.add_argument("--turns", type=int, default=7)
    options.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    options.add_argument("--parts", nargs="+", default=["heads", "whole"], choices=("heads", "whole"), help="steps: which")
    options.add_argument("--ways", nargs="+", default=["frozen", "unfrozen"])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--anchors", type=int, default=189)
    options.add_argument("--objects", type=int, default=40)
    args = options.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_memory()
    if args.what == "loss": loss(args.turns, args.seed)
    elif args.what == "growth": growth(args.turns, args.seed)
    elif args.what == "steps": steps(args.seeds, args.parts)
    elif args.what == "bodies": bodies(args.seeds, args.ways)
    elif args.what == "speed": speed(args.turns)
    else: child(args.anchors, args.objects, args.turns, args.seed)


if __name__ == "__main__": main()
