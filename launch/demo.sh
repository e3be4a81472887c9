#!/usr/bin/env bash
# The hello-world component and a client of it, on this host. Makes .venv if needed.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

set_up ""
example=launch/examples/hello_world

say "starting $example/server.py"
.venv/bin/python "$example/server.py" &
server=$!
stop() { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
trap stop EXIT

say "running $example/client.py"
.venv/bin/python "$example/client.py"

say "telling the server to leave"
kill "$server"
trap - EXIT
wait "$server"
say "done"
