"""A story grammar: somebody wants something, something is in the way, it ends well. Every story
comes with its facts, from which questions about it are asked."""

from __future__ import annotations

import random
from dataclasses import dataclass

import words
from words import with_article


@dataclass
class Hero:
    name: str
    kind: str
    trait: str
    he: str
    his: str
    him: str


@dataclass
class Story:
    text: str
    about: str                      # the noun a user would ask for
    facts: list[tuple[list[str], list[str]]]  # (ways to ask, ways to answer)


def make_hero(pick: random.Random, kind: str | None = None, but: str = "") -> Hero:
    kind = kind or pick.choice(words.ANIMALS + words.CHILDREN * 6)
    girl = kind == "girl" or (kind != "boy" and pick.random() < 0.5)
    names = words.GIRLS if girl else words.BOYS
    if kind not in words.CHILDREN and pick.random() < 0.6:
        names = words.ANIMAL_NAMES
    name = pick.choice([n for n in names if n != but])
    he, his, him = ("she", "her", "her") if girl else ("he", "his", "him")
    return Hero(name, kind, pick.choice(words.TRAITS), he, his, him)


class Teller:
    """One story; each part chooses among sentences that fit what was told before."""

    def __init__(self, pick: random.Random, about: str | None = None):
        self.pick = pick
        self.hero = make_hero(pick, about)
        self.helper = make_hero(pick, but=self.hero.name)
        if self.helper.kind in words.CHILDREN and self.hero.kind in words.ANIMALS:
            self.helper.kind = pick.choice(words.ANIMALS)
        self.place = pick.choice(list(words.PLACES))
        self.at = words.PLACES[self.place]
        self.thing = pick.choice(list(words.THINGS))
        adjectives, self.hidden, self.use = words.THINGS[self.thing]
        self.adjective = pick.choice(adjectives.split())
        self.facts: list[tuple[list[str], list[str]]] = []

    def say(self, *choices: str) -> str:
        return self.pick.choice(choices)

    def opening(self) -> str:
        h, say = self.hero, self.say
        first = say(
            f"Once upon a time, there was {with_article(h.trait)} {h.kind} named {h.name}.",
            f"Once there was a little {h.kind} called {h.name}.",
            f"{h.name} was {with_article(h.trait)} little {h.kind}.",
            f"In a small house {self.at} lived {with_article(h.kind)} named {h.name}."
            if self.place not in ("house", "school", "kitchen", "market") else
            f"There was once {with_article(h.kind)} whose name was {h.name}.",
            f"Far away lived {with_article(h.trait)} {h.kind} named {h.name}.")
        more = say(f"{h.name} loved to play {self.at}.", self.pick.choice(words.WEATHER),
                   f"Every day {h.he} went for a walk {self.at}.", "",
                   f"Everyone liked {h.name} because {h.he} was so {h.trait}.")
        self.fact([f"Who is the story about?", "What is the name of the " + h.kind + "?",
                   f"What is the {h.kind}'s name?", "Who is in the story?"],
                  [f"The story is about {with_article(h.kind)} named {h.name}.",
                   f"The {h.kind} is named {h.name}.", f"It is about {h.name} the {h.kind}."])
        self.fact([f"What is {h.name}?", f"What kind of animal is {h.name}?"
                   if h.kind in words.ANIMALS else f"Is {h.name} a girl or a boy?"],
                  [f"{h.name} is {with_article(h.kind)}."])
        return f"{first} {more}".strip()

    def fact(self, questions: list[str], answers: list[str]) -> None:
        self.facts.append((questions, answers))

    def fact_place(self) -> None:
        self.fact(["Where does the story happen?", f"Where was {self.hero.name}?",
                   f"Where did {self.hero.name} go?"],
                  [f"{self.hero.name} was {self.at}.", f"It happens {self.at}."])

    def fact_helper(self) -> None:
        h, o = self.hero, self.helper
        self.fact([f"Who helped {h.name}?", f"Who came to help {h.name}?"],
                  [f"{o.name} the {o.kind} helped {h.name}.",
                   f"{with_article(o.kind).capitalize()} named {o.name} helped {h.him}."])

    def fact_feeling(self, feeling: str) -> None:
        h = self.hero
        self.fact([f"How did {h.name} feel at the end?", f"Was {h.name} happy at the end?",
                   "How does the story end?"],
                  [f"At the end {h.name} was {feeling}.", f"{h.name} felt {feeling}."])

    def ending(self, lesson: str, feeling: str) -> str:
        h, o = self.hero, self.helper
        self.fact_feeling(feeling)
        return self.say(
            f"{h.name} was {feeling}. {self.pick.choice(words.LESSONS[lesson])}",
            f"That night {h.name} went to bed and felt {feeling}.",
            f'"Thank you, {o.name}," said {h.name}. From then on they were best friends.',
            f"{h.name} felt {feeling} and ran home to tell {h.his} "
            f"{self.pick.choice(words.FAMILY)} all about it.",
            f"{h.name} smiled. {self.pick.choice(words.LESSONS[lesson])}")

    def lost_thing(self) -> str:
        h, o, say = self.hero, self.helper, self.say
        a_thing, thing = f"{with_article(self.adjective)} {self.thing}", self.thing
        self.fact([f"What did {h.name} lose?", f"What was {h.name} looking for?"],
                  [f"{h.name} lost {h.his} {self.adjective} {thing}.",
                   f"{h.he.capitalize()} lost {a_thing}."])
        self.fact([f"Where was the {thing}?", f"Where did they find the {thing}?"],
                  [f"The {thing} was {self.hidden}.", f"They found it {self.hidden}."])
        self.fact_helper()
        return " ".join((
            say(f"{h.name} had {a_thing} and liked to {self.use}.",
                f"{h.his.capitalize()} best thing was {a_thing}."),
            say(f"One day the {thing} was gone.", f"One morning {h.he} could not find the {thing}.",
                f"But one day {h.he} lost it."),
            say(f"{h.name} looked everywhere and began to cry.",
                f'"Where is my {thing}?" {h.he} asked.', f"{h.name} was very sad."),
            say(f"{with_article(o.kind).capitalize()} named {o.name} came by.",
                f"Then {o.name} the {o.kind} heard {h.him}."),
            say(f'"Do not cry," said {o.name}. "We will look together."',
                f'"I can help you," {o.name} said. "I have good eyes."',
                f'"What is wrong?" asked {o.name}. "I lost my {thing}," said {h.name}.'),
            say(f"They looked and looked, and at last they saw it {self.hidden}.",
                f"{o.name} found the {thing} {self.hidden}.",
                f"There it was, {self.hidden}!"),
            self.ending("help", say("very happy", "happy again", "so glad"))))

    def wanted_thing(self) -> str:
        h, o, say = self.hero, self.helper, self.say
        thing = self.thing
        self.fact([f"What did {h.name} want?", f"What did {h.name} see?"],
                  [f"{h.name} wanted the {self.adjective} {thing}.",
                   f"{h.he.capitalize()} wanted {with_article(self.adjective)} {thing}."])
        self.fact([f"Where was the {thing}?"], [f"The {thing} was {self.hidden}."])
        self.fact_helper()
        self.fact_place()
        return " ".join((
            say(f"One day, {self.at}, {h.he} saw {with_article(self.adjective)} {thing}.",
                f"One day {h.name} was {self.at} and saw {with_article(self.adjective)} {thing}."),
            say(f"It was {self.hidden}.", f"But it was {self.hidden}."),
            say(f'"I want to {self.use}," {h.he} said.',
                f"{h.name} wanted it very much.", f'"How lovely!" said {h.name}.'),
            say(f"{h.he.capitalize()} tried and tried, but {h.he} could not get it.",
                f"{h.name} was too small to get it alone.",
                f"{h.he.capitalize()} tried to get it with a stick, but the stick broke."),
            say(f"{o.name} the {o.kind} saw this and came to help.",
                f"{h.name} asked {o.name} the {o.kind} for help."),
            say(f'"You push and I pull," said {o.name}.', f'"Stand on my back," said {o.name}.',
                f'"Two are stronger than one," said {o.name}.'),
            say(f"Soon they had the {thing}, and both of them could {self.use}.",
                f"It worked! {h.name} shared the {thing} with {o.name}."),
            self.ending("share", say("very happy", "proud", "full of joy"))))

    def fear(self) -> str:
        h, o, say = self.hero, self.helper, self.say
        fear, cure = self.pick.choice(list(words.FEARS.items()))
        self.fact([f"What was {h.name} afraid of?", f"What was {h.name} scared of?"],
                  [f"{h.name} was afraid of {fear}.", f"{h.he.capitalize()} was scared of {fear}."])
        self.fact([f"What did {o.name} do?", f"How did {o.name} help?"],
                  [f"{o.name} helped {h.name}. They {cure}."])
        self.fact_helper()
        return " ".join((
            say(f"But {h.name} was afraid of {fear}.",
                f"There was one thing {h.he} feared: {fear}."),
            say(f"The others laughed at {h.him}, and {h.he} felt alone.",
                f"{h.he.capitalize()} did not tell anyone.", f"{h.his.capitalize()} legs shook."),
            say(f"One day {h.his} friend {o.name} the {o.kind} said, \"I was afraid too.\"",
                f"{o.name} the {o.kind} sat down next to {h.him}. \"Let us do it together.\""),
            f"So they {cure}.",
            say(f'"It is not so bad!" said {h.name}.', f"{h.name} took a deep breath and smiled.",
                f'"I did it!" {h.he} shouted.'),
            self.ending("brave", say("brave", "proud and brave", "not afraid any more"))))

    def skill(self) -> str:
        h, o, say = self.hero, self.helper, self.say
        skill, failure = self.pick.choice(list(words.SKILLS.items()))
        teacher = self.pick.choice(words.FAMILY)
        self.fact([f"What did {h.name} want to learn?", f"What did {h.name} want?"],
                  [f"{h.name} wanted to learn to {skill}.",
                   f"{h.he.capitalize()} wanted to {skill}."])
        self.fact([f"What happened at first?", f"What went wrong?"],
                  [f"At first {h.name} {failure}.", f"{h.he.capitalize()} {failure}."])
        return " ".join((
            say(f"{h.name} wanted to learn to {skill}.",
                f'"I want to {skill}," said {h.name} one day.'),
            say(f"{h.he.capitalize()} tried, but {h.he} {failure}.",
                f"The first time, {h.he} {failure}."),
            say(f'"I will never learn it," {h.he} said.', f"{h.name} wanted to stop.",
                f"{h.he.capitalize()} was angry and sad."),
            say(f'{h.his.capitalize()} {teacher} said, "Try again tomorrow."',
                f'"Try once more," said {o.name} the {o.kind}. "I will show you."'),
            say("So every day there was a little practice.",
                f"The next day {h.he} tried again, and again.",
                f"{h.name} practiced for a whole week."),
            say(f"Then, one morning, {h.name} could {skill}!",
                f"At last it worked. {h.name} could {skill}!"),
            self.ending("try", say("proud", "very proud", "so happy"))))

    def mistake(self) -> str:
        h, say = self.hero, self.say
        owner = self.pick.choice(words.FAMILY)
        self.fact([f"What did {h.name} break?", "What was broken?"],
                  [f"{h.name} broke the {self.adjective} {self.thing}.",
                   f"{h.he.capitalize()} broke {owner}'s {self.thing}."])
        self.fact([f"Whose {self.thing} was it?", f"Who had the {self.thing}?"],
                  [f"It was {h.his} {owner}'s {self.thing}."])
        return " ".join((
            say(f"{h.his.capitalize()} {owner} had {with_article(self.adjective)} {self.thing}.",
                f"There was {with_article(self.adjective)} {self.thing}. It was {owner}'s."),
            say(f"One day {h.name} ran too fast, and the {self.thing} broke.",
                f"{h.name} took it without asking. Crash! It broke."),
            say(f"{h.he.capitalize()} hid the pieces under the bed.",
                f"{h.name} was scared to tell.",
                f'"Oh no," said {h.name}. "What shall I do?"'),
            say(f"All day {h.his} tummy hurt.",
                f"{h.he.capitalize()} could not eat and could not play."),
            say(f'In the evening {h.he} said, "I broke it. I am sorry."',
                f"At last {h.name} told the truth."),
            say(f'{h.his.capitalize()} {owner} gave {h.him} a hug. "Thank you for telling me."',
                f'"We can fix it together," said {h.his} {owner}. And they did.'),
            self.ending("honest", say("much better", "happy again", "light and happy")).replace(
                f'"Thank you, {self.helper.name}," said {h.name}. '
                'From then on they were best friends.',
                f"{h.name} felt much better.")))

    def tell(self) -> Story:
        plot = self.pick.choice((self.lost_thing, self.wanted_thing, self.fear, self.skill,
                                 self.mistake, self.lost_thing, self.wanted_thing))
        gap = self.pick.choice((" ", "\n"))
        text = self.opening() + gap + plot()
        return Story(text, self.hero.kind, self.facts)


def make_story(pick: random.Random, about: str | None = None) -> Story:
    return Teller(pick, about).tell()
