"""Time what the lesson on sales does against fastai's way: days since events, features, one epoch, batch sizes.

    python bench/rossmann.py events   [--path FOLDER] [--repeats 3]
    python bench/rossmann.py features [--path FOLDER]
    python bench/rossmann.py epoch    [--path FOLDER] [--rows 844338] [--threads N] [--fastai-rows 844338]
    python bench/rossmann.py batches  [--path FOLDER] [--epochs 8]
    LESSONS_SCALE=small python bench/rossmann.py seeds [--path FOLDER] [--first 42] [--seeds 5]

FOLDER has the seven files; the sample is taken without it. Sets of the real size (1,115 shops, 1,017,209 rows, of which
844,338 have sales) are made by repeating the shops of the folder under new numbers.
"""
import argparse
import platform
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.schedule import Learner
from fastai.data.core import DataLoaders
from fastai.optimizer import OptimWrapper
from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas, add_elapsed_times
from fastai.tabular.learner import tabular_config, tabular_learner

from lessonlib.core import output_dir, peak_rss_mb, scaled
from lessonlib.data import get_data
from lessonlib.events import days_since, days_until, timeline, window_sum
from lessonlib.loader import TensorDL
from lessonlib.numerics import apply_numerics
from lessonlib.rossmann import CONFIGS, compare, get_dls, get_learner
from lessonlib.sales import SalesTables, load_sales
from lessonlib.sales_data import COURSE_CATS, COURSE_CONTS
from lessonlib.sales_features import EVENTS, sales_features
from lessonlib.tabular import TabularNet, fit_encoder

SHOPS, ROWS, SOLD, SEED = 1115, 1_017_209, 844_338, 42


def enlarge(tables: SalesTables) -> SalesTables:
    """Repeat the shops under new numbers until there are as many rows as in the real set."""
    shops = len(tables.train.Store.unique())
    times = -(-ROWS // len(tables.train))
    step = int(tables.store.Store.max()) + 1
    def again(table: pd.DataFrame) -> pd.DataFrame:
        copies = [table.assign(Store=(table.Store + i * step).astype(np.int32)) for i in range(times)]
        return pd.concat(copies, ignore_index=True)
    train = again(tables.train)[:ROWS]
    test = again(tables.test[tables.test.Store.isin(tables.train.Store)])
    print(f"{len(train):,} rows of {train.Store.nunique()} shops, from {shops}", flush=True)
    return replace(tables, train=train, test=test, store=again(tables.store))


def timed(call: partial) -> tuple[float, object]:
    """Return the seconds a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def our_events(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the 12 columns of fastai's `add_elapsed_times`, with its zeros and signs."""
    line, columns = timeline(frame.Store, frame.Date), {}
    for name in EVENTS:
        flag = frame[name].to_numpy() > 0
        columns["After" + name] = np.nan_to_num(days_since(line, flag))
        columns["Before" + name] = -np.nan_to_num(days_until(line, flag))
        columns[name + "_bw"] = window_sum(line, flag, -6, 0)
        columns[name + "_fw"] = window_sum(line, flag, 0, 6)
    return columns


def bench_events(tables: SalesTables, repeats: int) -> None:
    """Compare days since and until, for three events, with fastai's loop; check that the values are equal."""
    days = enlarge(tables).train
    frame = pd.DataFrame({"Store": days.Store, "Date": days.Date, "Promo": days.Promo > 0,
                          "StateHoliday": days.StateHoliday != "0", "SchoolHoliday": days.SchoolHoliday > 0})
    ours = [timed(partial(our_events, frame)) for _ in range(repeats)]
    theirs = [timed(partial(add_elapsed_times, frame.copy(), list(EVENTS), "Date", "Store")) for _ in range(repeats)]
    slow, fast = (statistics.median(seconds for seconds, _ in runs) for runs in (theirs, ours))
    table, columns = theirs[0][1], ours[0][1]
    gaps = frame.sort_values(["Store", "Date"]).groupby("Store").Date.diff().dt.days.gt(1).groupby(frame.Store).any()
    whole = ~table.Store.isin(gaps[gaps].index).to_numpy()
    for name, values in columns.items():
        rows = slice(None) if name[:5] in ("After", "Befor") else whole  # counts of days and of rows differ in gaps
        assert np.array_equal(table[name].to_numpy()[rows], values[rows]), name
    print(f"fastai {slow:.2f} s, lessonlib {fast:.3f} s: {slow / fast:.0f} times faster, equal values "
          f"(weekly counts compared in the {whole.mean():.0%} of rows whose shop has no gap)")


def bench_features(tables: SalesTables) -> None:
    """Time the features of as many rows as the real set has."""
    big = enlarge(tables)
    before = peak_rss_mb()
    cpu = time.process_time()
    seconds, frame = timed(partial(sales_features, big))
    print(f"{len(big.train):,} training rows and {len(big.test):,} to come, {frame.shape[1]} columns: {seconds:.1f} s "
          f"({time.process_time() - cpu:.1f} s CPU), peak {peak_rss_mb() / 1024:.2f} GB (before: {before / 1024:.2f} GB)")


def course_frame(tables: SalesTables, rows: int) -> tuple[pd.DataFrame, list[int]]:
    """Return rows with sales and the course's 22 + 16 variables, and the numbers of the newest 41,395 of them."""
    frame = sales_features(enlarge(tables))
    frame = frame[frame.Sales > 0].sort_values("Date", kind="stable", ignore_index=True)
    while len(frame) < rows + 41_395: frame = pd.concat([frame, frame], ignore_index=True)
    frame = frame[-(rows + 41_395):].reset_index(drop=True)
    frame["y"] = np.log(frame.Sales).astype(np.float32)
    return frame[[*COURSE_CATS, *COURSE_CONTS, "y"]], list(range(rows, len(frame)))


def fastai_learner(frame: pd.DataFrame, valid: list[int]) -> Learner:
    """Return the course's network on fastai's loaders, at their default batch size."""
    splits = (list(range(valid[0])), valid)
    table = TabularPandas(frame.copy(), [FillMissing, Categorify, Normalize], list(COURSE_CATS), list(COURSE_CONTS),
                          y_names="y", splits=splits)
    dls = table.dataloaders(device=torch.device("cpu"))
    assert dls.train.bs == 64
    config = tabular_config(ps=[.001, .01], embed_p=.04, y_range=(0, 12))
    return tabular_learner(dls, layers=[1000, 500], config=config, path=output_dir())


def our_learner(frame: pd.DataFrame, valid: list[int], bs: int, numerics: str = "fp32") -> Learner:
    """Return the same network on tensors that were encoded once."""
    encoder = fit_encoder(frame[:valid[0]], COURSE_CATS, COURSE_CONTS)
    codes, numbers = encoder.codes(frame), encoder.numbers(frame)
    y = torch.tensor(frame.y.to_numpy())[:, None]
    parts = slice(0, valid[0]), slice(valid[0], None)
    loaders = [TensorDL(codes[part], numbers[part], y[part], bs=bs if i == 0 else 8192, shuffle=i == 0)
               for i, part in enumerate(parts)]
    model = TabularNet(encoder.sizes, len(COURSE_CONTS), (1000, 500), (.001, .01), .04, y_range=(0, 12))
    adam = partial(OptimWrapper, opt=torch.optim.AdamW, fused=True)
    learn = Learner(DataLoaders(*loaders), model, torch.nn.MSELoss(), opt_func=adam, path=output_dir())
    return apply_numerics(learn, numerics)


def epoch(learn: Learner) -> float:
    """Train and validate once; return the seconds."""
    with learn.no_bar(), learn.no_logging(): return timed(partial(learn.fit, 1, 1e-3))[0]


def bench_epoch(tables: SalesTables, rows: int, fastai_rows: int, bs: int, numerics: str) -> None:
    """Compare one epoch; fastai's may be measured on fewer rows and scaled up, which is said."""
    frame, valid = course_frame(tables, rows)
    prepare, learn = timed(partial(our_learner, frame, valid, bs, numerics))
    ours = epoch(learn)
    print(f"lessonlib, batches of {bs}, {numerics}: {ours:.1f} s for {rows:,} rows ({prepare:.1f} s to encode)", flush=True)
    if fastai_rows < rows: frame, valid = course_frame(tables, fastai_rows)
    prepare, learn = timed(partial(fastai_learner, frame, valid))
    seconds = epoch(learn)
    scaled = seconds * rows / fastai_rows
    print(f"fastai, batches of 64: {seconds:.1f} s for {fastai_rows:,} rows ({prepare:.1f} s to encode); "
          f"{scaled:.1f} s for {rows:,}: lessonlib is {scaled / ours:.1f} times faster")


def bench_batches(path: Path, epochs: int) -> None:
    """Print the error after as many epochs for each batch size, each at its best of three learning rates."""
    cfg = {**CONFIGS["small"], "epochs": epochs}
    for bs in (64, 128, 256, 512, 1024, 4096):
        line = []
        for lr in (1e-3, 3e-3, 1e-2):
            torch.manual_seed(SEED)
            dls = get_dls(path, **{**cfg, "bs": bs})
            learn = get_learner(dls, **{**cfg, "lr": lr})
            with learn.no_bar(), learn.no_logging(): seconds, _ = timed(partial(learn.fit_one_cycle, epochs, lr))
            line.append((min(row[2] for row in learn.recorder.values), lr, seconds))
        error, lr, seconds = min(line)
        print(f"bs {bs:5}: {error:.4f} at lr {lr:g}, {seconds / epochs:.1f} s an epoch; "
              f"all: {', '.join(f'{e:.4f}' for e, *_ in line)}", flush=True)


def bench_seeds(path: Path, first: int, seeds: int) -> None:
    """Print the lesson's table of methods for several seeds."""
    cfg, rows = scaled(CONFIGS), []
    for seed in range(first, first + seeds):
        rows.append(compare(path, cfg, seed)[0])
        print(seed, rows[-1].round(4).to_dict(), flush=True)
    print(pd.DataFrame(rows).agg(["mean", "std"]).round(4).T.to_string())


def main() -> None:
    """Read the arguments and run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("events", "features", "epoch", "batches", "seeds"))
    parser.add_argument("--path", type=Path)
    for name, value in (("repeats", 3), ("rows", SOLD), ("fastai-rows", SOLD), ("bs", 4096), ("epochs", 8),
                        ("seeds", 5), ("first", SEED), ("threads", torch.get_num_threads())):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--numerics", default="fp32", choices=("fp32", "amp"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = args.path or get_data("rossmann")
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}, {path}")
    if args.what == "events": bench_events(load_sales(path), args.repeats)
    elif args.what == "features": bench_features(load_sales(path))
    elif args.what == "epoch": bench_epoch(load_sales(path), args.rows, args.fastai_rows, args.bs, args.numerics)
    elif args.what == "batches": bench_batches(path, args.epochs)
    else: bench_seeds(path, args.first, args.seeds)


if __name__ == "__main__": main()
