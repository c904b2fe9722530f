"""Long series: a spike of one step is found, counted and kept however much is thinned; growing costs what is new."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from patron_core.interval import Interval
from patron_core.ui.plot.board import Board
from patron_core.ui.plot.lines import Band, Line, Look, Mark, Panel, packed
from patron_core.verbs.axes import Axes
from patron_core.verbs.series import Series, edges_for, find_spikes, into_columns, series_by_key, smoothed, spike_words

NUM = 100_000


def noisy(num: int = NUM, *, seed: int = 0) -> Any:
    """A loss that falls from 10 to 3, with the noise of a batch."""
    return 3 + 7 * np.exp(-np.arange(num) / 3000) + 0.05 * np.random.default_rng(seed).standard_normal(num)


def series_of(values: Any, *, chunk: int = NUM) -> Series:
    made = Series()
    for first in range(0, len(values), chunk):
        steps = np.arange(first, min(first + chunk, len(values))) + 1
        made.extend(steps, 0.2 * steps, values[first : first + chunk])
    return made


def spiky() -> Any:
    values = noisy()
    values[63_000] = 9.5
    return values


@pytest.fixture(scope="module")
def spike() -> Series:
    return series_of(spiky())


def test_one_spike_in_a_hundred_thousand_points_is_counted(spike: Series) -> None:
    assert spike_words(spike) == "1 spike, step 63,001"
    assert spike_words(series_of(noisy())) == ""


@pytest.mark.parametrize("chunk", [777, 100])
def test_what_comes_in_pieces_has_the_same_spikes(chunk: int) -> None:
    values = noisy(3000)
    values[[500, 776, 777, 2999]] = [0.1, 30.0, 31.0, 40.0]
    assert series_of(values, chunk=chunk).spikes.tolist() == [500, 777, 2999]


def test_a_fall_a_step_and_a_ramp_are_no_spikes() -> None:
    assert not len(find_spikes(10 / np.arange(1, 400)))
    assert not len(find_spikes(np.repeat([3.0, 2.0, 5.0], 100)))
    assert not len(find_spikes(np.arange(300.0)))
    assert not len(find_spikes(np.ones(300)))


def test_several_spikes_say_how_many_which_and_when() -> None:
    values = np.full(1000, 3.0)
    values[[100, 200, 201, 900]] = [9.0, 50.0, 40.0, 6.0]
    assert spike_words(series_of(values)) == "3 spikes, the farthest at step 201, the last at step 901"


def test_columns_keep_every_extreme_and_the_last_point(spike: Series) -> None:
    edges = edges_for([spike.steps])
    columns, last = into_columns(spike.steps, spike.values, edges)
    assert len(columns.mean) == 1000
    assert np.nanmax(columns.high) == spike.values.max()
    assert np.nanmin(columns.low) == spike.values.min()
    assert last[-1] == NUM
    assert np.all(np.diff(last) > 0)


def test_few_points_stay_as_they_are_and_runs_of_other_steps_share_the_columns() -> None:
    one, other = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0])
    edges = edges_for([one, other])
    columns, last = into_columns(one, np.array([9.0, 8.0, 7.0]), edges)
    assert np.array_equal(last, [1.0, 2.0, np.nan, 4.0], equal_nan=True)
    assert np.array_equal(columns.mean, [9.0, 8.0, np.nan, 7.0], equal_nan=True)
    assert into_columns(np.empty(0), np.empty(0), edges_for([]))[1].tolist() == []


def test_what_is_no_number_is_left_out() -> None:
    made = Series()
    made.extend([1, 2, 3, 4], [1, 2, 3, 4], [1.0, float("nan"), float("inf"), 2.0])
    assert made.steps.tolist() == [1, 4]


def test_smoothing_has_the_half_life_that_was_asked_for() -> None:
    step = np.concatenate([np.zeros(1000), np.ones(10)])
    assert smoothed(step, 10)[-1] == pytest.approx(0.5, abs=0.01)
    assert smoothed(step, 0) is step


def opened(block: bytes) -> tuple[dict[str, Any], Any]:
    """What the page makes of it: the header, and an array by its place."""
    length = int.from_bytes(block[:4], "little")
    floats = np.frombuffer(block[4 + length :], "<f8")
    return json.loads(block[4 : 4 + length]), lambda place: floats[place[0] : place[0] + place[1]]


def test_a_page_gets_columns_not_points_and_the_spike_with_its_step(spike: Series) -> None:
    expected = Band(name="expected", steps=np.array([1.0, 2.0]), at=[Interval(2, 3, 4), Interval(1, 2, 3)])
    panel = Panel(
        title="<b>loss", lines=[Line(name="a", series=spike)], bands=[expected], marks=[Mark(step=5, words="m")]
    )
    block = packed([panel], Look())
    header, array = opened(block)
    (found,) = header["panels"]
    (line,) = found["lines"]
    assert len(block) < 50_000
    assert line["spikes"] == [[63_001, 9.5]]
    assert array(line["high"]).max() == spike.values.max()
    assert found["y"][1] == 9.5
    assert found["y_calm"][1] < 9
    assert array(found["bands"][0]["high"]).tolist() == [4, 3]


def test_a_window_shows_every_point_of_it(spike: Series) -> None:
    header, array = opened(
        packed([Panel(title="", lines=[Line(name="a", series=spike)])], Look(window=(62_900, 63_100)))
    )
    (found,) = header["panels"]
    assert array(found["x"]).tolist() == list(range(62_899, 63_102))
    assert found["lines"][0]["low"] is None


def test_a_board_follows_what_the_page_asks_for_and_ignores_nonsense(spike: Series) -> None:
    axes = Axes(batch_tokens=10, flops_per_token=3, spans=((0.0, float("inf"), 0.001),))
    board = Board([Panel(title="loss", lines=[Line(name="a", series=spike, axes=axes)])])
    assert board.axes == ["step", "tokens", "flops", "seconds", "usd"]
    board.look = {"axis": "usd", "smoothing": 5, "low": None, "high": None}
    header, array = opened(board.block)
    assert header["axis"] == "usd"
    assert array(header["panels"][0]["x"])[-1] == pytest.approx(0.2 * NUM * 0.001)
    assert header["panels"][0]["lines"][0]["smooth"]
    board.look = {"axis": "<script>", "smoothing": "x", "low": "a", "high": 1, "log_x": 7}
    assert opened(board.block)[0]["axis"] == "step"
    board.show([])
    assert opened(board.block)[0]["panels"] == []


def test_dollars_and_seconds_stand_still_between_machines() -> None:
    axes = Axes(batch_tokens=None, flops_per_token=None, spans=((100.0, 200.0, 0.5), (300.0, float("inf"), 1.0)))
    times = np.array([50.0, 150.0, 250.0, 310.0])
    assert axes.of("seconds", times, times).tolist() == [0, 50, 100, 110]
    assert axes.of("usd", times, times).tolist() == [0, 25, 50, 60]
    assert axes.names == ["step", "seconds", "usd"]


def test_a_frame_becomes_series_by_key_in_its_order() -> None:
    columns = {"key": ["b", "a", "b"], "step": [1, 1, 2], "time": [5.0, 5.0, 6.0], "value": [3.0, math.nan, 2.0]}
    found = series_by_key(pl.DataFrame(columns))
    assert list(found) == ["b", "a"]
    assert (found["b"].steps.tolist(), found["b"].times.tolist(), found["b"].values.tolist()) == (
        [1.0, 2.0],
        [5.0, 6.0],
        [3.0, 2.0],
    )
    assert (len(found["a"]), found["a"].given) == (0, 1)
