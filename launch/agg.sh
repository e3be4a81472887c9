#!/usr/bin/env bash
# Two workers, each for whole requests, and a router that knows their caches.
# Makes .venv if needed. Arguments go to `wiremesh up`: ./launch/agg.sh --model DIR --port 9000
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

set_up ""
say "starting a mesh: wiremesh up --topology agg --workers 2 --routers 1 $*"
exec .venv/bin/wiremesh up --topology agg --workers 2 --routers 1 "$@"
