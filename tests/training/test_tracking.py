"""The course of a training in its CSV file."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from controlnet_pp.tests.training.regression import SETTINGS, Regression, trainer_of

SHORT = replace(SETTINGS, steps=35)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_validation_that_breaks_off_takes_no_step_out_of_the_csv_file(tmp_path):
    module = Regression()
    trainer = trainer_of(module, SHORT, tmp_path)

    def validate(step, _network):
        if step == 4:
            raise RuntimeError("somewhere inside")
        return {"score": 0.5}

    with pytest.raises(RuntimeError, match="somewhere inside"):
        trainer.run(module.loss, validate=validate, validate_every=2)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3", "4"]
    assert rows(tmp_path)[-1]["loss"]


def test_a_csv_file_has_a_row_for_every_step(tmp_path):
    module = Regression()

    class Parts:
        """An objective that knows what its loss is made of."""

        def __call__(self, generator):
            loss = module.loss(generator)
            self.values = {"diffusion": loss.detach() / 4, "reward": 2.0}
            return loss

    losses = []
    trainer_of(module, replace(SHORT, accumulate=2), tmp_path).run(
        Parts(),
        lambda _, loss: losses.append(loss),
        validate=lambda step, _: {"score": step / 100},
        validate_every=20,
    )
    table = rows(tmp_path)
    assert [int(row["step"]) for row in table] == list(range(36))
    before, *steps = table
    assert [float(row["loss"]) for row in steps] == losses
    assert float(steps[3]["diffusion"]) == pytest.approx(losses[3] / 4, rel=1e-6)
    assert float(steps[3]["reward"]) == 2
    assert float(steps[3]["learning_rate"]) == SHORT.rate(3)
    assert float(steps[3]["gradient_norm"]) > 0
    assert not before["loss"]
    assert {row["step"]: row["score"] for row in table if row["score"]} == {
        "0": "0.0",
        "20": "0.2",
        "35": "0.35",
    }


def test_rows_of_steps_that_are_trained_again_are_not_there_twice(tmp_path):
    module = Regression()
    trainer = trainer_of(module, SHORT, tmp_path)
    trainer.run(module.loss, lambda step, _: step == 25)
    trainer.checkpoints.path(25).unlink()
    with (tmp_path / "training.csv").open("a", encoding="utf-8") as file:
        file.write("2")  # a row that broke off
    again = Regression()
    resumed = trainer_of(again, SHORT, tmp_path)
    resumed.resume()
    resumed.run(again.loss)
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(1, 36))
