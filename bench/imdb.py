"""Compare the tokenizer of the text lessons with fastai's default, and the lesson's recipes over seeds.

    python bench/imdb.py --tokens [--path FOLDER] [--texts 25000] [--workers 1] [--repeats 3]
    python bench/imdb.py [--seeds 5] [--first 0]

Both tokenizers get the same texts and the same number of processes, and take turns in every repeat, beginning
without anything remembered. The table has the median times, on the clock and of the processor (which other work on
the machine changes less); below it stand the tokens that differ.

The recipes run at the scale and with the data and settings of the lesson (LESSONS_SCALE, LESSONS_DATA, LESSONS_SET).
A seed draws the validation reviews, the first weights and the order of the batches; the test reviews are always the
same. Each line is the accuracy on all test reviews, processor seconds of training, and numbers that were learnt.
"""
import argparse
import difflib
import os
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from fastai.callback.progress import ProgressCallback
from fastai.learner import defaults
from fastai.text.core import SpacyTokenizer, parallel_tokenize

from lessonlib import imdb, tokens
from lessonlib.core import Config, current_scale, scaled, set_seed
from lessonlib.data import get_data
from lessonlib.reviews import ReviewData, backwards

warnings.filterwarnings("ignore", category=FutureWarning)


def read(path: Path, n: int) -> list[str]:
    """Return the first `n` reviews, taken evenly from the sorted training files."""
    files = sorted(path.glob("train/*/*.txt"))
    step = max(1, len(files) // n)
    return [file.read_text(encoding="utf-8") for file in files[::step][:n]]


def by_fastai(texts: list[str], workers: int) -> list[list[str]]:
    """Tokenize as `tokenize_texts` does, in order."""
    found = parallel_tokenize(texts, tok=SpacyTokenizer(), n_workers=workers if workers > 1 else 0)
    return [list(row) for _, row in sorted(found, key=lambda pair: pair[0])]


def by_lessonlib(texts: list[str], workers: int) -> tokens.TokenTable:
    """Tokenize from nothing: the rules of spaCy are loaded anew."""
    tokens._spacy.cache_clear()
    return tokens.tokenize(texts, workers)


def cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    times = psutil.Process().cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def timed(function: Callable, *args: object) -> tuple[tuple[float, float], object]:
    """Return seconds on the clock and of the processor, and the result."""
    start, cpu = time.perf_counter(), cpu_seconds()
    result = function(*args)
    return (time.perf_counter() - start, cpu_seconds() - cpu), result


def print_differences(ours: tokens.TokenTable, theirs: list[list[str]], n: int = 10) -> None:
    """Print how many tokens agree, and the most frequent disagreements."""
    total, equal, kinds, texts = 0, 0, Counter(), 0
    for i, expected in enumerate(theirs):
        found = ours[i]
        total += len(expected)
        if found == expected:
            equal += len(expected)
            continue
        texts += 1
        matcher = difflib.SequenceMatcher(None, found, expected, autojunk=False)
        equal += sum(block.size for block in matcher.get_matching_blocks())
        kinds.update((" ".join(found[a:b]), " ".join(expected[c:d]))
                     for kind, a, b, c, d in matcher.get_opcodes() if kind != "equal")
    print(f"{equal:,} of {total:,} tokens agree ({equal / total:.5%}); {texts} of {len(theirs)} texts differ")
    for (found, expected), times in kinds.most_common(n): print(f"  {times:5} x  {found!r} where fastai has {expected!r}")


def compare_tokens(path: Path, n: int, workers: int, repeats: int) -> None:
    """Time both tokenizers in turns and list what differs."""
    texts = read(path, n)
    print(f"{len(texts):,} reviews, {workers} process{'es' if workers > 1 else ''}, {platform.machine()}", flush=True)
    methods = {"fastai": by_fastai, "lessonlib": by_lessonlib}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for method in methods.values(): method(texts[:20], 1)
    for _ in range(repeats):
        results = {}
        for name, method in methods.items():
            taken, results[name] = timed(method, texts, workers)
            seconds[name].append(taken)
        print("  ".join(f"{name} {times[-1][0]:.1f} s" for name, times in seconds.items()), flush=True)
    for k, kind in enumerate(("on the clock", "of the processor")):
        both = [[pair[k] for pair in times] for times in seconds.values()]
        ratio = statistics.median(a / b for a, b in zip(*both))
        print(f"{kind:18}" + "  ".join(f"{name} {statistics.median(times):.1f} s" for name, times in zip(seconds, both))
              + f"  {ratio:.1f} times")
    ours, theirs = results["lessonlib"], results["fastai"]
    print_differences(ours, theirs)


def weights(learn: object) -> int:
    """Return the numbers that a network has learnt."""
    return sum(p.numel() for p in learn.model.parameters())


def networks(path: Path, data: ReviewData, cfg: Config) -> dict[str, Callable]:
    """Return what trains each network, by name, and gives the learner and the reviews as it reads them."""
    def trained(data: ReviewData, start: Callable, **changes: object) -> tuple[object, ReviewData]:
        row = {**cfg, **changes}
        lm = imdb.tune_lm(data, row, start(data, row)) if start else None
        learn = imdb.get_learner(imdb.get_dls(path, data, **row), lm and lm.model[0], **row)
        return (imdb.fit if lm else imdb.fit_plain)(learn, row), data
    return {"ULMFiT": lambda: trained(data, imdb.general_lm),
            "ULMFiT, backwards": lambda: trained(backwards(data), imdb.general_lm, direction="backward"),
            "no general text": lambda: trained(data, lambda data, cfg: None, direction="no general"),
            "from nothing": lambda: trained(data, None)}


def one_seed(path: Path, cfg: Config, seed: int, skip: list[str]) -> dict[str, tuple[float, float, int]]:
    """Train every recipe once; return accuracy, processor seconds and numbers learnt."""
    os.environ["LESSONS_SEED"] = str(seed)
    found, shares = {}, {}
    data = imdb.load_data(path, cfg)
    rows, truth = data.parts["test"], data.labels[data.parts["test"]]

    def note(name: str, taken: float, size: int) -> None:
        found[name] = float(((shares[name] > .5) == truth).mean()), taken, size
        print(f"seed {seed}  {name:28} {found[name][0]:.4f} {taken:8.0f} s {size:12,}", flush=True)

    def texts(part: str) -> list[str]: return [data.read.texts[i] for i in data.parts[part]]
    (_, taken), scores = timed(imdb.vader_scores, texts("test"))
    shares["VADER"] = scores / 2 + .5
    note("VADER", taken, 0)
    (_, taken), tfidf = timed(imdb.tfidf_model().fit, texts("train"), data.labels[data.parts["train"]])
    shares["TF-IDF"] = tfidf.predict_proba(texts("test"))[:, 1]
    note("TF-IDF", taken, tfidf[-1].coef_.size)
    for name, train in networks(path, data, cfg).items():
        if name in skip: continue
        set_seed()
        (_, taken), (learn, read) = timed(train)
        shares[name] = imdb.praise(learn.model, [read.ids[i] for i in rows], cfg)
        note(name, taken, weights(learn))
    for name, parts in {"ULMFiT, both ways": ["ULMFiT", "ULMFiT, backwards"],
                        "ULMFiT and TF-IDF": ["ULMFiT", "TF-IDF"],
                        "both ways and TF-IDF": ["ULMFiT", "ULMFiT, backwards", "TF-IDF"]}.items():
        if not set(parts) <= set(shares): continue
        shares[name] = imdb.blend(*(shares[part] for part in parts))
        note(name, sum(found[part][1] for part in parts), sum(found[part][2] for part in parts))
    return found


def compare_recipes(seeds: list[int], skip: list[str]) -> None:
    """Print the mean and the spread of every recipe over seeds."""
    cfg, path = scaled(imdb.CONFIGS), get_data("imdb")
    runs = [one_seed(path, cfg, seed, skip) for seed in seeds]
    print(f"\n{current_scale()}, seeds {seeds}\n\n| recipe | accuracy | each seed | processor | numbers learnt |")
    print("| --- | --- | --- | --- | --- |")
    for name in runs[0]:
        reached, taken, size = (np.array([run[name][i] for run in runs]) for i in range(3))
        spread = f" ± {reached.std(ddof=1):.4f}" if len(seeds) > 1 else ""
        print(f"| {name} | {reached.mean():.4f}{spread} | {' '.join(f'{value:.3f}' for value in reached)} | "
              f"{taken.mean():.0f} s | {int(size[0]):,} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="a folder of reviews; that of get_data('imdb') if not given")
    parser.add_argument("--tokens", action="store_true", help="compare the tokenizers")
    parser.add_argument("--texts", type=int, default=25_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--skip", default="", help="recipes that are left out, with semicolons between")
    args = parser.parse_args()
    defaults.callbacks = [callback for callback in defaults.callbacks if callback is not ProgressCallback]
    if args.tokens: compare_tokens(args.path or get_data("imdb"), args.texts, args.workers, args.repeats)
    else: compare_recipes(list(range(args.first, args.first + args.seeds)), args.skip.split(";"))


if __name__ == "__main__": main()
