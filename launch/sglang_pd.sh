#!/usr/bin/env bash
# SGLang with prefill and decode apart: both get each request at once, and SGLang itself moves the cache (NIXL).
# A decode worker of SGLang's computes no prompt, so the router sends every request to a prefill worker too.
#   ./launch/sglang_pd.sh MODEL_FOLDER [SGLang's own flags]      PORT=8000 PREFILL=1 DECODE=1 NAME=model
# SGLang lives in an environment of its own: wiremesh engines install sglang --run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh
. launch/apart.sh

model=${1:?the folder of a model, then SGLang\'s own flags}
shift
need_engine sglang
set_up ""
start router --name router --enforce-disagg
start frontend --name frontend --port "${PORT:-8000}"
device=0
for role in prefill decode; do
    if [ $role = prefill ]; then count=${PREFILL:-1}; else count=${DECODE:-1}; fi
    for number in $(seq 0 $((count - 1))); do
        start_worker sglang $device --name "$role$number" --role $role --model "$model" \
            ${NAME:+--name-as "$NAME"} -- "$@"
        device=$((device + 1))
    done
done
stay
