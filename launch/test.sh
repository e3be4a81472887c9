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

say "ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet . || give_up "not formatted; run: .venv/bin/ruff format ."

say "mypy --strict"
.venv/bin/mypy --strict proto mesh nodes launch bench

say "the tidy test"
.venv/bin/python -m pytest --quiet tests/test_tidy.py

told=$(mktemp)
trap 'rm -f "$told"' EXIT

# Those with real processes mostly wait: beside the others they cost a few minutes less.
if [ $# -eq 0 ]; then
    say "all tests, those with real processes beside the others"
    set -m # without job control a shell lets what runs in the background ignore SIGINT
    .venv/bin/python -m pytest --quiet -p no:cacheprovider tests/real >"$told" 2>&1 &
    set +m
    .venv/bin/python -m pytest --quiet --deselect tests/test_tidy.py --ignore tests/real || failed=yes
    wait $! || failed=yes
    cat "$told"
    [ -z "${failed:-}" ] || give_up "some tests failed"
else
    say "some tests"
    .venv/bin/python -m pytest --quiet --deselect tests/test_tidy.py "$@"
fi

say "the simulator's gate, both halves at once"
.venv/bin/wiremesh sim run --profile serving --seeds 0:1000 >"$told" 2>&1 &
.venv/bin/wiremesh sim run --seeds 0:3000 || failed=yes
wait $! || failed=yes
cat "$told"
[ -z "${failed:-}" ] || give_up "the simulator has found something"

say "all good"
