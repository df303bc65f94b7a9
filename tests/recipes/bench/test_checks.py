"""A wrong result is one under ``python -O`` as well."""

import subprocess
import sys

CODE = "from longlive_recipes.bench.checks import require; require(True, 'a'); require(False, 'b')"


def test_what_is_wrong_is_raised_where_asserts_are_left_out():
    done = subprocess.run([sys.executable, "-O", "-c", CODE], capture_output=True, text=True)
    assert done.stderr.endswith("AssertionError: b\n")
