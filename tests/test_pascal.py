"""Boxes outside, without area, of unknown things, files cut short, pictures that were resized: what the reader of Pascal must refuse, and what it must keep."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lessonlib.data import DataError
from lessonlib.pascal import (
    CLASSES,
    Picture,
    class_numbers,
    read_json,
    read_pascal,
    read_xml,
    xml_text,
)

REAL = Path(os.environ.get("LESSONS_DATA", "/nowhere")) / "pascal_2007"


def picture(stem="000007", boxes=((10, 20, 110, 95),), names=None, size=(500, 375), hard=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    hard = np.zeros(len(boxes), bool) if hard is None else np.array(hard)
    return Picture(Path(f"{stem}.jpg"), size, boxes, tuple(names or ["dog"] * len(boxes)), hard, Path(f"{stem}.xml"))


def coco(pictures):
    """The same as fastai's JSON."""
    images = [{"id": i, "file_name": p.file.name, "width": p.size[0], "height": p.size[1]} for i, p in enumerate(pictures)]
    rows = [{"id": 9, "image_id": i, "category_id": CLASSES.index(name) + 1, "iscrowd": 0, "ignore": int(hard),
             "bbox": [int(n) for n in (*box[:2], *(box[2:] - box[:2]))], "area": 1}
            for i, p in enumerate(pictures) for box, name, hard in zip(p.boxes, p.names, p.difficult)]
    return {"images": images, "type": "instances", "annotations": rows,
            "categories": [{"supercategory": "none", "id": i, "name": name} for i, name in enumerate(CLASSES, 1)]}


@pytest.fixture
def folder(tmp_path):
    """Three pictures in both forms: one object, none, two hundred."""
    pictures = [picture("000007", hard=[True]), picture("000009", ()), picture("000023", [(10, 20, 110, 95)] * 200)]
    for name in ("Annotations", "train"): (tmp_path / name).mkdir()
    for each in pictures:
        Image.new("RGB", each.size).save(tmp_path / "train" / each.file)
        (tmp_path / f"Annotations/{each.file.stem}.xml").write_text(xml_text(each), "utf-8")
    (tmp_path / "train.json").write_text(json.dumps(coco(pictures)), "utf-8")
    return tmp_path


def spoil(folder, old, new, name="Annotations/000007.xml"):
    file = folder / name
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")


@pytest.mark.parametrize("form", ["xml", "json", ""])
def test_one_object_none_and_two_hundred(folder, form):
    found = read_pascal(folder, form)
    assert [len(p.names) for p in found] == [1, 0, 200] and found[1].boxes.shape == (0, 4)
    assert found[0].boxes.tolist() == [[10, 20, 110, 95]] and found[0].difficult.tolist() == [True]


def test_the_original_layout_has_parts(folder):
    (folder / "train").rename(folder / "JPEGImages")
    (folder / "train.json").unlink()
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/train.txt").write_text("000007\n000009\n", "utf-8")
    (folder / "ImageSets/Main/val.txt").write_text("000023\n", "utf-8")
    assert [p.part for p in read_pascal(folder)] == ["train", "train", "valid"]


def test_json_with_a_validation_file_has_parts(folder):
    whole = json.loads((folder / "train.json").read_text("utf-8"))
    for name, images in (("train", whole["images"][:2]), ("valid", whole["images"][2:])):
        ids = {image["id"] for image in images}
        rows = [row for row in whole["annotations"] if row["image_id"] in ids]
        (folder / f"{name}.json").write_text(json.dumps({**whole, "images": images, "annotations": rows}), "utf-8")
    assert [p.part for p in read_pascal(folder, "json")] == ["train", "train", "valid"]


def test_a_test_part_has_a_folder_of_its_own_and_is_passed_over_without_boxes(folder):
    whole = json.loads((folder / "train.json").read_text("utf-8"))
    (folder / "test").mkdir()
    (folder / "train/000023.jpg").rename(folder / "test/000023.jpg")
    for name, images in (("train", whole["images"][:2]), ("test", whole["images"][2:])):
        ids = {image["id"] for image in images}
        rows = [row for row in whole["annotations"] if row["image_id"] in ids]
        (folder / f"{name}.json").write_text(json.dumps({**whole, "images": images, "annotations": rows}), "utf-8")
    found = read_pascal(folder, "json")
    assert [p.part for p in found] == ["train", "train", "test"] and found[2].file.parent.name == "test"
    (folder / "test.json").write_text(json.dumps({**whole, "images": whole["images"][2:], "annotations": []}), "utf-8")
    assert [p.part for p in read_pascal(folder, "json")] == ["train", "train"]


@pytest.mark.parametrize("old, new, said", [
    ("<xmax>110", "<xmax>520", "dog at .* is outside the picture of 500 x 375"),
    ("<ymin>21", "<ymin>-40", "is outside the picture"),
    ("<xmax>110", "<xmax>10", "has no area"),
    ("<xmax>110", "<xmax>5", "has no area"),
    ("<xmax>110", "<xmax>nan", "is no box"),
    ("<xmax>110", "<xmax>many", "expected a number"),
    ("<xmax>110</xmax>", "", "lacks <bndbox/xmax>"),
    ("<name>dog", "<name>dragon", "unknown class 'dragon'; expected one of aeroplane, bicycle"),
    ("<name>dog</name>", "", "lacks <name>"),
    ("<width>500", "<width>0", "a size of 0 x 375"),
    ("<width>500", "<width>250", "the picture has 500 x 375 pixels, the boxes are for 250"),
    ("<height>375</height>", "", "lacks <size/height>"),
    ("000007.jpg", "000008.jpg", "000008.jpg")])
def test_impossible_xml_is_named(folder, old, new, said):
    spoil(folder, old, new)
    with pytest.raises(DataError, match=said) as error: read_pascal(folder, "xml")
    assert "000007.xml" in str(error.value) or "000008.jpg" in str(error.value)


@pytest.mark.parametrize("keep", [0, 1, 40, 200, 400, -3])
def test_xml_cut_short_is_named(folder, keep):
    file = folder / "Annotations/000007.xml"
    file.write_text(file.read_text("utf-8")[:keep], "utf-8")
    with pytest.raises(DataError, match="000007.xml"): read_pascal(folder, "xml")


def test_xml_that_is_not_text_is_named(folder):
    (folder / "Annotations/000007.xml").write_bytes(b"\xff\xd8\xff\xe0 not at all")
    with pytest.raises(DataError, match="000007.xml"): read_pascal(folder, "xml")


@pytest.mark.parametrize("old, new, said", [
    ('"bbox": [10, 20, 100, 75]', '"bbox": [10, 20, 0, 75]', "has no area"),
    ('"bbox": [10, 20, 100, 75]', '"bbox": [10, 20, 700, 75]', "is outside"),
    ('"bbox": [10, 20, 100, 75]', '"bbox": [10, 20]', "cut short or is no list"),
    ('"category_id": 12', '"category_id": 77', "unknown class '77'"),
    ('"width": 500', '"width": 200', "the picture has 500 x 375"),
    ('"file_name"', '"name"', "KeyError")])
def test_impossible_json_is_named(folder, old, new, said):
    spoil(folder, old, new, "train.json")
    with pytest.raises(DataError, match=said) as error: read_pascal(folder, "json")
    assert "train.json" in str(error.value)


def test_json_cut_short_is_named(folder):
    file = folder / "train.json"
    file.write_text(file.read_text("utf-8")[:-9], "utf-8")
    with pytest.raises(DataError, match="train.json is missing, was cut short"): read_pascal(folder, "json")


def test_one_pixel_over_the_edge_is_clipped(folder):
    spoil(folder, "<xmax>110", "<xmax>501")
    assert read_pascal(folder, "xml")[0].boxes.tolist() == [[10, 20, 500, 95]]


def test_a_missing_and_a_broken_picture_are_named(folder):
    (folder / "train/000009.jpg").write_bytes((folder / "train/000009.jpg").read_bytes()[:200])
    with pytest.raises(DataError, match="000009.jpg"): read_pascal(folder)
    (folder / "train/000009.jpg").unlink()
    with pytest.raises(DataError, match="000009.jpg"): read_pascal(folder)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="train.json"): read_pascal(tmp_path)


def test_xml_makes_round_trips(tmp_path):
    some = picture(boxes=[(0, 0, 500, 375), (3, 4, 5, 6)], names=["cat", "tvmonitor"], hard=[True, False])
    (tmp_path / "a.xml").write_text(xml_text(some, truncated=[True, False]), "utf-8")
    again = read_xml(tmp_path / "a.xml", tmp_path)
    assert again.boxes.tolist() == some.boxes.tolist() and again.names == some.names
    assert again.difficult.tolist() == [True, False] and again.size == some.size


def test_an_entity_bomb_is_refused_or_harmless(tmp_path):
    lol = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    (tmp_path / "a.xml").write_text(f'<!DOCTYPE a [<!ENTITY l0 "lol">{lol}]><annotation><name>&l9;</name></annotation>', "utf-8")
    with pytest.raises(DataError, match="a.xml"): read_xml(tmp_path / "a.xml", tmp_path)


def test_numbers_start_at_one(): assert class_numbers(["aeroplane", "person"]).tolist() == [1, 15]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real set")
def test_both_forms_of_the_real_set_agree():
    xml, found = read_pascal(REAL, "xml"), read_json(REAL / "train.json", REAL / "train")
    assert len(xml) == len(found) == 437 and sum(len(p.names) for p in xml) == 1226
    for one, other in zip(xml, found):
        assert one.file == other.file and one.names == other.names
        assert np.array_equal(one.boxes, other.boxes) and np.array_equal(one.difficult, other.difficult)
