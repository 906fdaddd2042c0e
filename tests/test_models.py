"""A saved model cannot run code."""
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from lessonlib.models import ModelCard, ModelError, load_model, save_model


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, trace): self.trace = trace

    def __reduce__(self): return os.system, (f"echo attacked > {self.trace}",)


def build(n): return nn.Linear(n, 2)


@pytest.fixture
def saved(tmp_path):
    return save_model(tmp_path / "model", build(3), ModelCard("pets", {"n": 3}))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused(saved, tmp_path, protocol):
    trace = tmp_path / "trace"
    (saved / "model.safetensors").write_bytes(pickle.dumps(Attack(trace), protocol))
    with pytest.raises(ModelError, match="pickle|another sha256"): load_model(saved, build)
    assert not trace.exists()


def test_a_malicious_file_of_torch_is_refused(saved, tmp_path):
    trace = tmp_path / "trace"
    torch.save({"weight": Attack(trace)}, saved / "model.safetensors")
    assert zipfile.is_zipfile(saved / "model.safetensors")
    with pytest.raises(ModelError, match="is a pickle, not safetensors"): load_model(saved, build)
    assert not trace.exists()


def test_a_pickle_with_a_matching_hash_is_refused_too(saved, tmp_path):
    from lessonlib.download import file_hash
    trace, weights = tmp_path / "trace", saved / "model.safetensors"
    weights.write_bytes(pickle.dumps(Attack(trace), 0))
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    card["sha256"] = file_hash(weights)
    (saved / "model.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelError): load_model(saved, build)
    assert not trace.exists()


def test_the_attack_is_a_real_one(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def test_a_card_cannot_name_a_module(saved):
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    card["lesson"] = "os.path"
    (saved / "model.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelError, match="belongs to a lesson 'os.path'"): load_model(saved)


def test_arguments_that_the_lesson_does_not_know_are_refused(saved):
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    card["architecture"] = {"n": 3, "command": "rm"}
    (saved / "model.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelError, match="does not fit"): load_model(saved, build)


@pytest.mark.parametrize(("key", "value"), [("versions", []), ("architecture", "rm"), ("lesson", ["pets"])])
def test_a_card_of_the_wrong_types_is_refused(saved, key, value):
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    card[key] = value
    (saved / "model.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelError, match=f"is not the card of a model .*{key}"): load_model(saved, build)
