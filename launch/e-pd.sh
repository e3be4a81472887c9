#!/usr/bin/env bash
# An encoder for pictures and sounds, and two workers for all the rest.
# Makes .venv if needed. Arguments go to `wiremesh up`: ./launch/e-pd.sh --model DIR --port 9000
# Without --model it serves a tiny model that sees and hears, and knows nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

serve_pictures --topology e-pd --encoders 1 --workers 2 "$@"
