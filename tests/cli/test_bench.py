"""`longlive bench`: lists, refusals, what it prints and what it writes; nothing unless asked."""

import json

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_recipes.bench.catalog import BENCHMARKS

LAYER = ("page_tokens=8", "heads=2", "head_dim=16", "pages=3", "repeats=1")
TINY = [word for setting in LAYER for word in ("--set", setting)]


def bench(*words: str):
    return CliRunner().invoke(app, ["bench", *words])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [(), ("--list",)])
def test_benchmarks_are_listed_a_line_each(words):
    lines = bench(*words).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert all(len(line) < 100 for line in lines)
    rows = json.loads(bench(*words, "--json").stdout)
    assert [row["benchmark"] for row in rows] == list(BENCHMARKS)


def test_a_table_is_printed_and_nothing_is_written(folder):
    done = bench("kv_decode", "nvfp4", "--device", "cpu", *TINY)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# kv_decode\n")
    assert "\n# nvfp4\n" in done.stdout
    assert "| copy |" in done.stdout
    assert list(folder.iterdir()) == []


def test_records_and_tables_are_written_where_asked(folder):
    words = ("kv_decode", "nvfp4", "--device", "cpu", "-o", "new/here", *TINY)
    done = bench(*words, "--json")
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    place = folder / "new" / "here"
    stored = [json.loads((place / f"{name}_cpu.json").read_text()) for name in words[:2]]
    assert records == stored
    assert "| copy |" in (place / "nvfp4_cpu.md").read_text()
    assert "new/here/nvfp4_cpu.md" in done.stderr
    again = bench(*words)
    assert again.exit_code == 2
    assert "kv_decode_cpu.json exists: pass --overwrite" in again.stderr
    (place / "kv_decode_cpu.md").write_text("old")
    assert bench(*words, "--overwrite").exit_code == 0
    assert (place / "kv_decode_cpu.md").read_text() != "old"


def test_a_device_that_is_left_open_is_known_before_anything_is_timed(folder):
    (folder / "nvfp4_cpu.json").write_text("kept")
    (folder / "nvfp4_cuda.json").write_text("kept")
    done = bench("nvfp4", "-o", ".", *TINY)
    assert done.exit_code == 2
    assert "exists: pass --overwrite" in done.stderr
    assert (folder / "nvfp4_cpu.json").read_text() == "kept"


def test_a_record_never_replaces_what_is_compared(folder):
    (folder / "pairs.json").write_text("{}")
    sides = ("--set", "one=pairs.json", "--set", "other=pairs.json")
    done = bench("pairs", *sides, "-o", ".", "--overwrite")
    assert done.exit_code == 2
    assert "that is read here as a record of one" in done.stderr


def test_later_places_hold_over_earlier_ones(folder):
    (folder / "some.yaml").write_text("repeats: 2\nseconds: 2\nsteps: 2\n")
    given = ("--config", "some.yaml", "--seconds", "3", "--set", "steps=5")
    done = bench("generation", "vae_decode", *given, "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert list(plan) == ["generation", "vae_decode"]
    for options in plan.values():
        assert (options["repeats"], options["seconds"], options["steps"]) == (2, 3.0, 5)


def test_a_wrong_result_is_said_and_not_timed(folder, monkeypatch):
    def wrong(*arguments, **named):
        raise AssertionError("nvfp4: scales differ")

    monkeypatch.setattr("longlive_recipes.bench.nvfp4.assert_bitwise_equal", wrong)
    done = bench("nvfp4", "kv_decode", "--device", "cpu", "-o", "out", *TINY)
    assert done.exit_code == 1
    assert "nvfp4 gives a wrong result, and is not timed: nvfp4: scales differ" in done.stderr
    assert done.stdout.startswith("# kv_decode\n")
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {"kv_decode_cpu.json", "kv_decode_cpu.md"}


def test_what_was_written_before_an_error_is_said(folder, monkeypatch):
    def broken(*arguments):
        raise MemoryError

    monkeypatch.setattr("longlive_recipes.bench.nvfp4.matrix", broken)
    done = bench("kv_decode", "nvfp4", "--device", "cpu", "-o", "out", *TINY)
    assert done.exit_code == 1
    assert "there is not enough memory" in done.stderr
    assert "Before that, out/kv_decode_cpu.json, out/kv_decode_cpu.md were written." in done.stderr


def test_a_preset_and_invariance_are_named_by_options_of_their_own():
    told = ("--preset", "tiny", "--baseline", "--ranks", "2", "--set", "quality=high")
    plan = json.loads(bench(*told, "--dry-run", "--json").stdout)
    assert list(plan) == ["preset"]
    options = plan["preset"]
    assert (options["preset"], options["baseline"], options["ranks"]) == ("tiny", True, 2)
    assert options["quality"] == ["high"]
    plan = json.loads(bench("--invariance", "--preset", "tiny", "--dry-run", "--json").stdout)
    assert {name: one["preset"] for name, one in plan.items()} == {"invariance": "tiny"}
    plan = json.loads(bench("backends", "--preset", "tiny", "--dry-run", "--json").stdout)
    assert list(plan) == ["backends"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("genration",), "there is no benchmark 'genration'; did you mean 'generation'?"),
        (("nvfp4", "--list"), "--list names every benchmark, and nvfp4 is one to be run"),
        (("balanced_sp", "--seconds", "3"), "did you mean 'video_seconds'?"),
        (("generation", "--preset", "5b"), "--preset is a benchmark of its own"),
        (("--list", "--invariance"), "--invariance is a benchmark of its own"),
        (("preset", "--invariance"), "an option of invariance: it does not go with preset"),
        (("backends", "--invariance"), "it does not go with backends"),
        (("--seconds", "3", "--html", "a.html"), "the list of benchmarks and --seconds, --html do"),
        (("--list", "-o", "out"), "and --output do not go together: nothing is measured without"),
        (("--preset", "6b"), "preset is one of pocket, 5b, tiny, got '6b'"),
        (("--preset", "tiny", "--earlier", "none"), "which is to be read as the other tree"),
        (("generation", "--repeats", "0"), "repeats is at least 1, got 0"),
        (("generation", "--set", "pages=0"), "pages is at least 1, got 0"),
        (("kv_decode", "nvfp4", "--weights", "fp8"), "weights changes nothing of kv_decode, nvfp4"),
        (("generation", "--repeats", "3"), "it is for vae_decode, kv_decode, nvfp4, linear. Leave"),
        (
            ("vae_decode", "--set", "seconds=3"),
            "seconds changes nothing of vae_decode: it is for g",
        ),
    ],
)
def test_bad_words_are_refused(words, message):
    done = bench(*words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_pairs_are_shown_on_a_page(folder):
    for number, right in enumerate((["1111", "0101"], ["1111", "1101"])):
        record = {
            "config": {"seed": 0, "weights": "bf16", "kv_cache": "bf16"},
            "suites": {"seen": {"right": right}},
            **dict.fromkeys(("steps", "guidance", "torch", "code", "hardware"), number),
            **{"model_sha256": "0", "backends": [], "steps": 4, "guidance": 1.0},
        }
        (folder / f"{number}.json").write_text(json.dumps(record))
    done = bench("pairs", "--set", "one=0.json", "--set", "other=1.json", "--html", "pairs.html")
    assert done.exit_code == 0, done.output
    page = (folder / "pairs.html").read_text()
    assert "<h2>pairs</h2>" in page and "<td>seen, shape</td>" in page and "color" in page
    assert BENCHMARKS["pairs"].about in page and "longlive bench pairs --set" in page
