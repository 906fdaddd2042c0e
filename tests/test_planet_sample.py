"""The made chips of planet: what a notebook cannot show well."""
import numpy as np
import pytest

from lessonlib.samples import planet
from lessonlib.samples.chip_terrain import new_scene
from lessonlib.samples.chip_weather import WEATHER


def test_a_wished_tag_is_there_or_hidden():
    """Under a clear sky alone in its forest, every rare kind is visible."""
    for tag in (tag for tag in planet._RARE if tag):
        seen = [tag in planet.draw_chip([7, i], {"clear", "primary", tag}).tags for i in range(6)]
        assert sum(seen) >= 5, tag


def test_tags_are_what_is_visible():
    """No tag below its smallest area, none without an area, the weather and nothing else besides."""
    for i in range(60):
        chip = planet.draw_chip([8, i])
        assert {tag for tag in chip.tags if tag not in (*WEATHER, "clear")} == set(chip.areas)
        assert all(area >= planet.MIN_AREA[tag] for tag, area in chip.areas.items())
        assert set(chip.tags) <= set(planet.TAGS) and chip.tags == sorted(chip.tags)


def test_suns_and_fields_have_no_preferred_direction():
    suns = np.array([new_scene(np.random.default_rng(i)).sun for i in range(2000)])
    assert np.abs(suns.mean(0)).max() < .06 and np.abs(suns.var(0) - .5).max() < .05


def test_a_worker_that_fails_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match=r"planet:_draw_share failed[^$]*ValueError"):
        planet.make_planet(tmp_path, 4, 1, seed=-1, workers=2)


@pytest.mark.parametrize("n, n_test", [(1, 0), (0, 1), (3, 2)])
def test_small_sets(tmp_path, n, n_test):
    root = planet.make_planet(tmp_path, n, n_test, workers=1)
    assert len((root / "train_v2.csv").read_text().splitlines()) == n + 1
    assert len((root / "sample_submission_v2.csv").read_text().splitlines()) == n_test + 1
    assert sorted(path.name for path in root.iterdir()) == [
        "sample_submission_v2.csv", "test-jpg", "train-jpg", "train_v2.csv"]
