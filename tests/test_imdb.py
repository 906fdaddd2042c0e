"""The text lesson: odd reviews, an interrupted training, the tokenizer beside fastai's, what is kept on disk."""
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.text.core import SpacyTokenizer, TokenizeWithRules
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonlib import imdb
from lessonlib.checkpoints import CheckpointError
from lessonlib.core import ConfigError
from lessonlib.download import DataError
from lessonlib.lm import build_lm, read_wikitext
from lessonlib.models import ModelCard, load_model, save_model
from lessonlib.reviews import backwards, read_reviews, read_text
from lessonlib.sampled import sample_words
from lessonlib.tokens import SPECIALS, UNK, tokenize
from lessonlib.vocab import cached_tokens

CFG = {**imdb.CONFIGS["sample"], "emb_sz": 8, "n_hid": 12, "seq_len": 8, "lm_bs": 4, "bs": 8, "min_freq": 1,
       "n_drawn": 5, "max_len": 30, "epochs": (1, 0, 3), "lr": (2e-2, 1e-2, 1e-2), "lm_epochs": (1, 3)}
PRAISE, BLAME = "A warm and funny film, full of life.", "A tedious mess without any good idea."


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory, monkeypatch):
    """Keep what a test writes out of the checkout, and draw the same numbers each time."""
    monkeypatch.setenv("LESSONS_OUT", str(tmp_path_factory.mktemp("out")))
    monkeypatch.setenv("LESSONS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("LESSONS_DEVICE", "cpu")
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A few reviews in the layout of IMDB; `unseen` is in the test reviews only."""
    path = tmp_path_factory.mktemp("imdb")
    for part, n in (("train", 20), ("test", 6)):
        for label, text in (("pos", PRAISE), ("neg", BLAME)):
            (path / part / label).mkdir(parents=True)
            for i in range(n):
                seen = "unseen" if part == "test" else f"film{i % 4}"
                (path / part / label / f"{i}_9.txt").write_text(f"{text} It is {seen}.", encoding="utf-8")
    (path / "general").mkdir()
    lines = [f"The price of number {i} went up and down and up again." for i in range(30)]
    (path / "general" / "news.txt").write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def data(folder): return imdb.load_data(folder, CFG)


@pytest.fixture
def model(data):
    """A classifier that has learnt nothing: its shares are numbers all the same."""
    sizes = {key: CFG[key] for key in ("emb_sz", "n_hid", "n_layers")}
    return imdb.build_model(len(data.vocab), CFG["seq_len"], **sizes).eval()


ODD = {"50,000 words": "word " * 50_000, "50,000 letters": "w" * 50_000, "one letter": "a",
       "html": "<b>Fine</b><br /><br />&amp; <i>funny</i> &eacute;", "emoji": "🙂🙂👍🏽 funny 🎬",
       "Japanese": "とても面白い映画でした。", "Arabic": "فيلم رائع جدا", "Cyrillic": "ОТЛИЧНЫЙ фильм",
       "half a surrogate": "good \ud800 film", "control characters": "good\x85 film \x96 \x07",
       "only marks": "!!! ??? ...", "unknown words": "zzyzx qwrty"}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_reviews_get_an_answer_that_their_neighbours_do_not_change(text, model, data):
    ids = imdb.encode([text, PRAISE], data.vocab)
    together, alone = imdb.praise(model, ids, CFG), imdb.praise(model, ids[:1], CFG)
    assert 0 <= together[0] <= 1
    assert abs(together[0] - alone[0]) < 1e-5


@pytest.mark.parametrize("text", ["", "   ", "\n\t", None, 7, float("nan")], ids=repr)
def test_a_review_without_words_is_refused_and_named(text, model, data):
    with pytest.raises(DataError, match="review 1 is .*expected a text"): imdb.encode([PRAISE, text], data.vocab)
    with pytest.raises(DataError, match="review 0"): imdb.words_that_mattered(model, text, data.vocab, CFG)


def test_one_text_is_no_list_of_texts(data):
    with pytest.raises(DataError, match="list of texts"): tokenize(PRAISE)


def test_html_is_undone_and_marks_stay_marks():
    assert tokenize(["Good.<br /><br />&lt;b&gt;"])[0] == ["xxbos", "xxmaj", "good", ".", "\n\n", "<", "b", ">"]


def test_words_that_mattered_are_those_of_the_review_and_the_known_ones(model, data):
    found = imdb.words_that_mattered(model, "A warm qwrty film", data.vocab, CFG)
    assert [word for word, _ in found] == ["a", "warm", "film"]
    assert imdb.words_that_mattered(model, "とても面白い", data.vocab, CFG) == []
    long = imdb.words_that_mattered(model, "warm " * 50_000, data.vocab, CFG, limit=10)
    assert 0 < len(long) <= 10


@pytest.mark.parametrize(("content", "text"), [
    ("Été 🙂".encode(), "Été 🙂"), ("\ufeffGood".encode(), "Good"), ("Été – no".encode("cp1252"), "Été – no"),
    (b"caf\xe9 \x81 end", "café \ufffd end"), (b"line\r\nline", "line\r\nline")])
def test_files_in_other_encodings_are_read(content, text, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == text


@pytest.mark.parametrize("content", [b"", b" \n", b"PK\0\0\0", "Good".encode("utf-16")])
def test_empty_and_binary_files_are_refused_by_name(content, folder, tmp_path):
    copy = tmp_path / "imdb"
    for part in ("train/pos", "train/neg", "test/pos", "test/neg"):
        (copy / part).mkdir(parents=True)
        (copy / part / "0_9.txt").write_text("Fine.", encoding="utf-8")
    (copy / "train/neg/7_1.txt").write_bytes(content)
    with pytest.raises(DataError, match="7_1.txt"): read_reviews(copy)


def test_test_reviews_teach_nothing(data):
    assert "unseen" not in data.vocab and "warm" in data.vocab
    assert all((data.ids[i] == UNK).any() for i in data.parts["test"])
    lm = imdb.reader([data.ids[i] for i in data.parts["train"]], [data.ids[0]] * 4, data.vocab, CFG)
    read = {tuple(text) for text in lm.dls.train.texts}
    assert not read & {tuple(data.ids[i]) for i in data.parts["test"]}


def test_backwards_twice_is_forwards(data):
    again = backwards(backwards(data))
    assert all(np.array_equal(a, b) for a, b in zip(again.ids, data.ids))
    assert [again.general[i] for i in range(3)] == [data.general[i] for i in range(3)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_blend_lies_between_its_judges(shares):
    mean = imdb.blend(*(np.array([share]) for share in shares))[0]
    assert min(shares) - 2e-6 <= mean <= max(shares) + 2e-6
    assert np.isclose(imdb.blend(*(np.array([1 - share]) for share in shares))[0], 1 - mean, atol=1e-9)


# --- interruption -----------------------------------------------------------------------------------------------


class Stop(Callback):
    """Counts the epochs that were begun, and interrupts one of them."""
    begun, stop_at = 0, None

    def before_train(self): Stop.begun += 1

    def after_batch(self):
        if self.stop_at and Stop.begun == self.stop_at and self.training: raise KeyboardInterrupt


def classifier(data, folder, cfg):
    torch.manual_seed(0)
    encoder = build_lm(len(data.vocab), cfg["emb_sz"], cfg["n_hid"], cfg["n_layers"])[0]
    torch.manual_seed(0)
    learn = imdb.get_learner(imdb.get_dls(folder, data, **cfg), encoder, **cfg)
    learn.add_cb(Stop())
    return learn


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_an_interrupted_classifier_loses_one_epoch_at_most(stop_at, data, folder, monkeypatch):
    def run(cfg):
        Stop.begun = 0
        learn = classifier(data, folder, cfg)
        with learn.no_bar(), learn.no_logging(): return imdb.fit(learn, cfg)

    whole = run({**CFG, "resume": False})
    assert Stop.begun == sum(CFG["epochs"])
    monkeypatch.setattr(Stop, "stop_at", stop_at)
    with pytest.raises(KeyboardInterrupt): run({**CFG, "resume": True})
    monkeypatch.setattr(Stop, "stop_at", None)
    resumed = run({**CFG, "resume": True})
    assert Stop.begun == sum(CFG["epochs"]) - (stop_at - 1), "an epoch that was over ran again"
    for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values()):
        assert torch.equal(a, b), name


def test_a_killed_process_goes_on_where_it_was(folder, tmp_path):
    code = f"""
import os, sys
from lessonlib import imdb
from lessonlib.core import set_seed
from fastai.callback.core import Callback
set_seed()
cfg = {CFG | {"resume": True}!r}
data = imdb.load_data({str(folder)!r}, cfg)
class Kill(Callback):
    def before_train(self):
        print("begins", self.epoch, flush=True)
        if len(sys.argv) > 1 and self.epoch == int(sys.argv[1]): os._exit(9)
made = imdb.reader
def reader(*args):
    learn = made(*args)
    learn.add_cb(Kill())
    return learn
imdb.reader = reader
lm = imdb.tune_lm(data, cfg)
print("done", float(sum(p.double().sum() for p in lm.model.parameters())))
"""
    def run(out, *arguments):
        environment = {**os.environ, "LESSONS_OUT": str(tmp_path / out)}
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)

    killed = run("a", "2")
    assert killed.returncode == 9, killed.stderr
    resumed, whole = run("a"), run("b")
    assert resumed.returncode == whole.returncode == 0, resumed.stderr
    assert [line.split()[1] for line in resumed.stdout.splitlines() if line.startswith("begins")] == ["2"]
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]


def test_a_trained_model_comes_back_from_the_disk(data, folder, tmp_path):
    learn = classifier(data, folder, {**CFG, "resume": False})
    sizes = {key: CFG[key] for key in ("seq_len", "emb_sz", "n_hid", "n_layers")}
    with learn.no_bar(), learn.no_logging(): imdb.fit(learn, {**CFG, "epochs": (1,)})
    card = ModelCard("imdb", {"vocab_sz": len(data.vocab), **sizes}, vocab={"words": data.vocab})
    again, card = load_model(save_model(tmp_path / "kept", learn.model, card))
    ids = imdb.encode([PRAISE, BLAME], card.vocab["words"])
    assert np.allclose(imdb.praise(again, ids, CFG), imdb.praise(learn.model, ids, CFG), atol=1e-6)


@pytest.mark.parametrize("way", ["from nothing", "backwards"])
def test_other_networks_judge_every_review_of_the_same_parts(way, data, folder):
    shares, seconds = imdb.verdicts(way, folder, CFG)
    assert {part: len(found) for part, found in shares.items()} == {part: len(data.parts[part]) for part in ("valid", "test")}
    assert seconds > 0
    again, _ = imdb.verdicts(way, folder, CFG)
    assert np.allclose(again["test"], shares["test"], atol=1e-5)


def test_a_damaged_checkpoint_is_named(data, folder):
    cfg = {**CFG, "resume": True, "epochs": (1,), "lr": (1e-2,)}
    file = imdb.checkpoint(cfg, "classifier0")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="classifier0.pth is not a checkpoint"):
        imdb.fit(classifier(data, folder, cfg), cfg)


def test_other_settings_or_seeds_have_other_checkpoints(monkeypatch):
    cfg = {**CFG, "resume": True}
    names = {imdb.checkpoint(cfg, "tuned"), imdb.checkpoint({**cfg, "lm_drop": .9}, "tuned"),
             imdb.checkpoint({**cfg, "direction": "backward"}, "tuned")}
    assert imdb.checkpoint({**cfg, "drop": .9}, "tuned") in names, "the classifier does not change the language model"
    assert imdb.checkpoint({**cfg, "drop": .9}, "classifier0") != imdb.checkpoint(cfg, "classifier0")
    monkeypatch.setenv("LESSONS_SEED", "7")
    assert len(names | {imdb.checkpoint(cfg, "tuned")}) == 4


# --- tokens -----------------------------------------------------------------------------------------------------

FASTAI = TokenizeWithRules(SpacyTokenizer())
BITS = [*"aabcABI.,!?-/#&;:()\"0159éß🙂映", " ", "  ", "\n", "\t", "...", "n't", "'s ", " no no no ", "<br />", "&amp;",
        "amp;", "#39;", "U.S. ", "gonna ", "Mr. ", "xxmaj ", "aaa", "THE ", "Film "]


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(BITS), max_size=25).map("".join), min_size=1, max_size=20))
def test_tokens_are_those_of_fastai(texts):
    table = tokenize(texts)
    for i, expected in enumerate(FASTAI(texts)): assert table[i] == list(expected), texts[i]


@settings(max_examples=100)
@given(st.lists(st.text(max_size=40), min_size=4, max_size=12))
def test_any_text_becomes_tokens_without_blanks(texts):
    table = tokenize(texts)
    assert len(table) == len(texts)
    for i in range(len(table)):
        assert table[i][0] == "xxbos"
        assert not any(" " in token or not token for token in table[i])


def test_a_damaged_cache_is_made_anew(tmp_path):
    made = cached_tokens([PRAISE, BLAME], folder=tmp_path)
    file, = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    again = cached_tokens([PRAISE, BLAME], folder=tmp_path)
    assert again.words == made.words and np.array_equal(again.ids, made.ids)


# --- language model ---------------------------------------------------------------------------------------------


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, trace): self.trace = trace

    def __reduce__(self): return os.system, (f"echo attacked > {self.trace}",)


def test_weights_from_elsewhere_run_no_code(tmp_path):
    words, attack = tmp_path / "itos.pkl", tmp_path / "trace"
    torch.save(build_lm(9, 4, 4, 1).state_dict(), tmp_path / "lm.pth")
    words.write_bytes(pickle.dumps(Attack(attack)))
    with pytest.raises(DataError, match="no list needs"): read_wikitext(tmp_path)
    words.write_bytes(pickle.dumps(list(SPECIALS)))
    assert read_wikitext(tmp_path)[1] == list(SPECIALS)
    (tmp_path / "lm.pth").write_bytes(pickle.dumps(Attack(attack)))
    with pytest.raises(DataError, match="no readable weights"): read_wikitext(tmp_path)
    assert not attack.exists()


def test_settings_that_do_not_fit_are_refused(data):
    texts = [data.ids[i] for i in data.parts["train"]]
    with pytest.raises(DataError, match="too few for 4000 rows"): imdb.reader(texts, texts, data.vocab, {**CFG, "lm_bs": 4000})
    with pytest.raises(ConfigError, match="-3 words"): sample_words(imdb.reader(texts, texts, data.vocab, CFG), texts, -3)
    old = build_lm(len(data.vocab), 6, 12, 2)
    with pytest.raises(ConfigError, match="other sizes"): imdb.tune_lm(data, CFG, (old, data.vocab))
