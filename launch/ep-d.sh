#!/usr/bin/env bash
# A prefill worker that also reads pictures and sounds, and two workers that decode.
# Makes .venv if needed. Arguments go to `wiremesh up`: ./launch/ep-d.sh --model DIR --port 9000
# Without --model it serves a tiny model that sees and hears, and knows nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

serve_pictures --topology ep-d --prefill 1 --decode 2 "$@"
