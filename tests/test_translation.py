"""Translation: its files, sentences that nobody should be surprised by, its score beside sacrebleu, its searches."""
import random

import pytest
import torch
from fastai.callback.core import Callback
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonlib import translation as tr
from lessonlib.beside import second_process
from lessonlib.bleu import same_as_sacrebleu
from lessonlib.checkpoints import CheckpointError, read_checkpoint
from lessonlib.core import ConfigError, set_seed
from lessonlib.decoding import beam_search, greedy
from lessonlib.download import DataError
from lessonlib.losses import TokenLoss
from lessonlib.models import ModelError, load_model
from lessonlib.pairs import PairDL, read_pairs, split_pairs, tokenize_pairs
from lessonlib.seq2seq import check_padding
from lessonlib.words import BOS, EOS, PAD, UNK, SentenceError, detokenize, tokenize

CFG = {**tr.CONFIGS["sample"], "bs": 16, "size": 16, "n_valid": 20, "n_test": 20, "n_compare": 10_000,
       "epochs": 3, "min_freq": 1, "max_tokens": 6}
NOUNS = {"chat": "cat", "chien": "dog", "lit": "bed", "pain": "bread", "vin": "wine", "livre": "book", "jardin": "garden"}
COLOURS = {"noir": "black", "blanc": "white", "vert": "green", "bleu": "blue", "rouge": "red", "gris": "grey"}
ASKS = {"où est": "where is", "voici": "here is", "je vois": "i see", "prends": "take"}


@pytest.fixture(autouse=True)
def _own_output(tmp_path_factory, monkeypatch):
    """Keep what a learner writes out of the checkout, and draw the same numbers each time."""
    monkeypatch.setenv("LESSONS_OUT", str(tmp_path_factory.mktemp("out")))
    monkeypatch.setenv("LESSONS_DEVICE", "cpu")
    set_seed(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of 168 pairs whose colours stand behind their nouns in French."""
    lines = [f"{ask} the {colour} {noun}\t{question} le {nom} {couleur}\n" for question, ask in ASKS.items()
             for nom, noun in NOUNS.items() for couleur, colour in COLOURS.items()]
    path = tmp_path_factory.mktemp("translate")
    (path / "eng-fra.txt").write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def translator(folder):
    """A small model, hardly trained."""
    set_seed(0)
    learn = tr.fit(tr.get_learner(tr.get_dls(folder, seed=1, **CFG), **CFG), CFG, 1)
    return tr.Translator.from_learner(learn, CFG)


@pytest.mark.parametrize(("content", "message"), [
    (b"Who?\tQui ?\nWhere?\n", "line 2: found 1 fields, expected 2 parted by a tab"),
    (b"Who?\tQui ?\nWhere?\t\n", "line 2: the french side is missing"),
    (b"\tQui ?\n", "line 1: the english side is missing"),
    (b"a\tb\nWhere?\tO\xf9 ?\n", "line 2: byte 0xf9 is not UTF-8"),
    (b"a\tb\n\xff\xfe\x00\n", "line 2: byte 0xff is not UTF-8"),
    (b"a\t" + b"x " * 600 + b"\n", "line 1: the french side has"),
    (b"a\tb\tc\td\n", "line 1: found 4 fields"),
    (b"Who?\tQui ?\n<i>Where</i>?\tO\xc3\xb9 ?\n", "line 2: the english side has HTML, '<i>'"),
    (b"Where?\tO&ugrave; ?\n", "line 1: the french side has HTML, '&ugrave;'"),
    ("Where?\tO\ufffd ?\n".encode(), "line 1: the french side was once read in the wrong encoding"),
    (b"", "is empty"), (b"\n\n", "is empty")])
def test_wrong_files_are_named_with_their_line(tmp_path, content, message):
    """Each kind of broken file."""
    file = tmp_path / "eng-fra.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught: read_pairs(tmp_path)
    assert str(file) in str(caught.value)


def test_emoji_scripts_and_comparisons_are_sentences(tmp_path):
    """What is strange but whole is read as it is; what is not known becomes unk later."""
    lines = [("I 😀 it.", "J'adore 😀."), ("где кот", "東京"), ("a < b & c > d", "a < b")]
    (tmp_path / "eng-fra.txt").write_text("".join(f"{e}\t{f}\n" for e, f in lines), encoding="utf-8")
    assert read_pairs(tmp_path) == lines
    assert tokenize_pairs([*lines, ("word " * 13, "mot")], 12) == [
        (tuple(tokenize(f, "fr")), tuple(tokenize(e, "en"))) for e, f in lines]


def test_line_ends_marks_and_credits_are_no_part_of_a_sentence(tmp_path):
    """Files from other systems and the newer export of Tatoeba."""
    (tmp_path / "eng-fra.txt").write_bytes("\ufeffWho?\tQui ?\r\nGo.\tVa !\tCC-BY 2.0\r\n".encode())
    assert read_pairs(tmp_path) == [("Who?", "Qui ?"), ("Go.", "Va !")]


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"), (" \t\u202f\n", "is empty"), ("\u200b", "is empty"),
    ("le " * 50, "has 50 tokens, the model was trained on up to 6"),
    ("xyzzy plugh", "no word of 'xyzzy plugh' is known"), ("😀😀", "no word of"), ("?!", "no word of"),
    ("где кот", "no word of"), ("東京はどこ", "no word of"), ("أين القط", "no word of"),
    ("<b>où</b> est le chat", "has HTML, '<b>'"), ("o&ugrave; est le chat", "has HTML, '&ugrave;'"),
    ("o\ufffd est le chat", "wrong encoding"), ("o\udcf9 est", "wrong encoding"),
    ("où".encode("latin-1"), "bytes is no text"), (None, "NoneType is no text")])
def test_sentences_that_cannot_be_translated_are_refused(translator, text, message):
    """Empty, too long, unknown, other scripts, emoji, mis-encoded, no text at all."""
    with pytest.raises(SentenceError) as caught: translator(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "unknown"), [
    ("où est le chat 😀", ("😀",)), ("où est le кот", ("кот",)), ("OÙ EST LE CHAT", ()),
    ("o\u0300u est le chat".replace("o\u0300u", "ou\u0300"), ()), ("où est le zyx", ("zyx",)),
    ("le xxeos noir", ("xxeos",)), ("le xxpad", ("xxpad",))])
def test_what_is_strange_in_a_sentence_is_named(translator, text, unknown):
    """A few unknown signs do not stop a translation, and no text can end it by a special word."""
    found = translator(text)
    assert found.unknown == unknown
    assert found.text and not any(special in found.text for special in ("xxpad", "xxbos", "xxeos", "xxunk"))


sentence = st.lists(st.sampled_from("a b c d e".split()), max_size=9)


@settings(max_examples=1000)
@given(st.lists(st.tuples(sentence, sentence.filter(len)), min_size=1, max_size=8))
def test_bleu_is_that_of_sacrebleu(corpus):
    """A thousand random corpora, with and without smoothing."""
    assert same_as_sacrebleu(*zip(*corpus)) < 1e-6


@settings(max_examples=300)
@given(st.text(max_size=60), st.sampled_from(["en", "fr"]))
def test_no_text_breaks_the_tokenizer(text, lang):
    """Whatever comes in, tokens are not empty and can be written."""
    tokens = tokenize(text, lang)
    assert all(tokens)
    assert detokenize(tokens, lang).replace(" ", "") == "".join(tokens)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_no_sentence_is_on_two_sides(seed):
    """Random pairs with many repeats."""
    rng = random.Random(seed)
    pairs = sorted({((str(rng.randrange(90)),), (str(rng.randrange(90)),)) for _ in range(60)})
    parts = split_pairs(pairs, 5, 5, seed, largest=10)
    assert sorted(pair for part in parts for pair in part) == pairs
    for side in (0, 1):
        sets = [{pair[side] for pair in part} for part in parts]
        assert sum(map(len, sets)) == len(set.union(*sets))


def test_a_split_that_cannot_be_made_is_refused():
    """Too few pairs, or all of them one knot."""
    knot = [(("same",), (str(i),)) for i in range(50)]
    with pytest.raises(DataError, match="cannot be parted"): split_pairs(knot, 5, 5)
    with pytest.raises(DataError, match="none of 1 pairs"): tokenize_pairs([("a b c", "a b c")], 2)


@pytest.mark.parametrize("kind", tr.KINDS)
def test_padding_and_company_change_nothing(kind):
    """Scores, loss and translations of a pair are the same alone, padded, and in a batch with a longer one."""
    model = tr.build_model(kind, 20, 20, 16).eval()
    source, given_ = torch.tensor([[5, 6, EOS]]), torch.tensor([[BOS, 7, 8]])
    assert check_padding(model, source, given_, 9) < 1e-5
    both = torch.tensor([[5, 6, EOS, PAD, PAD, PAD], [9, 10, 11, 12, 13, EOS]])
    for search in (lambda s: greedy(model, s, 9), lambda s: beam_search(model, s, 3, 1., 9)[0]):
        alone, together = search(source)[0], search(both)[0]
        assert alone[alone != PAD].tolist() == together[together != PAD].tolist()
        assert not {BOS, UNK} & set(together.tolist())
    scores, target = model(source, given_), torch.tensor([[7, 8, EOS]])
    wider = torch.cat([scores, torch.randn(1, 4, 20)], 1), torch.cat([target, torch.zeros(1, 4, dtype=torch.int64)], 1)
    assert abs(TokenLoss(.1)(scores, target) - TokenLoss(.1)(*wider)) < 1e-6


@pytest.mark.parametrize("kind", tr.KINDS)
def test_one_call_gives_what_steps_give_gradients_too(kind):
    """The forced call is the loop of steps, forwards and backwards."""
    model = tr.build_model(kind, 20, 20, 16, dropout=0.)
    source = torch.tensor([[5, 6, 7, EOS], [9, EOS, PAD, PAD]])
    given_ = torch.tensor([[BOS, 7, 8], [BOS, 4, PAD]])
    target = torch.tensor([[7, 8, EOS], [4, EOS, PAD]])
    gradients = []
    for scores in (model(source, given_), model.by_steps(given_, model.encode(source))):
        loss = TokenLoss(.1)(scores, target)
        used = [p for name, p in model.named_parameters() if "encoder.weight_hh" in name or "words" in name]
        gradients.append(torch.autograd.grad(loss, used))
    for a, b in zip(*gradients): assert torch.allclose(a, b, atol=1e-6)


def test_a_trial_in_another_process_finds_what_it_finds_here(folder):
    """The same report, to the last word, from a process of its own."""
    cfg = {**CFG, "epochs": 1}
    with second_process() as helper: there = helper.submit(tr.trial, "plain", folder, cfg, end_force=.5).result()
    torch.set_num_threads(1)
    here = tr.trial("plain", folder, cfg, end_force=.5)
    assert here["translations"] == there["translations"]
    assert here["loss per word"] == pytest.approx(there["loss per word"])
    assert here["loss per word"] != pytest.approx(tr.trial("plain", folder, cfg)["loss per word"])


@pytest.mark.parametrize("kind", ["attention", "transformer"])
def test_the_alignment_looks_at_words_and_never_at_padding(folder, kind):
    """A row of weights for each English word, over the French words of the sentence."""
    dls = tr.get_dls(folder, seed=1, **CFG)
    learn = tr.get_learner(dls, **{**CFG, "kind": kind})
    pair = dls.train.pairs[0]
    looks = tr.alignment(learn, pair)
    assert looks.shape == (len(pair[1]) + 1, len(pair[0]) + 1)
    assert looks.to_numpy().sum(1) == pytest.approx(1, abs=1e-5)
    long, short = max(dls.train.pairs, key=lambda p: len(p[0])), min(dls.train.pairs, key=lambda p: len(p[0]))
    source, given, _ = PairDL([long, short], dls.vocabs, 2).one_batch()
    assert learn.model.alignment(source, given)[source[:, None].expand(-1, given.shape[1], -1) == PAD].abs().sum() == 0


class Cut(Callback):
    """Interrupts a training in the middle of its last epoch."""

    def after_batch(self):
        """Stop as a power cut would."""
        if self.training and self.epoch == 2 and self.iter == 1: raise KeyboardInterrupt("cut")


@pytest.mark.parametrize("kind", ["attention", "transformer"])
def test_an_interrupted_training_loses_at_most_an_epoch(folder, tmp_path, kind):
    """Cut in the third epoch and resumed after the second, it ends as one that was left alone."""
    def learner():
        set_seed(3)
        return tr.get_learner(tr.get_dls(folder, seed=1, **CFG), **{**CFG, "kind": kind})

    whole = tr.fit(learner(), CFG)
    cut, file = learner(), tmp_path / "training.pt"
    cut.add_cb(Cut())
    with pytest.raises(KeyboardInterrupt): tr.fit(cut, CFG, checkpoint=file)
    assert read_checkpoint(file)["epochs"] == 2
    again = learner()
    tr.fit(again, CFG, checkpoint=file)
    for a, b in zip(whole.model.parameters(), again.model.parameters()): assert torch.allclose(a, b, atol=1e-6)
    assert read_checkpoint(file)["epochs"] == 3


def test_a_checkpoint_of_something_else_is_refused(folder, tmp_path):
    """Another number of epochs, another model, another kind of file."""
    file = tmp_path / "training.pt"
    dls = tr.get_dls(folder, seed=1, **CFG)
    tr.fit(tr.get_learner(dls, **CFG), CFG, 1, checkpoint=file)
    with pytest.raises(CheckpointError, match="a training of 1 epochs, this one has 3"):
        tr.fit(tr.get_learner(dls, **CFG), CFG, checkpoint=file)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        tr.fit(tr.get_learner(dls, **{**CFG, "size": 32}), CFG, 1, checkpoint=file)
    file.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="not a checkpoint"): tr.fit(tr.get_learner(dls, **CFG), CFG, 1, file)


def test_a_saved_translator_comes_back(translator, tmp_path):
    """Weights and words; and a broken file is refused."""
    saved = translator.save(tmp_path / "model")
    assert tr.Translator.load(saved)("où est le chat") == translator("où est le chat")
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError): load_model(saved)


def test_unknown_kinds_and_widths_are_refused(translator):
    """Settings that do not exist."""
    with pytest.raises(ConfigError, match="kind='rnn'"): tr.build_model("rnn", 9, 9)
    with pytest.raises(ConfigError, match="beam=0"): translator("le chat", beam=0)
