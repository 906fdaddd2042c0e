"""Two processes take the steps of one: the same batches, the same gradients, the same metrics."""
import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from fastai.data.core import DataLoaders
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from lessonlib.core import ConfigError
from lessonlib.distributed import SharedDL, SharedTable, shares
from lessonlib.loader import TensorDL

ROOT = Path(__file__).parent.parent
GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available() and find_spec("accelerate")

TRAINING = """
import json, os, sys
import numpy as np, torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner
from fastai.data.core import DataLoaders
from fastai.metrics import AccumMetric
from fastai.optimizer import SGD
from torch import nn
from torch.utils.data import TensorDataset
from lessonlib.backbones import KeepStats
from lessonlib.distributed import shared
from lessonlib.loader import TensorDL
from lessonlib.tabular import BestEpoch

class Gradients(Callback):
    "The first step's, as the optimiser gets them."
    def before_step(self):
        if not hasattr(self.learn, "first"):
            self.learn.first = torch.cat([p.grad.flatten() for p in self.model.parameters()])

def loaders(kind):
    x = torch.randn(75, 6, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True).sin()
    parts = [(x[:50], y[:50]), (x[50:], y[50:])]
    if kind == "table": return DataLoaders(*(TensorDL(*part, bs=8, shuffle=i == 0) for i, part in enumerate(parts)))
    return DataLoaders.from_dsets(*(TensorDataset(*part) for part in parts), bs=8, num_workers=0, device="cpu")

def mean_error(preds, targs): return float((preds - targs).abs().mean())

def fit(learn, cfg):
    learn.fit_one_cycle(3, .1, cbs=[BestEpoch("mean_error", 9)])
    return learn

found = {}
for kind in ("table", "items"):
    torch.manual_seed(7)
    body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    learn = Learner(loaders(kind), nn.Sequential(body, nn.Linear(8, 1)), nn.MSELoss(), opt_func=SGD,
                    metrics=AccumMetric(mean_error, flatten=False), cbs=[KeepStats(), Gradients()])
    if kind == "items": learn.dls.train.rng.seed(3)
    torch.manual_seed(11)
    with learn.no_bar(), learn.no_logging(): shared(fit)(learn, {})
    found[kind] = {"gradient": learn.first.tolist(), "metrics": [row[-1] for row in learn.recorder.values],
                   "weights": torch.cat([p.detach().flatten() for p in learn.model.parameters()]).tolist(),
                   "steps": len(learn.recorder.losses), "kind": type(learn.model).__name__,
                   "seen": len(learn.dls.train)}
if os.environ.get("RANK", "0") == "0":
    with open(sys.argv[1], "w") as file: json.dump(found, file)
"""


def environment():
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LESSONS_", "ACCELERATE_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}


def train(folder, n):
    script, out = folder / "training.py", folder / f"found{n}.json"
    script.write_text(TRAINING, encoding="utf-8")
    if n == 1:
        with patch.object(sys, "argv", [str(script), str(out)]): runpy.run_path(str(script), run_name="training")
    else:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(n),
                  "--num_machines", "1", "--main_process_port", "0", script, out]
        done = subprocess.run(launch, env=environment(), cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.skipif(not GLOO, reason="no gloo or no accelerate on this system")
def test_two_processes_take_the_steps_of_one(tmp_path):
    one, two = (train(tmp_path, n) for n in (1, 2))
    for kind in ("table", "items"):
        assert one[kind]["gradient"] == pytest.approx(two[kind]["gradient"], abs=1e-6)
        assert one[kind]["steps"] == two[kind]["steps"] and one[kind]["seen"] == two[kind]["seen"]
        assert one[kind]["kind"] == two[kind]["kind"] == "Sequential"
    assert one["items"]["weights"] == pytest.approx(two["items"]["weights"], abs=1e-5)
    assert one["items"]["metrics"] == pytest.approx(two["items"]["metrics"], abs=1e-5)


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 5))
def test_each_row_is_dealt_once_and_few_are_dealt_again(rows, size, n):
    order = torch.randperm(rows)
    parts = shares(order, size * n, n)
    assert set(parts.flatten().tolist()) == set(range(rows))
    assert parts.numel() - rows == -(rows % (size * n)) % n
    for k, batch in enumerate(order.split(size * n)):
        joint = parts[:, k * size:(k + 1) * size].flatten()
        assert joint[:len(batch)].tolist() == batch.tolist()


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("rows", [15, 16, 17])
def test_shares_of_a_loader_have_its_batches(rows, drop_last):
    data = TensorDataset(torch.arange(rows), torch.arange(rows))
    dl = DataLoaders.from_dsets(data, bs=4, num_workers=0, shuffle=False, drop_last=drop_last, device="cpu").train
    halves = [[xb.tolist() for xb, _ in SharedDL(dl, rank, 2)] for rank in (0, 1)]
    whole = [xb.tolist() for xb, _ in dl]
    assert [len(half) for half in halves] == [len(dl)] * 2 == [len(SharedDL(dl, 0, 2))] * 2
    for batch, first, second in zip(whole, *halves):
        assert len(first) == len(second) and (first + second)[:len(batch)] == batch


def test_a_batch_that_cannot_be_divided_is_refused():
    rows = torch.arange(9.)
    with pytest.raises(ConfigError, match="bs=4 cannot be divided among 3 processes; choose a multiple of 3"):
        SharedTable(TensorDL(rows, rows, bs=4), 0, 3)
