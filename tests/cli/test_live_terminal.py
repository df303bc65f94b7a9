"""A live video on a terminal: the line is edited while blocks arrive, and nothing is lost."""

import contextlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from longlive_cli.live_terminal import STYLES, Above, Terminal
from longlive_cli.messages import note
from longlive_models.video.files import read_video
from tests.architecture.source import ROOT
from tests.cli.terminal import Screen
from tests.cli.test_live_view import STATUS, step
from tests.models.tiny_pipeline import write_tiny_folder

UP, BACKSPACE = "\x1b[A", "\x7f"
CTRL_C, CTRL_D, CTRL_U = "\x03", "\x04", "\x15"
SECONDS = 30.0


class Typist:
    """A terminal whose keys come from a pipe, and what was received of it."""

    def __init__(self, keys: PipeInput) -> None:
        self.keys = keys
        self.drawn = io.StringIO()
        output = Vt100_Output(self.drawn, lambda: Size(24, 100), term="xterm", enable_cpr=False)
        self.terminal = Terminal(keys, output)
        self.lines: list[str] = []
        self.ends = 0

    def end(self) -> None:
        self.ends += 1

    def press(self, keys: str, *lines: str, ends: int = 0) -> None:
        """Press keys, and see that they make these lines, and no more."""
        self.keys.send_text(keys)
        self.wait_for(lambda: (self.lines, self.ends) == (list(lines), ends))

    def recall(self, first: str) -> None:
        """Press Up until the first line is back; a line counts as earlier once that is drawn."""

        def back() -> bool:
            self.keys.send_text(UP)
            return f"{first}\x1b" in self.drawn.getvalue()

        self.drawn.truncate(0)
        self.wait_for(back)

    def wait_for(self, seen: Callable[[], bool]) -> None:
        due = time.monotonic() + SECONDS
        while not seen():
            assert time.monotonic() < due, (self.lines, self.ends, self.drawn.getvalue())
            time.sleep(0.01)


@pytest.fixture
def typist() -> Iterator[Typist]:
    with create_pipe_input() as keys:
        typist = Typist(keys)
        with typist.terminal:
            yield typist


@contextlib.contextmanager
def heard(typist: Typist) -> Iterator[None]:
    with typist.terminal.lines_to(typist.lines.append, typist.end):
        yield


def test_a_line_is_edited_and_earlier_ones_come_back(typist):
    with heard(typist):
        typist.press(f"a blx{BACKSPACE}ue\r", "a blue")
        typist.recall("a blue")
        typist.press(" star\r", "a blue", "a blue star")
        typist.press(f"gone{CTRL_U}a red\r", "a blue", "a blue star", "a red")


def test_pasted_lines_are_lines(typist):
    with heard(typist):
        typist.press("\x1b[200~/cut a\n/cut b\x1b[201~\r", "/cut a", "/cut b")


def test_lines_from_before_wait_and_then_come_in_order(typist):
    typist.press("first\rsecond\r")
    with heard(typist):
        typist.press("third\r", "first", "second", "third")


def test_ctrl_d_ends_the_input_once_where_the_line_is_empty(typist):
    with heard(typist):
        typist.press(f"ab\x01{CTRL_D}\r", "b")  # at the start of a line it deletes a letter
        typist.press(CTRL_D, "b", ends=1)
        typist.press(f"{CTRL_D}late\r", "b", ends=1)
        time.sleep(0.2)
        assert (typist.lines, typist.ends) == (["b"], 1)


def test_an_end_from_before_is_told(typist):
    typist.press(CTRL_D)
    with heard(typist):
        typist.press("", ends=1)


def test_a_terminal_that_goes_away_ends_the_input(typist):
    with heard(typist):
        typist.keys.close()
        typist.wait_for(lambda: typist.ends == 1)
    typist.terminal.tell("said to nobody")


def test_ctrl_c_is_the_signal_that_it_is_elsewhere(typist):
    heard_signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard_signals.append(number))
    try:
        with heard(typist):
            typist.press(f"kept{CTRL_C} line\r", "kept line")
        assert heard_signals == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_printed_meanwhile_is_above_the_panel_and_streams_are_as_before_afterwards():
    before = sys.stdout, sys.stderr
    with create_pipe_input() as keys:
        typist = Typist(keys)
        with typist.terminal:
            assert isinstance(sys.stderr, Above)
            print("of another\x1b[2J library")
            note("of ours")
            typist.terminal.tell("the last line")
    assert (sys.stdout, sys.stderr) == before
    drawn = typist.drawn.getvalue()
    assert "of another?[2J library" in drawn  # it cannot move the cursor
    assert drawn.index("of another") < drawn.index("of ours") < drawn.index("the last line")


def test_only_whole_lines_are_printed():
    printed: list[str] = []
    file = Above(printed.append)
    assert file.write("a") == 1
    assert printed == []
    file.write("b\nc\nd")
    assert printed == ["ab\nc\n"]


def test_the_panel_shows_steps_state_prompt_and_window():
    with create_pipe_input() as keys:
        terminal = Typist(keys).terminal

        def rows() -> list[str]:
            return "".join(piece[1] for piece in terminal.panel()).split("\n")

        [row] = rows()
        assert row.startswith("now ") and row.endswith("loading the model")
        terminal.show(replace(STATUS, prompt="a \x1bblue star"))
        terminal.step(step(0, 4))
        now, *rest = rows()
        assert now.startswith("now ") and "block 4, step 1/4 [====" in now
        assert rest == [
            "video   block 3, 10.4 s, 1.2 GB",
            "prompt  a \\x1bblue star",
            "window  [0 sink][2 anchor][3]",
        ]
        assert [piece for piece in terminal.panel() if piece[0] in STYLES.values()] == [
            ("bold ansicyan", "[0 sink]"),
            ("bold ansimagenta", "[2 anchor]"),
            ("ansigreen", "[3]"),
        ]


def test_a_line_that_is_typed_while_blocks_arrive_stays(tmp_path):
    """On a pseudo-terminal: half a line outlives blocks, Up brings it back, Ctrl-C stops."""
    model, video = str(write_tiny_folder(tmp_path / "model")), tmp_path / "v.mp4"
    with Screen("live", "a red circle", "--model", model, "-o", str(video)) as screen:
        screen.wait_for(lambda rows: "type a new prompt, or /help" in rows)
        screen.press("a blue squ")
        first = block(screen.wait_for(block))
        screen.wait_for(lambda rows: block(rows) > first)
        assert "> a blue squ" in screen.rows
        screen.press("are\r")
        said = "keep: a blue square"
        screen.wait_for(lambda rows: any(row.endswith(said) for row in rows))
        screen.wait_for(lambda rows: screen.press(UP) or "> a blue square" in rows)
        screen.press(CTRL_U)
        screen.wait_for(lambda rows: "prompt  a blue square" in rows and ">" in rows)
        assert not screen.echoes
        screen.press(CTRL_C)
        assert screen.wait() == 128 + signal.SIGINT
        rows = screen.rows
        assert sum(row.startswith("now ") for row in rows) == 1, rows  # nothing was drawn over
        assert video.is_file()


@pytest.mark.parametrize("command", ["live", "generate"])
def test_a_terminal_that_hangs_up_stops_the_video_as_the_signal_does(command, tmp_path):
    model, video = str(write_tiny_folder(tmp_path / "model")), tmp_path / "v.mp4"
    options = ["--seconds", "600", "--model", model, "-o", str(video)]
    with Screen(command, "a red circle", *options) as screen:
        screen.wait_for(lambda rows: video.exists() and video.stat().st_size > 0)
        assert screen.hang_up() == 128 + signal.SIGHUP
    assert len(read_video(str(video))[0]) > 0
    assert f'"signal": {int(signal.SIGHUP)}' in video.with_suffix(".json").read_text()


def block(rows: list[str]) -> int:
    """The number of the newest block that the panel shows, and 0 before there are two."""
    shown = [row for row in rows if row.startswith("video   block ")]
    return int(shown[-1].split()[2].rstrip(",")) if shown else 0


def test_a_pipe_does_not_load_prompt_toolkit():
    code = (
        "import sys\n"
        "from longlive_cli.commands.live import _screen\n"
        "_screen()\n"
        "assert 'prompt_toolkit' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
