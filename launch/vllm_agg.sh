#!/usr/bin/env bash
# Two vLLM workers, each for whole requests, and a router that knows their caches.
#   ./launch/vllm_agg.sh MODEL_FOLDER [vLLM's own flags]      PORT=8000 WORKERS=2 NAME=model
# vLLM lives in an environment of its own: wiremesh engines install vllm --run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh
. launch/apart.sh

model=${1:?the folder of a model, then vLLM\'s own flags}
shift
need_engine vllm
set_up ""
start router --name router
start frontend --name frontend --port "${PORT:-8000}"
for number in $(seq 0 $((${WORKERS:-2} - 1))); do
    start_worker vllm "$number" --name "worker$number" --model "$model" ${NAME:+--name-as "$NAME"} -- "$@"
done
stay
