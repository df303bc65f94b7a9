"""The faults are real ones, each fits where it is put, and most of them are noticed."""

import ast

import pytest

from tests.mutations.operators import Mutation, mutations
from tests.mutations.run import PACKAGES, ROOT, draw, mirrored, run

SOURCE = '''
def clip(x: "int < 3", low=0, *, keep=True):
    """Not < this."""
    if x < low and not keep:
        raise ValueError(f"{x + 1} < {low}")
    x += 2
    check(x)
    return -x if x is None else x * 1.5
'''


def test_each_kind_of_fault_is_made_where_it_fits():
    made = {m.what: m.apply(SOURCE) for m in mutations("clip.py", SOURCE)}
    assert set(made) == {
        "0 -> 1",
        "True -> False",
        "comparison -> <=",
        "boolean -> or",
        "sign or not dropped",
        "statement dropped",
        "2 -> 3",
        "condition turned",
        "comparison -> is not",
        "arithmetic -> /",
        "1.5 -> 2.5",
    }
    assert "x <= low" in made["comparison -> <="]
    assert "x / 1.5" in made["arithmetic -> /"]
    for source in made.values():
        ast.parse(source)
        assert source != SOURCE
        assert '"int < 3"' in source
        assert '"""Not < this."""' in source


def test_every_fault_that_can_be_drawn_is_a_program():
    for mutation in draw(400, seed=1):
        source = (ROOT / mutation.file).read_text()
        ast.parse(mutation.apply(source), mutation.file)


def test_a_file_has_tests():
    packages = (*PACKAGES, "longlive_cli", "recipes")
    files = {mutation.file for mutation in draw(100_000, seed=2, packages=packages)}
    assert {"longlive_models/video/files.py", "longlive_cli/commands/train.py"} <= files
    for file in files:
        assert mirrored(file), file
    assert mirrored("longlive_models/video/files.py")[0] == "tests/models/video/test_files.py"
    assert mirrored("longlive_cli/commands/train.py")[0] == "tests/cli/test_train.py"


@pytest.mark.parametrize("file", ["longlive_models/unknown_keys.py", "recipes/run_record.py"])
def test_the_faulty_copy_is_what_is_tested(file):
    """And not the package that is installed, which has no fault."""
    fault = Mutation(file, 1, 0, 0, 'raise OSError("a fault")\n', "import fails")
    [outcome] = run([fault], jobs=1)
    assert outcome.fate == "killed"
    assert (ROOT / file).read_text()[:5] != "raise"


@pytest.mark.slow
def test_nine_of_ten_faults_are_noticed():
    """150 faults, drawn anew with each change of the code: `python -m tests.mutations.run`."""
    outcomes = run(draw(150, seed=0), jobs=2)
    lasting = [str(outcome) for outcome in outcomes if outcome.fate == "survived"]
    assert len(lasting) <= 15, "\n".join(["", *lasting])
