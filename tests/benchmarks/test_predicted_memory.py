"""Predicted memory beside a CPU's: rows are kept as they are done, and a case that fails is one."""

import json

import pytest

from benchmarks import predicted_memory
from benchmarks.predicted_memory import main


@pytest.mark.filterwarnings("ignore")  # the profiler has its own
def test_cases_are_measured_and_kept(tmp_path, capsys):
    rows = main(["vae", "--tiny", "-o", str(tmp_path)])
    assert list(rows) == ["vae"]
    assert rows["vae"]["ratio"] == pytest.approx(1, abs=0.1)
    record = json.loads((tmp_path / "predicted_memory_cpu.json").read_text())
    assert record["rows"] == rows
    assert "unfinished" not in record
    assert "| vae | 0.00" in capsys.readouterr().out


def test_a_case_that_fails_is_a_row_and_time_ends_the_run(tmp_path, monkeypatch):
    def fails(case, *, gpu):
        raise RuntimeError("no room")

    monkeypatch.setattr(predicted_memory, "row", fails)
    rows = main(["--tiny", "--seconds", "0", "-o", str(tmp_path)])
    assert rows == {"pocket": {"failed": "RuntimeError: no room"}}
    record = json.loads((tmp_path / "predicted_memory_cpu.json").read_text())
    assert record["unfinished"] == "1 of 5 cases"


def test_the_cases_of_a_gpu_can_be_made():
    found = predicted_memory.cases()
    four = found["5B, 4 layers, 96 latents, recomputed"].config
    assert four.model.num_layers == 4
    assert [phase.length * four.model.frames_per_block for phase in four.phases] == [96]
    assert list(found)[-2:] == ["pocket, compiled", "vae, compiled"]
