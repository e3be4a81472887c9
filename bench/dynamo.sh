#!/usr/bin/env bash
# NVIDIA Dynamo as the peer that we measure ourselves against: its Rust frontend and its GPU-less mocker, on loopback,
# without etcd and NATS. One process for each word, in the foreground, so that who starts it knows what to end.
#
#   bench/dynamo.sh install               into $PEER_HOME/venv-dynamo
#   bench/dynamo.sh versions              what is installed
#   bench/dynamo.sh frontend [FLAGS...]   dynamo.frontend: --http-port 18000 --router-mode round-robin ...
#   bench/dynamo.sh mocker [FLAGS...]     dynamo.mocker: --model-path DIR --model-name tiny --speedup-ratio 0 ...
#
# PEER_HOME  (default ~/.cache/wiremesh-bench) where it is installed
# PEER_STATE (default $PEER_HOME/dynamo)       where its processes find each other; a folder of its own for each run
set -euo pipefail
VERSION=1.6.1
PEER_HOME=${PEER_HOME:-$HOME/.cache/wiremesh-bench}
PEER_STATE=${PEER_STATE:-$PEER_HOME/dynamo}
VENV=$PEER_HOME/venv-dynamo

# Without dependencies, and then these by hand: its list also asks for `aisimulate`, which only its planner imports and
# which comes from an index of its own. Everything that the frontend and the mocker import is here, in its own ranges.
NEEDS=(
  'aiohttp>=3.14.3,<4' certifi 'kubernetes>=32.0.1,<33' 'msgspec>=0.19' 'prometheus-client>=0.23.1,<1'
  'pydantic>=2.10.6,<=2.13.5' 'pyzmq>=26' 'redis>=6.2,<9' 'tqdm>=4' 'transformers>=4.56' 'typing-extensions>=4.10'
  'uvloop>=0.21' 'zstandard>=0.23,<1'
)

install() {
  mkdir -p "$PEER_HOME"
  [ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
  nice -n 19 "$VENV/bin/pip" install --quiet --no-deps "ai-dynamo==$VERSION" "ai-dynamo-runtime==$VERSION"
  nice -n 19 "$VENV/bin/pip" install --quiet "${NEEDS[@]}"
  versions
}

versions() {
  "$VENV/bin/pip" list --format freeze 2>/dev/null | grep -E '^(ai-dynamo|transformers|tokenizers|uvloop)' | tr '\n' ' '
  "$VENV/bin/python" --version
}

# Everything on this host and nothing asked of the network. A backtrace for each error would cost it CPU: none.
on_this_host() {
  mkdir -p "$PEER_STATE"
  unset RUST_BACKTRACE RUST_LIB_BACKTRACE
  export DYN_DISCOVERY_BACKEND=file DYN_FILE_KV="$PEER_STATE/kv" DYN_REQUEST_PLANE=tcp DYN_EVENT_PLANE=zmq
  export DYN_TCP_RPC_HOST=127.0.0.1 DYN_TCP_RESPONSE_STREAM_HOST=127.0.0.1 DYN_EVENT_PLANE_HOST=127.0.0.1
  export DYN_SYSTEM_HOST=127.0.0.1 DYN_SDK_DISABLE_ANSI_LOGGING=1
  export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
}

word=${1:-help}
[ $# -gt 0 ] && shift
case "$word" in
  install | versions) "$word" ;;
  frontend | mocker)
    [ -x "$VENV/bin/python" ] || { echo "not installed; run: bench/dynamo.sh install" >&2; exit 69; }
    on_this_host
    [ "$word" = mocker ] || set -- --http-host 127.0.0.1 "$@"
    exec "$VENV/bin/python" -m "dynamo.$word" "$@"
    ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0"; [ "$word" = help ] || exit 2 ;;
esac
