#!/bin/sh
# Runs the whole recipe on a toy size, in a folder that is removed afterwards: data, tokenizer,
# training, going on from a checkpoint, quantising, evaluation, golden data. About a minute.
# PYTHON names the interpreter, DENOISED (optional) a server program that must load the result.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
export PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false

if ! "$PYTHON" -c "import torch, numpy, safetensors, tokenizers" 2>/dev/null; then
    echo "train-smoke: $PYTHON lacks torch, numpy, safetensors or tokenizers; install them with" >&2
    echo "  python3 -m venv venv && venv/bin/pip install -r models/train/requirements.txt" >&2
    echo "and name the interpreter: make train-smoke PYTHON=\$PWD/venv/bin/python" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() {
    echo "== $1"
    shift
    "$PYTHON" "$here/$@"
}

step "data" make_data.py --out "$work/data" --stories 200 --chats 300
step "tokenizer" train_tokenizer.py --data "$work/data" --out "$work/tokenizer" --vocab 1024
train="train.py --data $work/data --tokenizer $work/tokenizer --out $work/run --size toy --rows 2"
# shellcheck disable=SC2086 # words, on purpose
step "training" $train --minutes 0.12
# shellcheck disable=SC2086
step "going on from the checkpoint" $train --minutes 0.2
grep -q "of 0.2 min" "$work/run/log.txt" || { echo "train-smoke: it did not go on" >&2; exit 1; }
step "quantising" quantise.py --checkpoint "$work/run/checkpoint.pt" \
    --tokenizer "$work/tokenizer" --out "$work/model" --max-new-tokens 32
step "evaluation" evaluate.py --model "$work/model" --data "$work/data" --documents 8 --draws 2 \
    --checkpoint "$work/run/checkpoint.pt" --max-tokens 32 --prompts 3
# A model that has learnt nothing is full of ties.
step "golden data" export_golden.py --model "$work/model" --out "$work/golden" --margin 0
if [ -n "${DENOISED:-}" ]; then
    echo "== the server loads it"
    "$DENOISED" generate --model "$work/model" "Once upon a time"
fi
echo "train-smoke: all steps passed"
