#!/usr/bin/env bash
# Everything there is to know about a GPU, in one call under ten minutes:
#
#   benchmarks/gpu.sh [OUT] [options of gpu_inference.py]
#
# Parity and speed of every way to run the network, whole cubes, and a training step; OUT (default:
# results) gets gpu_inference.md and .json, and step.json. PYTHON chooses the interpreter, DEVICE
# another device: DEVICE=cpu walks the same path without a GPU. STEP_OPTIONS are those of step.py.
set -euo pipefail
here=$(dirname "$0")
out=${1:-results}
shift || true
device=${DEVICE:-cuda}
python=${PYTHON:-python}
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
"$python" "$here/gpu_inference.py" --device "$device" --out "$out" "$@"
"$python" "$here/step.py" --device "$device" --json "$out/step.json" ${STEP_OPTIONS:-}
