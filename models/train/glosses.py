"""Short definitions of common things, from WordNet's first noun sense (Debian: wordnet-base)."""

from __future__ import annotations

import re
from pathlib import Path

from words import with_article

# Nouns whose first gloss is what a child means by them, and reads well.
NOUNS = """
park garden room teacher beach mother bed town truck kitchen brother doll baby farmer hair dinner
hill sister field fox hat bag pet child floor lake river candy castle balloon fruit ocean guitar
monster bucket fairy bottle chair kitten basket bowl milk pocket street nest rainbow blanket cup
restaurant plane nose pot mountain honey playground snake computer ant shirt zoo fence bell hospital
island neighbor barn map clock couch cookie bench student roof singer ship spoon mirror shelf rat
paw artist pen cage vase shore painter library scarf soap lemon breakfast meal pillow cane
purse desk prince witch candle snowman rose carpet butter sheep dolphin crib bathroom
camera drum chef knife bakery igloo penguin telescope window door train bicycle piano umbrella
spider butterfly tent anchor bread cave shadow wheel goat onion potato
""".split()
# Children's words whose WordNet gloss is too learned: our own line, in the same form.
OWN = {
    "cat": "a small soft animal with whiskers that says meow and catches mice",
    "dog": "a friendly animal with four legs that barks and likes to play",
    "bird": "an animal with wings and feathers that lays eggs",
    "fish": "an animal that lives and swims in water",
    "rabbit": "a small animal with long ears that hops and eats grass",
    "mouse": "a very small animal with a long tail that likes cheese",
    "bear": "a big heavy animal with thick fur",
    "horse": "a big strong animal with four legs that people ride",
    "cow": "a big farm animal that eats grass and gives milk",
    "tree": "a tall plant with a trunk, branches and leaves",
    "sun": "the star that gives us light and warmth by day",
    "moon": "the round light we see in the sky at night",
    "star": "a small bright light in the night sky",
    "house": "a building where people live",
    "ball": "a round thing that you throw, kick or roll in a game",
    "book": "a lot of pages with words and pictures that you can read",
    "car": "a machine with four wheels that people drive on roads",
    "boat": "a thing that floats and carries people over water",
    "friend": "a person you like and trust",
    "flower": "the pretty part of a plant, often bright and sweet to smell",
    "apple": "a round sweet fruit that grows on a tree",
    "cake": "a sweet food baked from flour, eggs and sugar",
    "rain": "water that falls in drops from the clouds",
    "snow": "soft white flakes of ice that fall from the sky",
    "frog": "a small green animal that jumps and lives near water",
    "duck": "a bird that swims and says quack",
    "elephant": "a very big grey animal with a long trunk",
    "lion": "a big wild cat with a loud roar",
    "bee": "a small insect that flies and makes honey",
    "story": "words that tell what happened, true or made up",
}


def read_index(directory: Path) -> dict[str, int]:
    """noun: place of its first sense in data.noun."""
    places = {}
    for line in (directory / "index.noun").read_text().splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        pointers = int(fields[3])
        places[fields[0]] = int(fields[6 + pointers])
    return places


def first_gloss(data: bytes, place: int) -> str:
    """The definition without examples and asides."""
    line = data[place:data.index(b"\n", place)].decode()
    gloss = line.split("|", 1)[1]
    gloss = re.split(r'; "|"', gloss)[0]
    gloss = re.sub(r"\([^)]*\)", "", gloss).split(";")[0]
    return re.sub(r"\s+", " ", gloss).strip(" ;:,")


def read_glosses(directory: Path) -> dict[str, str]:
    """noun: "an animal that ..."; WordNet's lines are left out where it is not installed."""
    glosses = dict(OWN)
    if not (directory / "data.noun").exists():
        return glosses
    places = read_index(directory)
    data = (directory / "data.noun").read_bytes()
    for noun in NOUNS:
        gloss = first_gloss(data, places[noun]) if noun in places else ""
        if not 12 <= len(gloss) <= 100 or noun in glosses:
            continue
        if not gloss.startswith(("a ", "an ", "the ", "any ")):
            gloss = with_article(gloss)
        glosses[noun] = gloss
    return glosses
