#!/usr/bin/env bash
# Package:  PyYAML 6.0.4
# Expected: yaml.safe_load(yaml.safe_dump(x, allow_unicode=True)) == x for a text x
# Behavior: U+0085 (NEXT LINE) is printed as itself inside a quoted text, where it is a line break
#           for the reader, which folds it into a space. It is escaped without allow_unicode.
# Seen:     2026-11-30
#           PyYAML 6.0.4: "a: 'x\x85  y'\n" is read as 'x y'
# Here:     nothing is done; prompts and paths hold no such character as a rule.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "PyYAML==6.0.4" || exit 2
"$work/venv/bin/python" - <<'PYTHON'
import sys

import yaml

written = yaml.safe_dump({"a": "x\x85y"}, allow_unicode=True)
read = yaml.safe_load(written)["a"]
print(f"PyYAML {yaml.__version__}: {written!r} is read as {read!r}")
sys.exit(0 if read != "x\x85y" else 1)
PYTHON
