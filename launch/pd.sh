#!/usr/bin/env bash
# Prefill and decode apart: one worker computes prompts, two go on from its cache.
# Makes .venv if needed. Arguments go to `wiremesh up`: ./launch/pd.sh --model DIR --port 9000
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

set_up ""
say "starting a mesh: wiremesh up --topology pd --prefill 1 --decode 2 $*"
exec .venv/bin/wiremesh up --topology pd --prefill 1 --decode 2 "$@"
