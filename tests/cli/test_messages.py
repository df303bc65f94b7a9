"""What is said while a command works: lines of its log, and a line that is gone afterwards."""

import logging

from longlive_cli.messages import log_is_lines, spinning


def test_what_recipes_log_is_a_line_within_the_block_alone():
    told: list[str] = []
    log = logging.getLogger("longlive_recipes.moving_shapes.latent_cache")
    with log_is_lines(told.append):
        log.info("drawing %d clips\nof two blocks", 3)
        log.debug("not this")
        logging.getLogger("somebody.else").info("nor this")
    log.info("nor this")
    assert told == ["drawing 3 clips of two blocks"]
    assert logging.getLogger("longlive_recipes").handlers == []


def test_a_spinner_writes_nothing_where_no_terminal_is(capsys):
    with spinning("loading"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_spinner_is_on_a_terminal_and_gone_afterwards(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with spinning("loading ar_tiny"):
        pass
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "loading ar_tiny" in shown.err
    assert shown.err.endswith("\x1b[2K")  # the line is erased
