#!/usr/bin/env bash
# Encoders, prefill and decode apart: pictures and sounds are read by a worker of their own.
# Makes .venv if needed. Arguments go to `wiremesh up`: ./launch/epd.sh --model DIR --port 9000
# Without --model it serves a tiny model that sees and hears, and knows nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

set_up ""
case " $* " in
    *" --model"*) ;;
    *)
        .venv/bin/python -m launch.demo_model.senses .venv/senses
        set -- --model .venv/senses "$@"
        ;;
esac
say "starting a mesh: wiremesh up --topology epd --encoders 1 --prefill 1 --decode 2 $*"
exec .venv/bin/wiremesh up --topology epd --encoders 1 --prefill 1 --decode 2 "$@"
