#!/usr/bin/env bash
# For tests only: SGLang into a virtual environment of a machine without a GPU, where it can serve tiny models by way of
# PyTorch alone. To serve anybody, install it where there is a GPU: wiremesh engines install sglang
#   install.sh VENV      TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
set -euo pipefail
home=${1:?the folder of the virtual environment}
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$home/bin/python" ] || python3 -m venv "$home"
pip() { "$home/bin/python" -m pip "$@" --quiet --disable-pip-version-check; }
# shellcheck disable=SC2086
pip install ${TORCH:-torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu}
pip install --requirement "$here/requirements.txt"
pip install --no-deps sglang==0.5.23 torchvision==0.28.0 nixl nixl-cu12
pip install --editable "$here/../../../..[test]"
