#!/bin/sh
# prepare_instance.sh v1 CATEGORY NETWORK.onnx QUESTION.vnnlib
# Ends what an earlier instance may have left running, and says whether the instance can be read.
# Nothing is computed here that counts as time of the answer.
set -eu
[ "$1" = v1 ] || { echo "expected version v1, got '$1'" >&2; exit 1; }
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ -f "$root/results/vnncomp.pid" ]; then
    kill "$(cat "$root/results/vnncomp.pid")" 2>/dev/null || true
    rm -f "$root/results/vnncomp.pid"
fi
"$root/.venv/bin/python" - "$3" "$4" <<'PYTHON'
import sys
from jmlv.interop import read_onnx
from jmlv.interop.vnnlib import parse_vnnlib

read_onnx(sys.argv[1]), parse_vnnlib(sys.argv[2])
PYTHON
