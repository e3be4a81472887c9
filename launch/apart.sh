# Sourced by vllm_*.sh, sglang_*.sh and llama.sh: a mesh whose workers live in the virtual environment of their engine,
# and its router and frontend in .venv. All of it ends with the script; the mesh goes on as long as one worker does.

nodes=() workers=()

# Where an engine lives: what `wiremesh engines install NAME --run` makes.
engine_home() { printf '%s/%s\n' "${WIREMESH_ENGINES:-$HOME/.cache/wiremesh/engines}" "$1"; }

need_engine() {
    [ -x "$(engine_home "$1")/bin/wiremesh" ] ||
        give_up "there is no $1 in $(engine_home "$1"): 'wiremesh engines install $1' says how to get it there"
}

# start WORDS...: one node of Wiremesh's own, in the background. A group of its own: Ctrl-C is for the script alone.
start() { start_by .venv/bin/wiremesh "$@"; }

# start_worker ENGINE DEVICE WORDS...: a worker of that engine, on one GPU if there are any.
start_worker() {
    local home device=$2 engine=$1
    home=$(engine_home "$engine")
    shift 2
    CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-$device} start_by "$home/bin/wiremesh" worker --engine "$engine" "$@"
    workers+=($!)
}

start_by() {
    trap 'exit 0' INT TERM
    trap 'end_nodes' EXIT
    say "starting: $(basename "$1") ${*:2}"
    set -m
    "$@" &
    set +m
    nodes+=($!)
}

# Until somebody ends the script, or no worker is left.
stay() {
    while [ "$(still_there)" -gt 0 ]; do
        wait -n || true
        say "a node has ended: $(still_there) of ${#workers[@]} workers go on"
    done
    give_up "no worker is left"
}

still_there() {
    local worker count=0
    for worker in "${workers[@]}"; do
        if kill -0 "$worker" 2>/dev/null; then count=$((count + 1)); fi
    done
    echo "$count"
}

# They drain, as each does when it is asked to leave.
end_nodes() {
    trap '' INT TERM
    kill -TERM "${nodes[@]}" 2>/dev/null || true
    wait
}
