"""Time forced training against a loop of steps, and score the lesson's recipes over seeds.

    python bench/translation.py [--kinds attention transformer] [--path FOLDER] [--repeats 5] [--threads N] [--bs N] [--size N]
    python bench/translation.py --seeds 42 43 44 [--kinds plain attention transformer]

The first form trains one epoch of the lesson's models in two ways, in turns: all forced steps in one call, and one step
after another. Both see the same batches and start from the same weights; before timing, their scores are compared. With one
thread the seconds are those of the processor, which other programs disturb least. The second form trains the lesson's
recipes at the current scale (`LESSONS_SCALE`), with other random numbers and another split for each seed, and prints the BLEU of
greedy translations of the validation part, each and as mean ± standard deviation; and for the final model, trained on all pairs,
that of the test part, searched as in the lesson.
"""
import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from lessonlib.bleu import corpus_bleu
from lessonlib.core import scaled, set_seed
from lessonlib.data import get_data
from lessonlib.decoding import bleu_of
from lessonlib.lookup import dictionary_translations, memory_translations
from lessonlib.losses import TokenLoss
from lessonlib.translation import CONFIGS, KINDS, build_model, fit, get_dls, get_learner

Batch = tuple[Tensor, Tensor, Tensor]


def epoch(model: nn.Module, scores: Callable[[Tensor, Tensor], Tensor], batches: list[Batch]) -> float:
    """Train on each batch once; return the seconds of the processor, which other programs disturb least."""
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    loss, start = TokenLoss(), time.process_time()
    for source, given, target in batches:
        loss(scores(source, given), target).backward()
        optimiser.step()
        optimiser.zero_grad()
    return time.process_time() - start


def compare(args: argparse.Namespace) -> None:
    """Time both ways in turns and print medians, for each kind."""
    cfg = {**scaled(CONFIGS), **{k: v for k, v in (("bs", args.bs), ("size", args.size)) if v}}
    dls = get_dls(args.path or get_data("translation"), **{**cfg, "n_compare": args.pairs, "questions": False}, compare=True)
    for kind in args.kinds or ["attention", "transformer"]: compare_kind(kind, dls, cfg, args.repeats)


def compare_kind(kind: str, dls: DataLoaders, cfg: dict[str, Any], repeats: int) -> None:
    """Time both ways in turns and print medians."""
    set_seed()
    batches = list(dls.train)
    model = build_model(kind, *map(len, dls.vocabs), cfg["size"], cfg["layers"], cfg["heads"], dropout=0.)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source, given, _ = batches[0]
    ways = {"one call": lambda s, g: model.forced(g, model.encode(s)),
            "step by step": lambda s, g: model.by_steps(g, model.encode(s))}
    with torch.no_grad(): difference = (ways["one call"](source, given) - ways["step by step"](source, given)).abs().max()
    assert difference < 1e-4
    print(f"{kind}: {len(dls.train.pairs):,} pairs in batches of {cfg['bs']}, size {cfg['size']}, {len(dls.vocabs[1]):,} words, "
          f"largest difference of a score {difference:.1e}; "
          f"{torch.get_num_threads()} threads", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, scores in ways.items():
            model.load_state_dict(weights)
            seconds[name].append(epoch(model, scores, batches))
        print("  ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items()), flush=True)
    ratio = statistics.median(b / a for a, b in zip(*(times[1:] for times in seconds.values())))
    print("median", {name: round(statistics.median(times[1:]), 2) for name, times in seconds.items()},
          f"ratio {ratio:.2f} (the first repeat is not counted)", flush=True)


def recipes(args: argparse.Namespace) -> None:
    """Train each recipe with each seed."""
    cfg, path = scaled(CONFIGS), args.path or get_data("translation")
    kinds = args.kinds or ["plain", "attention", "transformer"]
    scores: dict[str, list[float]] = {kind: [] for kind in ["memory", "dictionary", *kinds, "final, on test"]}
    for seed in args.seeds:
        dls = get_dls(path, **cfg, compare=True, seed=seed)
        french, english = zip(*dls.valid.pairs)
        for name, fn in (("memory", memory_translations), ("dictionary", dictionary_translations)):
            scores[name].append(corpus_bleu(fn(dls.train.pairs, french), english).score)
        for kind in kinds:
            set_seed(seed)
            start = time.process_time()
            learn = fit(get_learner(dls, **{**cfg, "kind": kind}), cfg)
            seconds, bleu = time.process_time() - start, bleu_of(learn.model, dls.valid)
            scores[kind].append(bleu.score)
            print(f"seed {seed}  {kind:12} {bleu}  {seconds:.0f} s of the processor", flush=True)
        set_seed(seed)
        dls = get_dls(path, **cfg, seed=seed)
        learn = fit(get_learner(dls, **{**cfg, "kind": cfg["final"]}), cfg, cfg["final_epochs"])
        bleu = bleu_of(learn.model, dls[2], cfg["beam"], alpha=cfg["alpha"])
        scores["final, on test"].append(bleu.score)
        print(f"seed {seed}  final, on test {bleu}", flush=True)
    for name, found in scores.items():
        spread = statistics.stdev(found) if len(found) > 1 else float("nan")
        print(f"{name:14} {statistics.mean(found):.1f} ± {spread:.1f}  {' '.join(f'{x:.1f}' for x in found)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="a folder with eng-fra.txt; that of get_data if not given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--pairs", type=int, default=2000, help="training pairs of the timed epoch")
    parser.add_argument("--bs", type=int, help="pairs in a batch; that of the lesson if not given")
    parser.add_argument("--size", type=int, help="size of the network; that of the lesson if not given")
    parser.add_argument("--seeds", type=int, nargs="+", help="train the recipes with these seeds instead")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="which models")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipes(args) if args.seeds else compare(args)


if __name__ == "__main__": main()
