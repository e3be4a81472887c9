#!/usr/bin/env bash
# All that must hold before a commit: style, types, tests, the simulator's gate. Makes .venv if needed.
# Extra arguments go to pytest: ./launch/test.sh -k codec
# ./launch/test.sh --engine transformers (or llama, vllm, sglang): tests of an engine that is too large for .venv, in a
# place of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

if [ "${1:-}" = "--engine" ]; then
    test_engine "${2:-}"
    exit
fi

set_up test
unset PYTHONDONTWRITEBYTECODE # each of some hundred processes would compile all of it again

told=$(mktemp) seen=$(mktemp)
beside=""
leave() {
    if [ -n "$beside" ]; then kill -INT -- "-$beside" 2>/dev/null && wait "$beside" || true; fi
    rm -f "$told" "$seen"
}
trap leave EXIT

say "ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet . || give_up "not formatted; run: .venv/bin/ruff format ."

# Those with real processes mostly wait: beside all that follows they cost little time, and go first (all
# that follows is nice). What failed is said at the end.
if [ $# -eq 0 ]; then
    say "tests with real processes begin; what they say comes after the others"
    set -m # a group of its own; and without job control a shell lets what runs in the background ignore SIGINT
    .venv/bin/python -m pytest --quiet -p no:cacheprovider tests/real >"$told" 2>&1 &
    beside=$!
    set +m
fi

say "mypy --strict"
nice .venv/bin/mypy --strict proto mesh nodes launch bench

say "the tidy test"
nice .venv/bin/python -m pytest --quiet tests/test_tidy.py

if [ $# -eq 0 ]; then
    say "all other tests"
    nice .venv/bin/python -m pytest --quiet --deselect tests/test_tidy.py --ignore tests/real || failed=yes
else
    say "some tests"
    .venv/bin/python -m pytest --quiet --deselect tests/test_tidy.py "$@"
fi

say "the simulator's gate, both halves at once"
nice .venv/bin/wiremesh sim run --profile serving --seeds 0:1000 >"$seen" 2>&1 &
gate=$!
nice .venv/bin/wiremesh sim run --seeds 0:3000 || found=yes
wait "$gate" || found=yes
cat "$seen"

if [ -n "$beside" ]; then
    say "tests with real processes"
    wait "$beside" || failed=yes
    beside=""
    cat "$told"
fi
[ -z "${failed:-}" ] || give_up "some tests failed"
[ -z "${found:-}" ] || give_up "the simulator has found something"

say "all good"
