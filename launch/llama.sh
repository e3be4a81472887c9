#!/usr/bin/env bash
# A model in a GGUF file, served by llama.cpp: a router, a frontend and workers, one unless WORKERS says otherwise.
#   ./launch/llama.sh FILE.gguf [flags of `wiremesh worker`, then -- llama.cpp's own]   PORT=8000 WORKERS=1 NAME=model
# llama.cpp lives in an environment of its own: wiremesh engines install llama --run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh
. launch/apart.sh

model=${1:?a GGUF file, or the folder of one, then flags of wiremesh worker}
shift
need_engine llama
set_up ""
start router --name router
start frontend --name frontend --port "${PORT:-8000}"
for number in $(seq 0 $((${WORKERS:-1} - 1))); do
    start_worker llama "$number" --name "worker$number" --model "$model" ${NAME:+--name-as "$NAME"} "$@"
done
stay
