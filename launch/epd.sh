#!/usr/bin/env bash
# Encoders, prefill and decode apart: pictures and sounds are read by a worker of their own.
# Makes .venv if needed. Arguments go to `wiremesh up`: ./launch/epd.sh --model DIR --port 9000
# Without --model it serves a tiny model that sees and hears, and knows nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

serve_pictures --topology epd --encoders 1 --prefill 1 --decode 2 "$@"
