#!/usr/bin/env bash
# A mesh in front of a server that speaks OpenAI's API: vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, another mesh.
# Makes .venv if needed. ./launch/any_openai.sh http://127.0.0.1:8001/v1 --model DIR [flags of `wiremesh up`]
# DIR is the model's directory; only its tokenizer is read. Behind --: flags of the worker, as --url-key-file FILE.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/setup.sh

url=${1:-}
case $url in
    http://* | https://*) shift ;;
    *) give_up "the first argument must be the server's URL, as in http://127.0.0.1:8001/v1" ;;
esac
set_up ""
say "starting a mesh in front of $url: wiremesh up --engine openai $*"
export WIREMESH_WORKER_URL=$url
exec .venv/bin/wiremesh up --engine openai "$@"
