#!/usr/bin/env bash
# vLLM with prefill and decode apart: prompts that are long and not cached are computed by one worker, and another goes
# on with their cache, which vLLM itself fetches (NIXL).
#   ./launch/vllm_pd.sh MODEL_FOLDER [vLLM's own flags]      PORT=8000 PREFILL=1 DECODE=1 DISAGG_TOKENS=2048 NAME=model
# vLLM lives in an environment of its own: wiremesh engines install vllm --run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh
. launch/apart.sh

model=${1:?the folder of a model, then vLLM\'s own flags}
shift
need_engine vllm
set_up ""
start router --name router --disagg-tokens "${DISAGG_TOKENS:-2048}"
start frontend --name frontend --port "${PORT:-8000}"
device=0
for role in prefill decode; do
    if [ $role = prefill ]; then count=${PREFILL:-1}; else count=${DECODE:-1}; fi
    for number in $(seq 0 $((count - 1))); do
        start_worker vllm $device --name "$role$number" --role $role --model "$model" ${NAME:+--name-as "$NAME"} -- "$@"
        device=$((device + 1))
    done
done
stay
