"""Pages that name what is in the tree name what is there."""

import json
import re
import runpy

import pytest

from longlive_cli import boundary
from longlive_cli.main import app
from tests.architecture.source import PACKAGES, ROOT

SEAMS = (
    *("scale rule", "attention backend", "how a cut is stored", "page codec", "training objective"),
    *("training recipe", "text encoder", "layout of model files", "CLI verb", "output format"),
    "sampler",
)
WORDS = (
    *("anchor", "block", "clip", "cut", "lane", "page", "receipt", "sample", "shot", "sink"),
    *("slot", "window", "recache", "snapshot", "record"),
)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(name: str) -> list[list[str]]:
    """The cells of every table's rows, heads and rules left out."""
    lines = [line for line in text(name).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = [place for place, line in enumerate(lines) if set(line) <= set("|- ")]
    heads = {place - 1 for place in rules}
    return [row for place, row in enumerate(cells) if place not in {*rules, *heads}]


def test_the_public_names_are_listed_as_they_are():
    made = runpy.run_path(str(ROOT / "docs" / "make_api.py"))
    assert text("docs/api.md") == made["page"](), "run: python docs/make_api.py"
    with pytest.raises(ValueError, match="longlive_core.noise has no gone"):
        made["first_line"]("longlive_core.noise", "gone")


def test_the_table_of_speed_is_what_the_records_say(tmp_path):
    made = runpy.run_path(str(ROOT / "docs" / "make_speed.py"))
    said = text("README.md")
    assert made["BEGIN"] in said
    assert made["page"](said, ROOT / "benchmarks/results") == said, "run: python docs/make_speed.py"
    assert made["page"](said, tmp_path) == said
    for name, key in (("5b_fused_block", "paths"), ("5b_vae_pieces", "decoding")):
        ways = made["TRANSFORMER"] if key == "paths" else made["DECODER"]
        timed = {way: {"seconds": 2.0 / (1 + place)} for place, way in enumerate(ways)}
        record = {key: timed, "device": "a GPU", "torch": "2.11", "commit": "c", "command": name}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    page = made["page"](said, tmp_path)
    assert "| `lossless`: fused kernels | 1.000 | 2.00 |  |" in page
    assert "a GPU, torch 2.11, commit c: `5b_vae_pieces`" in page
    record = {
        "parts": {
            made["BLOCK"]: {
                "the earlier tree": {"seconds_p50": 1.2},
                "lossless": {"error": "same bytes", "seconds_p50": 1.0, "times_earlier_speed": 1.2},
                "high": {"error": "not timed: 0.4 off"},
            },
            made["STREAM"]: {"lossless": {"frames_a_second": 18.04, "peak_gib": 40.0}},
        },
        "hardware": {"gpu": "a GPU"},
        "versions": {"torch": "2.11"},
        "commit": "abc",
        "command": "longlive bench --preset 5b",
    }
    (tmp_path / "5b_cuda.json").write_text(json.dumps(record))
    table = made["page"](said, tmp_path)
    assert "| the earlier tree | 1.200 |  |  |  |  |" in table
    assert "| lossless | 1.000 (1.20x) |  | 18.0 | 40.0 | the reference's bytes |" in table
    assert "| high |  |  |  |  | not timed: 0.4 off |" in table
    assert "a GPU, torch 2.11, commit abc: `longlive bench --preset 5b`" in table


def test_each_seam_names_its_files_and_a_test():
    table = rows("docs/extending.md")
    assert len(table) == len(SEAMS)
    for seam, row in zip(SEAMS, table, strict=True):
        assert seam in row[0]
        files = [re.findall(r"`([\w/]+\.(?:py|md))`", cell) for cell in row]
        assert files[1], f"{row[0]}: no file"
        assert len(files[3]) == 1 and files[3][0].startswith("tests/"), f"{row[0]}: no test"


@pytest.mark.parametrize("page", ["docs/extending.md", "docs/testing.md", "CONTRIBUTING.md"])
def test_paths_of_the_pages_are_there(page):
    paths = re.findall(r"`((?:\w+|\.ci)/[\w/.]+)`", text(page))
    assert len(paths) >= 5
    gone = [path for path in paths if not list(ROOT.glob(path.replace("_N.", "_*.")))]
    assert not gone


def test_files_that_a_folders_page_names_are_in_the_folder():
    for package in (*PACKAGES, "benchmarks"):
        for page in (ROOT / package).rglob("*.md"):
            for name in re.findall(r"`([\w/*]+\.py)`", page.read_text(encoding="utf-8")):
                there = list(page.parent.rglob(name)) or list(ROOT.glob(name))
                assert there, f"{page.relative_to(ROOT)} names {name}"


def test_a_backend_of_each_table_and_a_rule_of_each_row_is_where_the_page_says():
    for path, name in re.findall(r"`([\w/]+\.py)` \(`(\w+)`", text("docs/extending.md")):
        assert re.search(rf"\b{name}\b", text(path)), f"{path} has no {name}"


def test_the_glossary_is_in_order_and_has_its_words():
    words = [row[0] for row in rows("docs/glossary.md")]
    assert words == sorted(words)
    assert set(WORDS) <= set(words)


def test_the_command_line_has_every_verb_on_its_page():
    named = {row[0] for row in rows("longlive_cli/README.md")}
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands]
    verbs += [group.name for group in app.registered_groups]
    assert {f"`longlive {verb}`" for verb in verbs} <= named
    statuses = {str(boundary.FAILED), str(boundary.BAD_INPUT), "0", "129 to 143"}
    assert statuses <= named


def test_constraints_name_a_version_of_every_package_that_is_installed():
    pyproject = text("pyproject.toml")
    tables = re.findall(r"^(?:dependencies|test|dev) = \[(.*?)\]$", pyproject, re.M | re.S)
    assert len(tables) == 3
    wanted = {_normal(name) for table in tables for name in re.findall(r'"([\w-]+)', table)}
    lines = [line for line in text("constraints.txt").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines)
    assert {_normal(line.partition("==")[0]) for line in lines} == wanted


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def test_each_finding_says_what_it_is_and_is_listed():
    scripts = sorted((ROOT / "findings").glob("*.sh"))
    assert scripts
    assert {row[0] for row in rows("findings/README.md")} == {f"`{one.name}`" for one in scripts}
    for script in scripts:
        code = script.read_text(encoding="utf-8")
        for head in ("Package", "Expected", "Behavior", "Seen", "Here"):
            assert re.search(rf"^# {head}: +\S", code, re.M), f"{script.name} lacks {head}"
        assert re.search(r"# Seen: +\d{4}-\d\d-\d\d", code), f"{script.name} was never run"
        assert "longlive" not in re.sub(r"^#.*$", "", code, flags=re.M), (
            "a finding needs no longlive"
        )
        pinned = re.findall(r'"([\w-]+)==[\d.]+"', code)
        assert pinned, f"{script.name} pins nothing"
