#!/bin/sh
# run_instance.sh v1 CATEGORY NETWORK.onnx QUESTION.vnnlib RESULTS_FILE TIMEOUT
# The answer (sat with its counterexample, unsat, unknown) goes to RESULTS_FILE.
set -eu
[ "$1" = v1 ] || { echo "expected version v1, got '$1'" >&2; exit 1; }
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$root/results"
# Two seconds are for the process's start, before which no clock of ours runs.
budget=$(awk "BEGIN { b = $6 - 2; print (b > 1 ? b : 1) }")
"$root/.venv/bin/jmlv" solve "$3" "$4" --budget "$budget" --out "$5" &
echo $! > "$root/results/vnncomp.pid"
wait $!
rm -f "$root/results/vnncomp.pid"
