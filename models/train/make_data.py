"""Writes train.jsonl and held.jsonl: stories and chats of our own, glosses of WordNet, and with
--corpus a folder of real text. A line is {"source", "text"} or {"source", "messages"}."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

import chats
import words
from corpus import HELD_LAST, read_documents, split_documents
from glosses import read_glosses
from stories import make_story


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corpus", type=Path,
                        help="stories.txt.xz, books.txt.xz, dialogues.txt.xz")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--stories", type=int, default=6000, help="stories of our own")
    parser.add_argument("--chats", type=int, default=20000, help="chats of our own")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main_noun(text: str) -> str | None:
    """The thing or animal a story is about: named early and often, as a user would ask for it."""
    known = set(words.ANIMALS) | set(words.THINGS) | set(words.COLOUR_OF) | {
        "girl", "boy", "dragon", "princess", "king", "tree", "car", "truck", "train", "bug", "ant",
        "robot", "monster", "fairy", "teddy", "puppy", "kitten", "butterfly", "dinosaur", "wolf",
        "whale", "crab", "snail", "bike", "balloon", "garden", "rainbow", "castle", "farmer",
        "baby"}
    counts = Counter(word for word in re.findall(r"[a-z]+", text.lower()) if word in known)
    early = {word for word in re.findall(r"[a-z]+", text[:220].lower())}
    for noun, count in counts.most_common(2):
        if count >= 2 and noun in early:
            return noun
    return None


def story_requests(documents: list[str], pick: random.Random) -> list[chats.Chat]:
    """Real stories as the answers to "tell me a story about ..."."""
    found = []
    for document in documents:
        noun = main_noun(document)
        if noun is not None and len(document) < 1600:
            found.append(chats.story_about(words.with_article(noun), document, pick))
        elif pick.random() < 0.1:
            found.append(chats.chat(pick.choice(chats.ASK_ANY_STORY), document))
    return found


def dialogue_chats(documents: list[str], pick: random.Random) -> list[chats.Chat]:
    """Short exchanges from the dialogues: the turn before, or the three before, and the answer."""
    found = []
    for document in documents:
        turns = [turn.strip() for turn in document.splitlines() if turn.strip()]
        for _ in range(2):
            context = pick.choice((1, 1, 3))
            if len(turns) <= context:
                continue
            start = pick.choice((0, pick.randrange(len(turns) - context)))
            exchange = turns[start:start + context + 1]
            if all(len(turn) < 160 and not re.search(r"[\[(]", turn) for turn in exchange):
                found.append(chats.chat(*exchange))
    return found


def own_story_request(pick: random.Random) -> chats.Chat:
    about = pick.choice(words.ANIMALS + words.CHILDREN)
    return chats.story_about(words.with_article(about), make_story(pick, about).text, pick)


def main() -> None:
    options = arguments()
    pick = random.Random(options.seed)
    train: list[dict] = []
    held: list[dict] = []
    documents: dict[str, list[str]] = {}
    for name in HELD_LAST:
        kept, measured = [], []
        if options.corpus is not None:
            kept, measured = split_documents(read_documents(options.corpus, name), name)
        documents[name] = kept
        train += [{"source": name, "text": text} for text in kept]
        held += [{"source": name, "text": text} for text in measured]
    train += [{"source": "own", "text": make_story(pick).text} for _ in range(options.stories)]
    if not held:
        held = [{"source": "own", "text": make_story(pick).text} for _ in range(100)]

    glosses = read_glosses(options.wordnet)
    talks = {
        "own": [chats.make_chat(pick, glosses) for _ in range(options.chats)],
        "own-story": [own_story_request(pick) for _ in range(options.chats // 20)],
        "stories": story_requests(documents["stories"], pick),
        "dialogues": dialogue_chats(documents["dialogues"], pick),
    }
    for source, found in talks.items():
        train += [{"source": source, "messages": messages} for messages in found]

    options.out.mkdir(parents=True, exist_ok=True)
    for name, records in (("train", train), ("held", held)):
        with (options.out / f"{name}.jsonl").open("w") as out:
            out.writelines(json.dumps(record) + "\n" for record in records)
    counts = Counter((record["source"],
                      "chat" if "messages" in record else "text") for record in train)
    print(f"{len(train)} training records, {len(held)} held out, {len(glosses)} glosses")
    for (source, kind), count in sorted(counts.items()):
        print(f"  {source:10} {kind}: {count}")


if __name__ == "__main__":
    main()
