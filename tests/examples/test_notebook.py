"""The notebook: its cells run in order, each shows something, and videos are players."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from longlive_models.checkpoints import hub
from tests.models.tiny_pipeline import write_tiny_folder

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def cells(kind: str) -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def shown(code: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last line, which a notebook shows."""
    parsed = ast.parse(code)
    last = parsed.body.pop()
    assert isinstance(last, ast.Expr), "a cell ends with what it shows"
    exec(compile(parsed, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_cells_run_in_order_and_show_players(tmp_path, monkeypatch):
    monkeypatch.setitem(hub.EMBEDDED, "pocket", write_tiny_folder(tmp_path / "tiny"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with pytest.warns(UserWarning):  # words that the tiny model does not know
        values = [shown(code, names) for code in cells("code")]
    players = [value._repr_html_() for value in values if hasattr(value, "_repr_html_")]
    assert len(players) == 3
    assert all(text.startswith("<video") and "data:video/mp4" in text for text in players)
    assert values[-1] == ((29, 32, 32, 3), "float32")
    assert (tmp_path / "circle.mp4").is_file()


def test_it_is_stored_without_results():
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert all(text.strip() for text in cells("markdown"))
