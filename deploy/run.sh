#!/usr/bin/env bash
# Serves the model that comes with the program. Takes the GPU build if there is one and a GPU answers.
set -eu
cd "$(dirname "$0")/.."
program=build/${FLAVOR:-release}/denoised
if [ -x build/gpu/denoised ] && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    program=build/gpu/denoised
fi
exec "$program" serve "$@"
