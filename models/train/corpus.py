"""Reads a folder of real text and holds out documents that are never trained on.

The folder has NAME.txt.xz (or NAME.txt) for NAME in stories, books, dialogues; documents are
separated by a line <|endoftext|>. A missing file is no error: what is there is used.
"""

from __future__ import annotations

import lzma
import re
from pathlib import Path

SEPARATOR = "<|endoftext|>"
# Documents at the end of each file that are kept for measuring; and at the start of stories.
HELD_LAST = {"stories": 150, "books": 50, "dialogues": 100}
UNUSED_FIRST = {"stories": 150}


def read_documents(directory: Path, name: str) -> list[str]:
    compressed, plain = directory / f"{name}.txt.xz", directory / f"{name}.txt"
    if compressed.exists():
        text = lzma.decompress(compressed.read_bytes()).decode()
    elif plain.exists():
        text = plain.read_text()
    else:
        return []
    documents = (document.strip() for document in text.split(SEPARATOR))
    return [document for document in documents if len(document) > 40]


def fingerprints(document: str) -> list[str]:
    """Two documents that share one of these are taken for copies: the start and the end."""
    letters = re.sub(r"[^a-z]", "", document.lower())
    return ["<" + letters[:90], letters[-90:] + ">"]


def split_documents(documents: list[str], name: str) -> tuple[list[str], list[str]]:
    """(train, held out); no training document is a copy of one held out."""
    last, first = HELD_LAST.get(name, 0), UNUSED_FIRST.get(name, 0)
    if len(documents) < 4 * (last + first):
        last, first = len(documents) // 10, 0
    cut = len(documents) - last
    held = documents[cut:]
    known = {mark for document in held + documents[:first] for mark in fingerprints(document)}
    train = [
        document for document in documents[first:cut]
        if not known.intersection(fingerprints(document))
    ]
    return train, held
