"""Settings, seeds and results, on inputs nobody would think of."""
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lessonlib.core import (
    ConfigError,
    append_result,
    cast_like,
    parse_overrides,
    read_results,
    scaled,
)

NUMBERS = st.one_of(st.integers(-10**9, 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
VALUES = st.one_of(NUMBERS, st.tuples(st.integers(0, 99), st.integers(0, 99)), st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
KEYS = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)


def with_setting(text, configs):
    old = {key: os.environ.pop(key, None) for key in ("LESSONS_SCALE", "LESSONS_SET")}
    os.environ["LESSONS_SET"] = text
    try:
        return scaled(configs)
    finally:
        os.environ.pop("LESSONS_SET")
        os.environ.update({key: value for key, value in old.items() if value is not None})


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=5))
def test_what_is_written_as_a_setting_is_read_back(values):
    text = ",".join(f"{key}={value}" for key, value in values.items())
    config = with_setting(text, {"sample": values})
    assert config == values
    assert [type(value) for value in config.values()] == [type(value) for value in values.values()]


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_reason(text):
    try:
        parsed = parse_overrides(text)
    except ConfigError as error:
        assert "expected key=value" in str(error)
    else:
        assert all(key.isidentifier() or key.isalnum() or "_" in key for key in parsed)


@given(KEYS, VALUES)
def test_an_unknown_key_is_never_ignored(key, value):
    with pytest.raises(ConfigError, match="this lesson has known"):
        with_setting(f"{key}_x={value}", {"sample": {"known": value}})


def test_parallel_writers_do_not_mix_their_lines(tmp_path):
    code = ("import sys; from pathlib import Path; from lessonlib.core import append_result\n"
            "for i in range(50): append_result({'who': sys.argv[2], 'text': 'x' * 500}, Path(sys.argv[1]))")
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(who)]) for who in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(read_results(tmp_path)) == 150


def test_a_line_cut_off_by_a_crash_does_not_hide_the_others(tmp_path):
    append_result({"value": 1}, tmp_path)
    with (tmp_path / "results.jsonl").open("a", encoding="utf-8") as file: file.write(json.dumps({"value": 2})[:5] + "\n")
    append_result({"value": 3}, tmp_path)
    assert [result["value"] for result in read_results(tmp_path)] == [1, 3]


def test_a_tuple_of_tuples_is_one_setting():
    found = parse_overrides("stages=((48, 32),(64,64)),epochs=(1,1), bs=8")
    assert found == {"stages": "((48, 32),(64,64))", "epochs": "(1,1)", "bs": "8"}
    assert cast_like(found["stages"], ((128, 128), (192, 192))) == ((48, 32), (64, 64))
