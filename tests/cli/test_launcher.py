"""A launcher that starts other processes than the command runs as is found out on each of them."""

import warnings

import pytest
from typer.testing import CliRunner

from longlive_cli.launcher import check_ranks, is_first, launched_ranks
from longlive_cli.main import app

TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, None),
        (TORCHRUN, 2),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, 2),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4"}, 4),
        ({"WORLD_SIZE": "8"}, None),  # a variable that somebody left
        (SRUN, 2),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, 4),
        ({"SLURM_NTASKS": "8"}, None),  # a shell in an allocation
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # a batch script
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0"}, 3),
    ],
)
def test_processes_are_counted_as_launchers_name_them(environment, count):
    found = launched_ranks(environment)
    assert (None if found is None else found[0]) == count


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        (TORCHRUN, False),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, True),
        (TORCHRUN | {"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1", "WORLD_SIZE": "4"}, False),
        (SRUN, True),
        (SRUN | {"SLURM_PROCID": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "2"}, False),
        ({"SLURM_PROCID": "5", "SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "8"}, True),
    ],
)
def test_one_of_the_ranks_speaks(environment, first):
    assert is_first(environment) == first


@pytest.mark.parametrize(("environment", "lines"), [({}, 1), (TORCHRUN, 0)])
def test_a_warning_is_a_line_of_the_first_rank_alone(started, environment, lines, monkeypatch):
    def warn() -> dict[str, str]:
        warnings.warn("a word is not known", stacklevel=1)
        return {}

    started(environment)
    monkeypatch.setattr("longlive_cli.commands.doctor.versions", warn)
    monkeypatch.setattr("longlive_cli.commands.doctor.devices", list)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.stderr.splitlines() == ["longlive: a word is not known"] * lines


@pytest.fixture
def started(monkeypatch):
    def set_up(environment: dict[str, str]) -> None:
        for name in (*TORCHRUN, *SRUN, "OMPI_COMM_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return set_up


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN, {"OMPI_COMM_WORLD_SIZE": "2"}])
def test_ranks_that_are_not_asked_for_are_refused(started, environment):
    started(environment)
    with pytest.raises(ValueError, match="2 processes of this command were started"):
        check_ranks(1)
    with pytest.raises(ValueError, match="it is to run as 4"):
        check_ranks(4, option="--nproc")


def test_ranks_that_are_asked_for_and_one_alone_just_run(started):
    for environment in (TORCHRUN, SRUN):
        started(environment)
        check_ranks(2, option="--nproc")
    started({"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0"})
    check_ranks(1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a"],
        ["live", "a"],
        ["quantize", "pocket", "-o", "x"],
        ["evaluate", "-o", "x.json"],
        ["evaluate", "x.mp4", "-o", "x.json"],
        ["train", "ar_tiny"],
        ["train", "ar_tiny", "--export", "--resume", "runs"],
        ["train", "vae_tiny"],
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_every_command_asks_on_every_rank(started, arguments, rank, tmp_path, monkeypatch):
    started(TORCHRUN | {"RANK": rank, "LOCAL_RANK": rank})
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "2 processes of this command were started (WORLD_SIZE=2)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "said"), [("0", "holds a run already"), ("1", "2 processes of")])
def test_a_rank_that_is_late_may_find_the_run_begun(started, rank, said, tmp_path, monkeypatch):
    started(TORCHRUN | {"RANK": rank, "LOCAL_RANK": rank})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "begun" / "checkpoints" / "last.ckpt").touch()
    done = CliRunner().invoke(app, ["train", "ar_tiny", "--set", "run.output=begun"])
    assert done.exit_code == 2
    assert said in done.stderr
