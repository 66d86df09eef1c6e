"""Trains the tokenizer: byte-level BPE with LLaDA's special tokens, BOS by the post-processor."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from segments import read_records

SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|start_header_id|>",
            "<|end_header_id|>", "<|eot_id|>"]
WORDS = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what make_data.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json")
    parser.add_argument("--vocab", type=int, default=4096)
    return parser.parse_args()


def train_tokenizer(texts: list[str], vocab: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    # The network has `vocab` rows, whatever a small text yields.
    missing = vocab - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<|unused_{i}|>" for i in range(missing)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[0]} $A", pair=f"{SPECIALS[0]} $A $B:1",
        special_tokens=[(SPECIALS[0], 0)])
    return tokenizer


def main() -> None:
    options = arguments()
    texts = []
    for record in read_records(options.data / "train.jsonl"):
        contents = record.get("messages", [{"content": record.get("text")}])
        texts += [one["content"] for one in contents]
    tokenizer = train_tokenizer(texts, options.vocab)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(options.out / "tokenizer.json"))
    config = {
        "add_bos_token": False, "add_eos_token": False, "bos_token": SPECIALS[0],
        "eos_token": SPECIALS[1], "pad_token": SPECIALS[1], "mask_token": SPECIALS[2],
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast"}
    (options.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    characters = sum(len(text) for text in texts[:2000])
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts[:2000]))
    print(f"{options.out}/tokenizer.json: {tokenizer.get_vocab_size()} ids, "
          f"{characters / max(tokens, 1):.2f} characters per token")


if __name__ == "__main__":
    main()
