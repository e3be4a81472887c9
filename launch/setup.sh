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
# TORCH="torch --index-url https://download.pytorch.org/whl/cpu" on a machine without a GPU.
test_engine() {
    local engine=$1 home=${WIREMESH_ENGINES:-$HOME/.cache/wiremesh/engines}/$1
    [ "$engine" = transformers ] || give_up "--engine is '$engine': it must be transformers"
    if [ ! -x "$home/bin/python" ]; then
        say "making $home"
        "$(find_python)" -m venv "$home"
    fi
    # shellcheck disable=SC2086
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check ${TORCH:-torch}
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[test,transformers]"
    "$home/bin/python" -m pytest --quiet -p no:cacheprovider tests/nodes/engines/test_transformers.py
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
