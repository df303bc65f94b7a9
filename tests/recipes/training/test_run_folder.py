"""What is read of a run's folder, and what is refused."""

import pytest

from longlive_recipes.training.run_folder import RunFolder, flat, read_table
from tests.recipes.tiny_runs import Toy, quiet_run, train_toy


def test_a_run_is_read_as_it_was_written(tmp_path):
    train_toy(Toy(run=quiet_run(tmp_path / "toy", samples_every=2)))
    run = RunFolder.read(tmp_path / "toy")
    assert run.name == "toy"
    assert run.steps == 8
    assert [step for step, _ in run.losses["loss"]] == list(range(1, 9))
    assert [step for step, _ in run.validations["slope"]] == [2, 4, 6, 8]
    assert run.settings["budget.steps"] == 8
    assert [sheet.step for sheet in run.sheets] == [4, 8]
    assert run.sheets[0].videos == ("slope",)
    assert run.sheets[0].png.startswith(b"\x89PNG")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"gone is no folder: a run's folder is what run.output"):
        RunFolder.read(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"holds no training run: there is no run.json in it"):
        RunFolder.read(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run.json is no record of a run: it has no config"):
        RunFolder.read(tmp_path)
    (tmp_path / "run.json").write_text('{"config": {}}')
    assert RunFolder.read(tmp_path).steps == 0
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="its first column is not 'step'"):
        RunFolder.read(tmp_path)


def test_rows_that_say_nothing_are_passed_over(tmp_path):
    table = tmp_path / "train.csv"
    table.write_text("step,loss,never,critic\n1,0.5,,\n2,nan,,1\nx,3,,\n3,,,inf\n4,0.25,,2\n5,0.")
    assert read_table(table) == {"loss": [(1, 0.5), (4, 0.25)], "critic": [(2, 1.0), (4, 2.0)]}
    table.write_text("")
    with pytest.raises(ValueError, match="first column is not 'step'"):
        read_table(table)


def test_nested_values_have_the_names_of_set():
    values = {"a": {"b": 1, "c": [{"d": 2}, {"d": 3}], "e": [1, 2]}, "f": {}, "g": None}
    wanted = {"a.b": 1, "a.c.0.d": 2, "a.c.1.d": 3, "a.e": [1, 2], "f": {}, "g": None}
    assert flat(values) == wanted


def test_videos_of_a_sheet_are_in_the_order_of_its_rows(tmp_path):
    (tmp_path / "run.json").write_text('{"config": {}}')
    sheet = tmp_path / "samples" / "step_0000004"
    sheet.mkdir(parents=True)
    (sheet / "sheet.png").touch()
    for number in (10, 2, 0, 1):
        (sheet / f"clip_{number}.mp4").touch()
    [found] = RunFolder.read(tmp_path).sheets
    assert found.videos == ("clip_0", "clip_1", "clip_2", "clip_10")
