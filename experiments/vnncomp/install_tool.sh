#!/bin/sh
# Installs jmlv for the competition: install_tool.sh v1. Run once, from a checkout.
set -eu
[ "${1:-}" = v1 ] || { echo "expected version v1, got '${1:-}'" >&2; exit 1; }
root=$(cd "$(dirname "$0")/../.." && pwd)
[ -x "$root/.venv/bin/python" ] || python3 -m venv "$root/.venv"
"$root/.venv/bin/python" -m pip install --quiet "$root[interop,vnnlib]"
