"""Residual energy: the numbers against plain arithmetic, and their text."""

from __future__ import annotations

import math

import pytest
import torch
from controlnet_pp.cnpp_core.control.energy import (
    SILENT,
    CallEnergy,
    EnergyTable,
    Feature,
    number,
)


def table(values, **sides):
    names = tuple(f"in_{i}" for i in range(len(values) - 1))
    steps = values.shape[1]
    sigmas = tuple(float(steps - i) for i in range(steps))
    return EnergyTable((*names, "middle"), {"cond": values, **sides}, sigmas)


def call(sigma, rows, sides=("cond",)):
    return CallEnergy(torch.tensor(rows), torch.tensor(sigma), sides)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_energy_is_the_norm_of_the_residual_over_that_of_the_feature(dtype):
    h, r = torch.randn(3, 8, 5, 7).to(dtype), torch.randn(3, 8, 5, 7).to(dtype)
    found = Feature.of(h).energy(r)
    wanted = [float(r[i].double().norm() / h[i].double().norm()) for i in range(3)]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_norms_beyond_half_precision_do_not_overflow():
    h = torch.full((1, 320, 64, 64), 200.0, dtype=torch.float16)
    assert float(Feature.of(h).energy(h * 2)) == pytest.approx(2.0, rel=1e-3)


def test_a_feature_that_is_changed_in_place_afterwards_is_remembered_as_it_was():
    h = torch.ones(1, 2, 2, 2)
    feature = Feature.of(h)
    h += 9
    assert float(feature.energy(torch.ones(1, 2, 2, 2))) == 1.0


def test_no_residual_and_one_that_does_not_fit_add_nothing():
    feature = Feature.of(torch.ones(2, 4, 3, 3))
    for residual in (
        None,
        torch.ones(2, 4, 5, 5),
        torch.ones(2, 8, 3, 3),
        torch.ones(3, 2, 4, 3, 3),
    ):
        assert feature.energy(residual).tolist() == [0.0, 0.0]


def test_a_residual_of_one_row_counts_for_every_row():
    h = torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 4, 3, 3)
    assert Feature.of(h).energy(torch.ones(1, 4, 3, 3)).tolist() == [1.0, 0.5]


def test_what_is_not_finite_is_infinite_and_zero_over_zero_is_zero():
    feature = Feature.of(torch.ones(1, 1, 2, 2))
    assert feature.energy(torch.full((1, 1, 2, 2), math.nan)).tolist() == [math.inf]
    assert feature.energy(torch.full((1, 1, 2, 2), math.inf)).tolist() == [math.inf]
    nothing = Feature.of(torch.zeros(1, 1, 2, 2))
    assert nothing.energy(torch.zeros(1, 1, 2, 2)).tolist() == [0.0]


def test_a_table_averages_the_rows_and_calls_of_a_step_and_keeps_the_sides_apart():
    both = ("cond", "cond", "uncond", "uncond")
    calls = [
        call(10.0, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], both),
        call(5.0, [[0.5, 0.25]]),
        call(4.0, [[1.5, 0.75]]),  # between two planned sigmas: the same step again
        call(5.0, [[9.0, 7.0]], ("uncond",)),
    ]
    found = EnergyTable.gather(calls, {"in_0": 0, "middle": 1}, [10.0, 5.0, 0.0])
    assert found.sides["cond"].tolist() == [[2.0, 1.0], [3.0, 0.5]]
    assert found.sides["uncond"].tolist() == [[6.0, 9.0], [7.0, 7.0]]
    assert found.sigmas == (10.0, 5.0)


def test_only_the_named_columns_are_kept():
    found = EnergyTable.gather([call(1.0, [[1.0, 2.0, 3.0]])], {"middle": 2, "in_1": 1}, [1.0, 0.0])
    assert found.blocks == ("middle", "in_1")
    assert found.sides["cond"].tolist() == [[3.0], [2.0]]


def test_a_step_without_a_call_is_nan_and_not_part_of_the_mean():
    calls = [call(3.0, [[1.0]]), call(1.0, [[2.0]])]
    found = EnergyTable.gather(calls, {"middle": 0}, [3.0, 2.0, 1.0, 0.0])
    assert found.sides["cond"].isnan().tolist() == [[False, True, False]]
    assert found.means("cond").tolist() == [1.5]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ([[math.nan, 1.0, 2.0], [math.nan, 3.0, 0.5]], (1, 1)),
        ([[math.nan, 0.0], [math.nan, 0.0]], (0, 1)),
        ([[1.0, 9.0, math.nan], [2.0, math.inf, math.nan]], (1, 1)),
    ],
    ids=["largest", "nothing but zeros", "infinite"],
)
def test_the_hottest_cell_is_one_that_was_measured(values, place):
    found = table(torch.zeros(2, len(values[0])), uncond=torch.tensor(values))
    assert found.hottest("uncond") == place
    assert found.hottest("cond") == (0, 0)


def test_a_call_where_the_plan_ends_belongs_to_the_last_step():
    calls = [call(2.0, [[1.0]]), call(1.0, [[2.0]]), call(0.0, [[4.0]])]
    found = EnergyTable.gather(calls, {"middle": 0}, [2.0, 1.0, 0.0])
    assert found.sides["cond"].tolist() == [[1.0, 3.0]]


def test_a_plan_of_one_sigma_has_one_step():
    found = EnergyTable.gather([call(2.0, [[1.0]])], {"middle": 0}, [2.0])
    assert found.sides["cond"].tolist() == [[1.0]]


def test_without_a_plan_every_sigma_is_a_step():
    calls = [call(3.0, [[1.0]]), call(2.0, [[2.0]]), call(3.0, [[3.0]])]
    found = EnergyTable.gather(calls, {"middle": 0}, None)
    assert found.sides["cond"].tolist() == [[2.0, 2.0]]


def test_a_whole_run_is_fetched_from_the_device_at_once(monkeypatch):
    fetched = []
    cpu = torch.Tensor.cpu

    def counting(tensor):
        fetched.append(tensor.shape)
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counting)
    calls = [call(float(50 - i), [[1.0, 2.0]] * 4, ("cond",) * 4) for i in range(50)]
    EnergyTable.gather(calls, {"in_0": 0, "middle": 1}, [50.0 - i for i in range(51)])
    assert fetched == [(200, 3)]


TEXT = """\
|residual| / |feature|, mean over 2 steps (cond, uncond)
in_0    0.38  0.19
middle  2.00  1.00

cond, step by step
step     sigma    in_0  middle
1            2    0.25       0
2            1    0.50    4.00

uncond, step by step
step     sigma    in_0  middle
1            2    0.12       0
2            1    0.25    2.00"""


def test_the_columns_stand_below_their_heads():
    values = torch.tensor([[0.25, 0.5], [0.0, 4.0]])
    assert table(values, uncond=values / 2).text() == TEXT


def test_a_table_of_zeros_says_what_to_look_at():
    silent = table(torch.zeros(2, 2))
    assert silent.is_silent
    assert silent.summary().splitlines()[1:] == [SILENT, "in_0    0", "middle  0"]
    assert not table(torch.zeros(2, 2), uncond=torch.eye(2)).is_silent


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0"), (0.00012, "1e-4"), (0.0005, "0.001"), (0.0123, "0.012"), (0.1, "0.10"),
     (0.314, "0.31"), (4.25, "4.25"), (10.0, "10.0"), (42.42, "42.4"), (100.0, "100"),
     (130.4, "130"), (math.nan, "-"), (math.inf, "inf")],
)  # fmt: skip
def test_numbers_are_short(value, written):
    assert number(value) == written
