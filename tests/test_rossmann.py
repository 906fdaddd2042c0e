"""The lesson on sales: bad input, no glimpse of the future, the same numbers by another way."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lessonlib.data import get_data
from lessonlib.download import DataError
from lessonlib.events import days_since, days_until, timeline, window_sum
from lessonlib.forecasting import (
    check_submission,
    close_doors,
    fit_usual,
    split_at_random,
    split_by_time,
)
from lessonlib.loader import TensorDL
from lessonlib.models import ModelError
from lessonlib.rossmann import CONFIGS, Forecaster, architecture, build_model, get_dls, get_learner
from lessonlib.sales import load_sales
from lessonlib.sales_data import make_data
from lessonlib.sales_features import sales_features, shift_future
from lessonlib.samples.rossmann import make_rossmann
from lessonlib.tabular import TableEncoder, exp_rmspe, fit_encoder, rmspe

CFG = {**CONFIGS["sample"], "layers": (16,), "ps": (0.,), "rounds": 10, "n_models": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    make_rossmann(folder, n_stores=6, seed=1)
    return folder


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source, tmp_path / "rossmann")


@pytest.fixture(scope="module")
def tables(source):
    return load_sales(source)


@pytest.fixture(scope="module")
def frame(tables):
    return sales_features(tables)


def change(folder, name, edit):
    file = folder / f"{name}.csv"
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    edit(table).to_csv(file, index=False)


def setting(row, column, value):
    def edit(table):
        table.loc[row, column] = value
        return table
    return edit


# --- the seven files ---

@pytest.mark.parametrize("name, edit, message", [
    ("train", setting(5, "Sales", "-1"), r"train.csv, line 7, column Sales: found -1, expected a number from 0"),
    ("train", setting(5, "Sales", "many"), r"train.csv, line 7, column Sales: found 'many'"),
    ("train", setting(5, "Sales", ""), r"train.csv, line 7, column Sales: found nan"),
    ("train", setting(0, "Store", "77"), r"store.csv \(train.csv asks\) has no line for Store 77, which 1 rows need"),
    ("test", setting(0, "Store", "77"), r"store.csv \(test.csv asks\) has no line for Store 77"),
    ("train", setting(0, "Date", "31.7.2015"), r"line 2, column Date: found '31.7.2015', expected a day such as"),
    ("train", setting(0, "DayOfWeek", "1"), r"line 2: 2015-07-31 is day 5 of the week, DayOfWeek says 1"),
    ("train", setting(0, "StateHoliday", "d"), r"line 2, column StateHoliday: found 'd', expected one of 0, a, b, c"),
    ("train", setting(0, "Promo", "2"), r"line 2, column Promo: found 2"),
    ("train", lambda t: t.drop(columns="Open"), r"train.csv: the column Open is missing; found Store, DayOfWeek"),
    ("train", lambda t: pd.concat([t, t[:2]]), r"Store 1, Date 2015-07-31 is there a second time \(2 lines"),
    ("train", lambda t: t[:0], r"train.csv has no rows"),
    ("test", lambda t: pd.concat([t, t[:1]]), r"test.csv, line \d+: Store 1, Date 2015-09-17 is there a second time"),
    ("store", lambda t: pd.concat([t, t[:1]]), r"store.csv, line 8: Store 1 is there a second time"),
    ("store", setting(0, "CompetitionOpenSinceMonth", "13"), r"store.csv, line 2, column CompetitionOpenSinceMonth: found 13"),
    ("store_states", lambda t: t[1:], r"store_states.csv has no line for Store 1"),
    ("store_states", setting(0, "State", "XX"), r"state_names.csv has no line for State XX"),
    ("weather", lambda t: t[t.file != "Bayern"], r"weather.csv has no line for Bayern, where there are shops"),
    ("weather", lambda t: t.drop(columns="CloudCover"), r"weather.csv: the column CloudCover is missing"),
    ("googletrend", lambda t: t[t.file != "Rossmann_DE"], r"googletrend.csv has no line for DE"),
    ("googletrend", setting(3, "week", "2013-W05"), r"googletrend.csv, line 5, column week: found '2013-W05'"),
    ("googletrend", setting(3, "trend", "101"), r"googletrend.csv, line 5, column trend: found 101"),
])
def test_a_wrong_file_is_refused_with_its_name_and_line(folder, name, edit, message):
    change(folder, name, edit)
    with pytest.raises(DataError, match=message): load_sales(folder)


def test_a_missing_file_is_named(folder):
    (folder / "weather.csv").unlink()
    with pytest.raises(DataError, match=r"weather.csv is missing; expected the seven files"): load_sales(folder)


def test_something_else_than_text_is_refused(folder):
    (folder / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no comma-separated table"): load_sales(folder)


def test_days_to_come_must_come_later(folder):
    change(folder, "test", lambda t: t.assign(Date="2015-07-31", DayOfWeek="5").drop_duplicates("Store"))
    with pytest.raises(DataError, match="but train.csv has sales until 2015-07-31"): load_sales(folder)


def test_a_day_without_weather_is_named(tables):
    gap = replace(tables, weather=tables.weather[tables.weather.Date != "2014-05-05"])
    with pytest.raises(DataError, match=r"weather.csv, 48 days before, has no line for StateName \w+, Date 2014-06-22"):
        sales_features(gap)


def test_files_with_mixed_line_ends_and_order_are_read(folder, tables):
    change(folder, "train", lambda t: t.sample(frac=1, random_state=0))
    text = (folder / "train.csv").read_text(encoding="utf-8")
    (folder / "train.csv").write_bytes(text.replace("\n", "\r\n").encode())
    key = ["Store", "Date"]
    mixed = load_sales(folder).train.sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(mixed, tables.train.sort_values(key, ignore_index=True))


# --- features ---

def test_rows_out_of_order_give_the_same_features(tables, frame):
    mixed = replace(tables, train=tables.train.sample(frac=1, random_state=0, ignore_index=True))
    key = ["Store", "Date"]
    pd.testing.assert_frame_equal(sales_features(mixed).sort_values(key, ignore_index=True),
                                  frame.sort_values(key, ignore_index=True))


@pytest.mark.parametrize("lead, horizon", [(1, 6), (7, 20), (48, 48)])
@pytest.mark.parametrize("day", ["2013-03-01", "2014-12-24", "2015-07-31"])
def test_the_past_does_not_move_with_the_future(tables, lead, horizon, day):
    day = pd.Timestamp(day)
    before = sales_features(tables, lead, horizon).drop(columns="Sales")
    after = sales_features(shift_future(tables, day, lead, horizon), lead, horizon).drop(columns="Sales")
    past = before.Date <= day
    pd.testing.assert_frame_equal(before[past], after[past])
    assert not before[~past].equals(after[~past])


def test_the_test_of_the_future_can_fail(tables):
    day = pd.Timestamp("2014-12-24")
    honest = sales_features(tables, lead=1, forecast=True)
    changed = sales_features(shift_future(tables, day, lead=1), lead=1, forecast=True)
    past = honest.Date <= day
    assert not honest[past].filter(like="Forecast_").equals(changed[past].filter(like="Forecast_"))


def test_the_trend_is_that_of_a_week_that_has_ended(tables):
    rows = sales_features(tables, lead=1)
    row = rows[(rows.Store == 1) & (rows.Date == pd.Timestamp("2015-07-27"))].iloc[0]  # a Monday
    weeks = tables.trend[tables.trend.State == row.State].set_index("end").trend
    assert row.trend == weeks["2015-07-25"]


def test_counts_are_of_days_and_not_of_rows():
    days = pd.Series(pd.to_datetime(["2014-06-29", "2014-06-30", "2015-01-01"]), name="Date")
    line = timeline(pd.Series([1, 1, 1], name="Store"), days)
    assert window_sum(line, np.ones(3), -6, 0).tolist() == [1, 2, 1]
    assert days_since(line, np.array([False, True, False])).tolist()[2] == 185


def test_no_event_is_not_an_event_today():
    line = timeline(pd.Series([1, 2], name="Store"), pd.Series(pd.to_datetime(["2015-01-01"] * 2), name="Date"))
    assert np.isnan(days_since(line, np.array([False, False]))).all()
    assert np.isnan(days_until(line, np.array([True, False]))).tolist() == [False, True]


def test_repeated_and_missing_days_are_refused():
    shop = pd.Series([1, 1], name="Store")
    with pytest.raises(DataError, match="Store 1 has 2015-01-01 twice"):
        timeline(shop, pd.Series(pd.to_datetime(["2015-01-01"] * 2), name="Date"))
    with pytest.raises(DataError, match="row 1 has no Date or no Store"):
        timeline(shop, pd.Series(pd.to_datetime(["2015-01-01", None]), name="Date"))


@settings(max_examples=30)
@given(arrays(bool, (4, 25)), arrays(bool, (4, 25)), st.integers(-9, 0), st.integers(0, 9))
def test_events_agree_with_their_definition(happened, kept, first, last):
    kept[:, 0] = True
    store, day = np.nonzero(kept)
    flag = happened[kept]
    line = timeline(pd.Series(store, name="Store"), pd.Series(pd.Timestamp("2014-12-20") + pd.to_timedelta(day, unit="D"), name="Date"))
    since, until, total = days_since(line, flag), days_until(line, flag), window_sum(line, flag, first, last)
    for i in range(len(day)):
        own = day[(store == store[i]) & flag] - day[i]
        assert np.array_equal(since[i], -own[own <= 0].max() if (own <= 0).any() else np.nan, equal_nan=True)
        assert np.array_equal(until[i], own[own >= 0].min() if (own >= 0).any() else np.nan, equal_nan=True)
        assert total[i] == ((own >= first) & (own <= last)).sum()


# --- split, medians, tensors ---

def test_parts_follow_each_other_in_time(frame):
    part = split_by_time(frame, 42)
    spans = frame.groupby(part).Date.agg(["min", "max"])
    assert spans.loc["train", "max"] < spans.loc["valid", "min"] <= spans.loc["valid", "max"] < spans.loc["test", "min"]
    assert spans.loc["test", "max"] < spans.loc["ahead", "min"]
    assert (spans.loc["test", "max"] - spans.loc["test", "min"]).days == 41
    assert (frame.Sales[part == "closed"] == 0).all()
    assert split_at_random(part).value_counts().equals(part.value_counts())


def test_nothing_is_learnt_from_rows_that_are_held_out(frame):
    part = split_by_time(frame)
    held = part.isin(["valid", "test"])
    other = frame.assign(Sales=frame.Sales.where(~held, frame.Sales * 5 + 3))
    assert make_data(frame, part).encoder == make_data(other, part).encoder
    assert make_data(frame, part).usual == make_data(other, part).usual


def test_too_little_history_is_said(frame):
    with pytest.raises(DataError, match="expected at least 126"): split_by_time(frame[frame.Date > "2015-06-01"])


def test_a_chain_that_sold_nothing_is_refused(frame):
    with pytest.raises(DataError, match="no row has sales above zero"): fit_usual(frame.assign(Sales=0))


def test_unknown_and_missing_values_have_codes():
    known = pd.DataFrame({"Store": [1, 2], "State": ["BE", None], "km": [1., np.nan], "age": [3., 5.]})
    encoder = fit_encoder(known, ["Store", "State"], ["km", "age"])
    fresh = pd.DataFrame({"Store": [9, None], "State": ["XX", None], "km": [None, 2], "age": [None, 4]})
    assert encoder.codes(fresh).tolist() == [[0, 0, 2], [0, 2, 1]]
    assert torch.isfinite(encoder.numbers(fresh)).all() and encoder.numbers(fresh)[0, 1] == 0
    assert TableEncoder(**json.loads(json.dumps(encoder.__dict__))) == encoder
    with pytest.raises(DataError, match="lacks the column State"): encoder.codes(known.drop(columns="State"))
    with pytest.raises(DataError, match="column age, row 0: found inf"): encoder.numbers(known.assign(age=[np.inf, 1]))


def test_a_category_that_becomes_missing_only_later_is_unknown():
    encoder = fit_encoder(pd.DataFrame({"State": ["BE", "BY"]}), ["State"], [])
    assert encoder.codes(pd.DataFrame({"State": [None, "BY", "ZZ"]})).tolist() == [[0], [2], [0]]


def test_a_loader_refuses_tensors_that_do_not_fit():
    with pytest.raises(ValueError, match="4, 3 rows"): TensorDL(torch.ones(4, 2), torch.ones(3))
    with pytest.raises(ValueError, match="bs=0"): TensorDL(torch.ones(4, 2), torch.ones(4), bs=0)


# --- the metric ---

def test_rmspe_by_hand_and_on_edges():
    assert rmspe([110, 80], [100, 100]) == pytest.approx(np.sqrt((.01 + .04) / 2))
    assert rmspe([5, 110], [0, 100]) == pytest.approx(.1)
    with pytest.raises(ValueError, match="at least one row"): rmspe([1.], [0.])
    with pytest.raises(ValueError, match="2 predictions for 1"): rmspe([1., 2.], [1.])


def test_exp_rmspe_is_not_the_mean_of_batches():
    preds, targs = torch.zeros(4, 1), torch.tensor([[0.], [0.], [0.], [-2.]])
    halves = np.mean([exp_rmspe(preds[:2], targs[:2]), exp_rmspe(preds[2:], targs[2:])])
    assert exp_rmspe(preds, targs) == pytest.approx((np.e**2 - 1) / 2, rel=1e-6)
    assert halves < exp_rmspe(preds, targs)


# --- the forecaster ---

@pytest.fixture(scope="module")
def forecaster(source, tables):
    dls = get_dls(source, tables=tables, **CFG)
    return Forecaster.from_learner(get_learner(dls, **CFG), CFG)


def test_strangers_get_a_forecast(forecaster, frame):
    rows = frame[frame.Sales.isna()][:3].assign(Store=999, State="XX", HolidayKind="?", StoreType=None, CompetitionDistance=np.nan)
    sales = forecaster.predict(rows.assign(Open=[1, 0, 1]))
    assert np.isfinite(sales).all() and sales[1] == 0 and (sales[[0, 2]] > 0).all()


def test_a_row_without_a_column_is_refused(forecaster, frame):
    with pytest.raises(DataError, match="lacks the column DayOfYear"): forecaster.predict(frame[:2].drop(columns="DayOfYear"))


def test_a_forecaster_comes_back_as_it_was(forecaster, frame, tmp_path):
    forecaster.save(tmp_path / "model", CFG)
    again = Forecaster.load(tmp_path / "model")
    assert np.array_equal(again.predict(frame[:50]), forecaster.predict(frame[:50]))
    (tmp_path / "model/model.safetensors").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ModelError, match="pickle"): Forecaster.load(tmp_path / "model")


def test_the_architecture_is_json(source, tables):
    dls = get_dls(source, tables=tables, **CFG)
    assert build_model(**json.loads(json.dumps(architecture(dls, CFG))))


def test_closed_days_sell_nothing():
    rows = pd.DataFrame({"Open": [1, 0, None]})
    assert close_doors(np.array([5., 5., 5.]), rows).tolist() == [5, 0, 5]


@pytest.mark.parametrize("text, message", [
    ("Id,Sales\n1,5\n", "Id 2 is missing"),
    ("Id,Sales\n1,5\n1,5\n2,5\n", "Id 1 is there twice"),
    ("Id,Sales\n1,5\n2,nan\n", "Id 2 has Sales nan"),
    ("Id,Sales\n1,5\n2,-3\n", "Id 2 has Sales -3"),
    ("Id,sales\n1,5\n2,3\n", "the columns are Id, sales; expected Id, Sales"),
])
def test_a_wrong_submission_is_refused(tmp_path, text, message):
    (tmp_path / "sample.csv").write_text("Id,Sales\n1,0\n2,0\n", encoding="utf-8")
    (tmp_path / "ours.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message): check_submission(tmp_path / "ours.csv", tmp_path / "sample.csv")


# --- the made data ---

def test_the_sample_has_the_real_columns_and_needs_no_seed():
    path = get_data("rossmann")
    assert list(pd.read_csv(path / "train.csv", nrows=1)) == [
        "Store", "DayOfWeek", "Date", "Sales", "Customers", "Open", "Promo", "StateHoliday", "SchoolHoliday"]
    assert len(list(pd.read_csv(path / "weather.csv", nrows=1))) == 24
    assert list(pd.read_csv(path / "test.csv", nrows=1))[:5] == ["Id", "Store", "DayOfWeek", "Date", "Open"]


def test_the_sample_is_drawn_the_same_way_twice(source, tmp_path):
    make_rossmann(tmp_path, n_stores=6, seed=1)
    for file in source.glob("*.csv"): assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_what_was_put_into_the_sample_can_be_found(frame):
    sold = frame[frame.Sales > 0]
    logs = np.log(sold.Sales)
    rest = logs - logs.groupby([sold.Store, sold.DayOfWeek, sold.Promo]).transform("median")
    assert logs[(sold.Promo == 1) & (sold.DayOfWeek == 1)].mean() > logs[(sold.Promo == 0) & (sold.DayOfWeek == 1)].mean() + .2
    assert rest[sold.Month == 12].mean() > .1 and rest[sold.BeforeStateHoliday == 1].mean() > .05
    gaps = sold.sort_values("Date").groupby("Store").Date.agg(lambda d: d.diff().dt.days.max())
    assert (gaps > 180).sum() == 1
