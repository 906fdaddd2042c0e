"""Pictures with wrong names, cut-off files, missing files: what the pets lesson must refuse, and what it must keep."""
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

from lessonlib import pets
from lessonlib.data import DataError
from lessonlib.models import ModelError, load_model, save_model

BREEDS = "Maine_Coon", "great_pyrenees", "Bombay"


def draw(file, seed, format="JPEG"):
    """Write a picture of noise on a colour, wider than high or higher than wide."""
    rng = np.random.default_rng(seed)
    shape = (40, 56, 3) if seed % 2 else (56, 40, 3)
    pixels = rng.integers(0, 60, shape) + rng.integers(0, 190, 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file, format=format)


def write_list(path, name, stems):
    """Write a list as the makers of the Oxford set did."""
    file = path / "annotations" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("#Image CLASS-ID SPECIES BREED ID\n" + "".join(f"{stem} 1 1 1\n" for stem in stems), "utf-8")


@pytest.fixture
def oxford(tmp_path):
    """Three breeds of eight pictures, with the lists of the original."""
    path = tmp_path / "oxford-iiit-pet"
    stems = [f"{breed}_{n}" for n in range(1, 9) for breed in BREEDS]
    for number, stem in enumerate(stems): draw(path / f"images/{stem}.jpg", number)
    write_list(path, "list.txt", stems)
    write_list(path, "trainval.txt", stems[:12])
    write_list(path, "test.txt", stems[12:])
    return path


@pytest.fixture
def folders(tmp_path):
    """Ten cats and ten dogs, a folder each."""
    path = tmp_path / "dogscats"
    for number in range(20):
        species = "cat" if number % 2 else "dog"
        draw(path / f"train/{species}s/{species}.{number}.jpg", number)
    return path


def get_dls(path, **settings):
    """Read small batches without augmentation that matters here."""
    return pets.get_dls(path, **{"size": 32, "bs": 4, "seed": 1, **settings})


def names(dataset): return sorted(Path(item).name for item in dataset.items)


# Labels

@pytest.mark.parametrize(("name", "breed", "species"), [
    ("Abyssinian_1.jpg", "Abyssinian", "cat"), ("images/british_shorthair_17.jpg", "british_shorthair", "dog"),
    ("a b/great_pyrenees_173.jpg", "great_pyrenees", "dog"), ("Egyptian_Mau_139.jpg", "Egyptian_Mau", "cat")])
def test_a_name_says_breed_and_species(name, breed, species):
    assert (pets.breed_of(Path(name)), pets.species_of(Path(name))) == (breed, species)


@pytest.mark.parametrize("name", ["IMG.jpg", "Abyssinian.jpg", "_12.jpg", "Abyssinian_.jpg", "Abyssinian_x.jpg"])
def test_a_picture_without_a_label_is_named(name):
    with pytest.raises(DataError, match=name.replace(".", r"\.")): pets.breed_of(Path("images") / name)


def test_a_picture_without_a_label_stops_the_loading(oxford):
    draw(oxford / "images/holiday.jpg", 0)
    with pytest.raises(DataError, match="holiday.jpg"): get_dls(oxford)


@pytest.mark.parametrize(("target", "vocab"), [("breed", sorted(BREEDS)), ("species", ["cat", "dog"])])
def test_labels_of_the_oxford_layout(oxford, target, vocab):
    dls = get_dls(oxford, target=target)
    label = pets.breed_of if target == "breed" else pets.species_of
    assert list(dls.vocab) == vocab
    for item, number in zip(dls.valid_ds.items, (y for _, y in dls.valid_ds)):
        assert dls.vocab[int(number)] == label(Path(item))


@pytest.mark.parametrize("target", ["breed", "species"])
def test_labels_of_the_folder_layout(folders, target):
    dls = get_dls(folders, target=target)
    assert dls.c == 2 and len(dls.train_ds) + len(dls.valid_ds) == 20
    for dataset in dls.train_ds, dls.valid_ds:
        for item, (_, number) in zip(dataset.items, dataset):
            assert dls.vocab[int(number)].rstrip("s") == Path(item).parent.name.rstrip("s")


def test_an_unknown_target_is_an_error(oxford):
    with pytest.raises(ValueError, match="colour"): get_dls(oxford, target="colour")


# The split

@pytest.mark.parametrize("layout", ["oxford", "folders"])
def test_the_split_is_a_fifth_disjoint_and_whole(layout, request):
    path = request.getfixturevalue(layout)
    dls = get_dls(path)
    train, valid = names(dls.train_ds), names(dls.valid_ds)
    assert not set(train) & set(valid)
    assert len(valid) == (len(train) + len(valid)) // 5
    assert sorted(train + valid) == sorted(file.name for file in path.rglob("*.jpg"))


def test_the_split_does_not_depend_on_the_order_of_the_disk(oxford, monkeypatch):
    before = names(get_dls(oxford).valid_ds)

    def shuffled(original):
        def listing(*arguments, **options):
            found = list(original(*arguments, **options))
            random.Random(len(found)).shuffle(found)
            return iter(found)
        return listing
    for method in "iterdir", "glob", "rglob": monkeypatch.setattr(Path, method, shuffled(getattr(Path, method)))
    for function in "walk", "listdir": monkeypatch.setattr(os, function, shuffled(getattr(os, function)))
    assert names(get_dls(oxford).valid_ds) == before


def test_the_split_does_not_depend_on_place_size_or_global_seed(oxford, tmp_path):
    before = names(get_dls(oxford).valid_ds)
    torch.manual_seed(7)
    moved = shutil.copytree(oxford, tmp_path / "another place")
    assert names(get_dls(moved, size=64).valid_ds) == before


def test_another_seed_gives_another_split(oxford):
    assert len({tuple(names(get_dls(oxford, seed=seed).valid_ds)) for seed in range(4)}) > 1


def test_a_validation_folder_is_kept(folders):
    for number in range(4): draw(folders / f"valid/{'dogs' if number % 2 else 'cats'}/new.{number}.jpg", number)
    dls = get_dls(folders)
    assert names(dls.valid_ds) == [f"new.{number}.jpg" for number in range(4)] and len(dls.train_ds) == 20


def test_the_official_split(oxford):
    trainval, test = pets.official_split(oxford)
    assert len(trainval) == len(test) == 12 and not set(trainval) & set(test)
    assert all(Path(file).is_file() for file in [*trainval, *test])


@pytest.mark.parametrize("gone", ["annotations/test.txt", "images/Bombay_8.jpg"])
def test_a_gap_in_the_official_split_is_named(oxford, gone):
    (oxford / gone).unlink()
    with pytest.raises(DataError, match=Path(gone).name): pets.official_split(oxford)


# Missing and broken files

def test_a_missing_picture_is_named(oxford):
    (oxford / "images/Bombay_3.jpg").unlink()
    with pytest.raises(DataError, match="Bombay_3.jpg"): get_dls(oxford)
    with pytest.warns(UserWarning, match="Bombay_3.jpg"): dls = get_dls(oxford, skip_broken=True)
    assert len(dls.train_ds) + len(dls.valid_ds) == 23


@pytest.mark.parametrize("keep", [0, 2, 300, -2])
def test_a_cut_off_picture_is_named(oxford, keep):
    file = oxford / "images/Bombay_3.jpg"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="Bombay_3.jpg"): get_dls(oxford)
    with pytest.warns(UserWarning, match="Bombay_3.jpg"): dls = get_dls(oxford, skip_broken=True)
    assert "Bombay_3.jpg" not in names(dls.train_ds) + names(dls.valid_ds)


@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_named(folders, content):
    (folders / "train/cats/cat.1.jpg").write_bytes(content)
    with pytest.raises(DataError, match="cat.1.jpg"): get_dls(folders)


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP"])
def test_another_format_under_the_name_jpg_is_read(oxford, format):
    draw(oxford / "images/Bombay_3.jpg", 1, format)
    assert get_dls(oxford).one_batch()[0].shape[1:] == (3, 32, 32)


def test_a_cut_off_png_under_the_name_jpg_is_named(oxford):
    file = oxford / "images/Bombay_3.jpg"
    draw(file, 1, "PNG")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match="Bombay_3.jpg"): get_dls(oxford)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_pictures_become_rgb(oxford, mode):
    file = oxford / "images/Bombay_3.jpg"
    Image.open(file).convert(mode).save(file)
    dls = get_dls(oxford)
    assert all(xb.shape[1] == 3 for part in (dls.train, dls.valid) for xb, _ in part)


def test_many_broken_pictures_make_a_short_message(oxford):
    for file in (oxford / "images").iterdir(): file.write_bytes(b"")
    with pytest.raises(DataError) as caught: get_dls(oxford)
    assert "24" in str(caught.value) and len(str(caught.value)) < 1200


@pytest.mark.parametrize("made", [(), ("images",), ("train",), ("train/cats", "train/dogs")])
def test_an_empty_set_is_an_error(tmp_path, made):
    for folder in made: (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=tmp_path.name): get_dls(tmp_path)


def test_an_empty_class_is_named(folders):
    (folders / "train/birds").mkdir()
    with pytest.raises(DataError, match="birds"): get_dls(folders)


def test_a_class_to_which_nothing_was_learnt_is_named(folders):
    draw(folders / "valid/birds/bird.1.jpg", 1)
    draw(folders / "valid/cats/cat.99.jpg", 2)
    with pytest.raises(DataError, match="birds"): get_dls(folders)


def test_a_rare_breed_may_fall_into_the_validation_set(oxford):
    for breed in "Birman", "pug", "beagle", "boxer": draw(oxford / f"images/{breed}_1.jpg", 1)
    for seed in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dls = get_dls(oxford, seed=seed)
        assert dls.c == 7 and len(dls.train_ds) + len(dls.valid_ds) == 28
        assert all(0 <= int(number) < 7 for _, number in dls.valid_ds)


def test_a_single_class_is_an_error(folders):
    shutil.rmtree(folders / "train/dogs")
    with pytest.raises(DataError, match="class"): get_dls(folders)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nowhere"): get_dls(tmp_path / "nowhere")


# Confusions

def test_confusions_against_scikit_learn():
    targs, preds = np.random.default_rng(0).integers(0, 3, (2, 200))
    table = pets.confused_df(targs, preds, BREEDS, min_val=1)
    expected = confusion_matrix(targs, preds, labels=range(3))
    counted = {(row.actual, row.predicted): row.times for row in table.itertuples()}
    for i, a in enumerate(BREEDS):
        for j, b in enumerate(BREEDS): assert i == j or counted.get((a, b), 0) == expected[i, j]
    assert table.times.is_monotonic_decreasing and (table.actual != table.predicted).all()
    assert pets.confused_df(targs, preds, BREEDS, min_val=25).times.tolist() == \
        [times for times in table.times if times >= 25]


def test_no_confusions_make_an_empty_table():
    table = pets.confused_df([0, 1], [0, 1], BREEDS)
    assert list(table.columns) == ["actual", "predicted", "times"] and len(table) == 0


def test_confusions_of_tensors():
    table = pets.confused_df(torch.tensor([0, 0]), torch.tensor([1, 1]), BREEDS)
    assert table.values.tolist() == [["Maine_Coon", "great_pyrenees", 2]]


# Training and keeping

@pytest.fixture
def trained(folders):
    """A learner whose head was fitted."""
    dls = get_dls(folders)
    return pets.fit_probe(pets.get_learner(dls)), dls


def card_of(learn):
    return pets.make_card(learn, .5, arch="efficientnet_lite0", size=32)


def test_the_head_is_the_logistic_regression_it_was_solved_as(trained):
    learn, dls = trained
    x, y = pets.pooled_features(learn, dls.valid)
    weight, bias = (tensor.detach().numpy() for tensor in learn.model[1][-1].parameters())
    with learn.no_bar(): probs = learn.get_preds()[0].numpy()
    logits = x @ weight.T + bias
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(probs, expected, atol=1e-4) and len(y) == 4


def test_a_saved_model_predicts_the_same(trained, tmp_path):
    learn, dls = trained
    with learn.no_bar(): before = learn.get_preds()[0]
    model, card = load_model(save_model(tmp_path / "model", learn.model, card_of(learn)))
    for row, file in zip(before, dls.valid_ds.items):
        label, probability = pets.predict_picture(model, card, file)
        assert label == dls.vocab[int(row.argmax())] and probability == pytest.approx(float(row.max()), abs=2e-3)


def test_a_model_that_holds_a_pickle_is_refused(trained, tmp_path):
    learn, _ = trained
    folder = save_model(tmp_path / "model", learn.model, card_of(learn))
    for content in pickle.dumps({"a": 1}), pickle.dumps(learn.model.state_dict(), protocol=4):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="pickle"): load_model(folder)


def test_a_folder_with_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=tmp_path.name): load_model(tmp_path)


def test_predicting_something_that_is_no_picture_is_an_error(trained, tmp_path):
    learn, _ = trained
    (tmp_path / "note.jpg").write_text("no picture", encoding="utf-8")
    with pytest.raises(DataError, match="note.jpg"):
        pets.predict_picture(learn.model.eval(), card_of(learn), tmp_path / "note.jpg")


def test_statistics_of_the_body_stay_when_it_is_tuned(trained):
    learn, _ = trained
    norms = [module for module in learn.model[0].modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [module.running_mean.clone() for module in norms]
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, slice(1e-6, 1e-4))
    assert all(torch.equal(module.running_mean, old) for module, old in zip(norms, before))


def test_the_module_can_be_imported_anywhere(tmp_path):
    code = "import lessonlib.pets as p; print(p.breed_of('Maine_Coon_1.jpg'))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "Maine_Coon", done.stderr
