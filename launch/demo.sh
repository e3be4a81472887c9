#!/usr/bin/env bash
# A mesh that answers, on this host: two workers with the demo model, a frontend, and a curl to try. Makes .venv if
# needed. Arguments go to `wiremesh up`: ./launch/demo.sh --workers 4 --port 9000
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

set_up ""
say "starting a mesh: wiremesh up --workers 2 $*"
exec .venv/bin/wiremesh up --workers 2 "$@"
