#!/usr/bin/env bash
# Two TensorRT-LLM workers, each for whole requests, and a router that knows their caches.
#   ./launch/trtllm_agg.sh MODEL_FOLDER [TensorRT-LLM's own flags]      PORT=8000 WORKERS=2 NAME=model
# TensorRT-LLM lives in an environment of its own: wiremesh engines install trtllm --run
# It needs NVIDIA GPUs. Its adapter was tested with a fake of its package, not on hardware.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh
. launch/apart.sh

model=${1:?the folder of a model, then TensorRT-LLM\'s own flags}
shift
need_engine trtllm
set_up ""
start router --name router
start frontend --name frontend --port "${PORT:-8000}"
for number in $(seq 0 $((${WORKERS:-2} - 1))); do
    start_worker trtllm "$number" --name "worker$number" --model "$model" ${NAME:+--name-as "$NAME"} -- "$@"
done
stay
