"""`longlive plan`: a table for people, a line for programs, a verdict, and refusals of one line."""

import json

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app

GIB = 2**30


def longlive(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments])


def test_a_plan_says_what_fits():
    done = longlive("--gpu", "h200")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("LongLive-2.0-5B, 1280x704, on H200: weights bf16, cache bf16, 4 st")
    for part in (
        "transformer",
        "keys and values",
        "first frame after",
        "frames a second",
        "disk",
        "fragments",
    ):
        assert part in done.stdout
    assert lines[-1].startswith("It fits, with ") and lines[-1].endswith(" to spare.")


def test_a_plan_says_what_would_make_it_fit():
    last = longlive("--gpu", "h200", "--memory", "24GB").stdout.splitlines()[-1]
    assert last.startswith("It does not fit: ")
    assert "The smallest change that makes it fit: --offload" in last
    last = longlive("--gpu", "cpu", "--memory", "1GB").stdout.splitlines()[-1]
    assert "No change that is known here makes it fit" in last


def test_what_takes_days_is_said_in_days_and_is_not_no_frames_a_second():
    lines = longlive("--gpu", "cpu", "--seconds", "600").stdout.splitlines()
    assert any(line.startswith("  600 s of video in") and line.endswith(" days") for line in lines)
    [rate] = [line.split()[-1] for line in lines if line.startswith("  frames a second")]
    assert 0 < float(rate) < 0.1


def test_a_bound_of_memory_picks_and_says_what():
    done = longlive("--gpu", "h200", "--max-memory", "16GB")
    assert done.exit_code == 0, done.output
    picked = next(line for line in done.stdout.splitlines() if line.startswith("picked: "))
    assert "--kv-cache fp8" in picked and "--offload" in picked and "--vae-tiles 4" in picked
    assert "blocks wait on the host" in done.stdout and "waits on the host" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("It fits, with ")
    high = longlive("--gpu", "h200", "--max-memory", "24GB", "--quality", "high", "--json")
    values = json.loads(high.stdout)
    assert values["fits"] and not values["choice"]["offload"] and values["picked"]


def test_a_light_decoder_is_planned_where_the_model_has_one():
    none = longlive("--gpu", "h200", "--vae", "light")
    assert none.exit_code == 2 and "has no light decoder" in none.stderr
    shown = longlive("pocket", "--gpu", "cpu", "--vae", "light", "--json")
    assert shown.exit_code == 0, shown.output
    full = json.loads(longlive("pocket", "--gpu", "cpu", "--json").stdout)
    assert json.loads(shown.stdout)["memory"]["peak"] < full["memory"]["peak"]


def test_a_plan_for_programs():
    done = longlive("pocket", "--gpu", "cpu", "--seconds", "10", "--json")
    values = json.loads(done.stdout)
    assert values["model"] == "pocket" and values["video"]["frames"] == 120
    assert values["fits"] is True
    assert set(values["speed"]) >= {"first_frame", "frames_per_second"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h20"], "did you mean 'h200'?"),
        (["--memory", "24"], "is no size: write a number and a unit"),
        (["--size", "wide"], "is no size of a frame"),
        (["--memory", f"{'9' * 400}GB"], "is no size: write a number and a unit"),
        (["nowhere"], "there is no model 'nowhere'"),
        (["--train", "--steps", "4", "--offload"], "--train and --steps, --offload do not go"),
        (["--train", "--max-memory", "24GB"], "--train and --max-memory do not go together"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_line(words, message):
    done = longlive(*words)
    assert done.exit_code == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_training_is_planned_for_every_recipe(monkeypatch):
    """With stand-ins for the rehearsals, which tests/recipes/training hold against real steps."""
    from longlive_cli import catalog
    from longlive_recipes.training.memory import MemoryPlan, StepMemory

    step = StepMemory(kept=2 * GIB, gradients=GIB, passing=GIB)
    made = MemoryPlan(lasting={"weights": 6 * GIB}, step=step, update={}, tokens=5, about="a")
    recipes = ("train_ar", "train_vae", "distill_cm", "distill_dmd", "distill_vae")
    for recipe in (*recipes, "distill_chain"):
        monkeypatch.setattr(f"longlive_recipes.{recipe}.predict", lambda config: made)
    done = longlive("--train", "--gpu", "h200", "--memory", "9GB", "--json")
    assert done.exit_code == 0, done.output
    rows = {row["recipe"]: row for row in json.loads(done.stdout)["recipes"]}
    known = [one for one in catalog.presets() if one.recipe.startswith(("train_", "distill_"))]
    assert rows.keys() == {one.name for one in known}
    assert rows["ar_pocket"]["peak"] == 10 * GIB and rows["ar_pocket"]["fits"] is False
    assert all(row["fits"] is False for row in rows.values())
    text = longlive("ar_tiny", "--train", "--gpu", "h200").stdout
    assert "ar_tiny" in text and "10.0 GiB  fits" in text and "weights" in text


def test_the_tiny_recipe_is_rehearsed():
    done = longlive("ar_tiny", "--train", "--gpu", "cpu", "--json")
    [row] = json.loads(done.stdout)["recipes"]
    assert row["recipe"] == "ar_tiny" and 0 < row["peak"] < GIB and row["fits"] is True


def test_a_recipe_that_is_none_is_refused():
    done = longlive("ar_tny", "--train")
    assert done.exit_code == 2 and "did you mean 'ar_tiny'?" in done.stderr
