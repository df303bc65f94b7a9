"""Names, folders and hub ids: found here or refused in a sentence, and no network is touched."""

import socket
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from longlive_models.checkpoints.hub import EMBEDDED, INDEX, is_published, resolve, snapshot


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever connects, fails the test."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"connected to {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_shipped_model_is_found_by_name():
    assert resolve("pocket") == EMBEDDED["pocket"]
    assert (resolve("pocket") / INDEX).is_file()


def test_a_folder_with_an_index_is_a_model(tmp_path):
    (tmp_path / INDEX).write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path
    assert not is_published(tmp_path)


def test_a_folder_with_published_weights_is_a_model(tmp_path):
    for name in ("model_bf16.pt", "model_te.pt", "model_4o6.pt"):
        (tmp_path / name).mkdir()
        assert not is_published(tmp_path)  # a folder is no file
        (tmp_path / name).rmdir()
        (tmp_path / name).touch()
        assert is_published(tmp_path)
        assert resolve(str(tmp_path)) == tmp_path
        (tmp_path / name).unlink()


def test_a_home_folder_may_be_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / INDEX).write_text("{}")
    assert resolve("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing", "there is no model 'nothing': it is neither a shipped one .'pocket'."),
        ("./no/folder", "nor a folder or file that exists"),
        ("/no/folder", "there is no model '/no/folder'"),
        ("a/b/c", "nor a hub id of the form owner/name"),
        ("", "holds no model_index.json|there is no model"),
    ],
)
def test_what_is_no_model_is_refused(model, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        resolve(model)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no model_index.json, so it is no model folder"):
        resolve(str(tmp_path))


def test_a_hub_id_that_is_not_cached_is_refused_without_a_connection():
    with pytest.raises(ValueError, match="'nobody/nothing' is no folder here, .* unless asked"):
        resolve("nobody/nothing")


class Refused(RepositoryNotFoundError):
    """The hub's answer, without the response that it came with."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


def pretend(monkeypatch, answer) -> list[dict]:
    """Stand in for the hub; returns what it is asked."""
    asked = []

    def snapshot_download(model: str, **how: object) -> str:
        asked.append({"model": model, **how})
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_cached_hub_id_is_a_folder(monkeypatch, tmp_path):
    (tmp_path / INDEX).write_text("{}")
    asked = pretend(monkeypatch, tmp_path)
    assert resolve("owner/name", revision="v2") == tmp_path
    assert resolve("owner/name", download=True) == tmp_path
    assert [call["local_files_only"] for call in asked] == [True, False]
    assert [call["revision"] for call in asked] == ["v2", None]


def test_a_cached_hub_id_that_is_no_model_is_refused(monkeypatch, tmp_path):
    pretend(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="holds no model_index.json"):
        resolve("owner/name")


def test_only_some_files_may_be_fetched(monkeypatch, tmp_path):
    asked = pretend(monkeypatch, tmp_path)
    assert snapshot("owner/name", download=True, patterns=("a", "b/*")) == Path(tmp_path)
    assert asked[0]["allow_patterns"] == ["a", "b/*"]


def test_what_the_hub_cannot_give_is_said(monkeypatch):
    pretend(monkeypatch, LocalEntryNotFoundError("offline"))
    with pytest.raises(ValueError, match="the hub cannot be reached: check the connection"):
        resolve("owner/name", download=True)
    pretend(monkeypatch, Refused("404"))
    with pytest.raises(ValueError, match="does not give out 'owner/name' .Refused"):
        resolve("owner/name", download=True)
