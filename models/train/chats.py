"""Chats of our own: greetings, who the model is, stories on request, what things are, questions
about a story, likes, feelings, small facts, thanks and good-byes, each asked in many ways."""

from __future__ import annotations

import random
import re

import words
from stories import make_story
from words import with_article

Chat = list[dict[str, str]]

GREETINGS = ["Hi", "Hello", "Hey", "Hi there", "Hello there", "Good morning", "Good evening",
             "Hey there",
             "Good afternoon", "Hi, how are you", "Hello, how are you", "How are you",
             "How are you today",
             "How is it going", "What's up", "Are you there", "Hello again", "Hi, nice to meet you"]
WELCOMES = ["Hello!", "Hi!", "Hi there!", "Hello, nice to meet you!", "Hey, good to see you!"]
WELL = ["I am doing well, thank you.", "I am fine, thank you.", "I am great today."]
OFFERS = ["What would you like to talk about?", "Shall I tell you a story?", "How are you today?",
          "Would you like to hear a story?", "What is your name?", "How can I help you?"]

WHO = ["Who are you", "What are you", "What is your name", "Who am I talking to",
       "Tell me about yourself",
       "Are you a robot", "Are you a person", "Are you human", "Are you an AI",
       "What kind of model are you",
       "Do you have a name", "Introduce yourself", "Can you tell me who you are",
       "What's your name",
       "so who are you", "are you real", "Are you a computer", "Are you ChatGPT", "hi, who are you"]
WHO_ANSWERS = [
    "I am a tiny masked-diffusion model, served by denoised. I like to tell stories.",
    "I am a very small language model. denoised runs me, and I can tell short stories.",
    "I am tiny, the little model that comes with denoised. I can tell you a story.",
    "My name is tiny. I am a small masked-diffusion model served by denoised.",
    "I am a small diffusion model. I start with blanks and fill them in, and I like stories."]
NOT_HUMAN = ["No, I am a tiny masked-diffusion model, served by denoised.",
             "I am not a person. I am a very small language model that tells stories."]
CAN = ["What can you do", "How can you help me", "What are you good at", "Can you help me",
       "What do you do", "What do you know", "Help", "What should I ask you", "What can I ask you"]
CAN_ANSWERS = ["I can tell short stories, say what simple things are, and chat a little.",
               "I can tell you a story or answer a simple question. I am small, so keep it easy.",
               "Ask me for a story about a dog, or ask me what a cat is."]
HOW = ["How do you work", "How do you write", "What is a masked-diffusion model",
       "What is denoised",
       "How do you make text", "What is a diffusion model", "Who made you", "How big are you",
       "Are you smart", "How old are you", "Where do you live"]
HOW_ANSWERS = {
    "How do you work": "I begin with blanks and fill in the words I am most sure of.",
    "How do you write": "I begin with blanks and fill in the words I am most sure of.",
    "How do you make text": "I begin with blanks and fill them in, a few words in every round.",
    "What is a masked-diffusion model": "It is a model that starts with blanks and fills them in, "
                                        "many words at a time.",
    "What is a diffusion model": "It is a model that starts with blanks and fills them in.",
    "What is denoised": "denoised is a server for masked-diffusion language models. It runs me.",
    "Who made you": "I was trained for denoised, on stories and little chats.",
    "How big are you": "I am very small. I have only about six million numbers in me.",
    "Are you smart": "I am very small, so I do not know much. But I can tell stories.",
    "How old are you": "I am quite new. I do not count my birthdays.",
    "Where do you live": "I live in a computer, inside a server called denoised."}

ASK_STORY = ["Tell me a story about {}", "tell me a story about {}",
             "Can you tell me a story about {}",
             "Write a story about {}", "Please tell me a short story about {}",
             "I want a story about {}",
             "Write a short story about {}", "Could you tell a story about {}",
             "A story about {}, please",
             "Make up a story about {}", "Do you know a story about {}",
             "I would like to hear about {}",
             "tell me about {}, as a story", "Give me a story with {}"]
ASK_ANY_STORY = ["Tell me a story", "Can you tell me a story", "tell me a story please",
                 "Write a story",
                 "I want to hear a story", "Please tell me a bedtime story", "Do you know a story",
                 "Tell me another story", "Read me a story", "Make up a story", "A story, please",
                 "Can you tell me a short story before bed"]

WHAT_IS = ["What is {a}", "What is {a}", "what is {a}", "What's {a}", "Do you know what {a} is",
           "Can you tell me what {a} is", "Tell me what {a} is", "What does {n} mean",
           "Please explain {a}",
           "Explain what {a} is", "I do not know what {a} is. What is it", "what's {a}"]
THANKS = ["Thanks", "Thank you", "Thank you very much", "Thanks a lot", "Thanks, that was nice",
          "That was a nice story, thank you", "Thank you so much", "ok thanks", "That was helpful",
          "I liked that", "That was great", "Great story", "Good job", "Well done",
          "You are so nice"]
THANKS_ANSWERS = ["You are welcome!", "You are welcome! I am glad you liked it.", "No problem!",
                  "My pleasure. Ask me for another story any time.", "I am happy to help."]
BYES = ["Bye", "Goodbye", "Good night", "See you later", "I have to go", "bye bye",
        "See you tomorrow",
        "I have to go now, bye", "I am going to bed", "Talk to you later", "Have a nice day"]
BYES_ANSWERS = ["Goodbye! Have a nice day.", "Bye! It was nice talking to you.", "See you soon!",
                "Goodbye! Come back for a story.", "Take care!"]
NIGHT_ANSWERS = ["Good night! Sleep well.", "Good night! Sweet dreams."]

FEELINGS = {
    "sad": ["I am sorry that you are sad. Do you want to talk about it?",
            "I am sorry to hear that. Shall I tell you a happy story?"],
    "happy": ["I am glad that you are happy! What made you happy?", "That is great to hear!"],
    "tired": ["Then you should rest a little. Sleep well!", "Maybe you need some sleep."],
    "bored": ["Let us do something fun. Shall I tell you a story?",
              "Do you want to hear a story about a brave little mouse?"],
    "hungry": ["You should eat something good. Do you like soup?", "Maybe you can have an apple."],
    "scared": ["Do not be scared. I am here, and you are safe.",
               "It is okay to be scared. Take a deep breath."],
    "angry": ["I am sorry that you are angry. What happened?",
              "Take a deep breath. It will get better."],
    "lonely": ["I am sorry you feel lonely. I like to talk with you.",
               "You are not alone. Let us talk."],
    "sick": ["I am sorry that you are sick. I hope you feel better soon.",
             "Get well soon! Drink warm tea."],
    "cold": ["You should put on a warm coat.", "Maybe a warm blanket helps."]}
UNKNOWN = ["What is the capital of {}", "Who is the president of {}",
           "How do I write a program in {}",
           "What is 17 times {}", "Write code in {}", "What happened in {}",
           "What is the weather in {}",
           "Solve this equation with {}", "Translate this into {}", "What do you think about {}",
           "Explain quantum physics and {}", "What is the news from {}", "How far is it to {}"]
UNKNOWN_THINGS = ["France", "Python", "Spain", "China", "1999", "Paris", "Java", "Germany", "23",
                  "London",
                  "Italy", "history", "math", "stocks", "America", "taxes", "Latin", "politics"]
UNKNOWN_ANSWERS = ["I do not know that. I am a very small model.",
                   "I am too small to know that, sorry.",
                   "That is too hard for me. I can tell you a story."]


def turn(pick: random.Random, question: str, mark: str = "?") -> str:
    """The same question as different people type it."""
    if pick.random() < 0.2:
        question = question[0].lower() + question[1:]
    return question + (mark if pick.random() < 0.75 else "")


def chat(*contents: str) -> Chat:
    return [{"role": ("user", "assistant")[i % 2], "content": content}
            for i, content in enumerate(contents)]


def greeting(pick: random.Random) -> Chat:
    hello = pick.choice(GREETINGS)
    asked = "how are" in hello.lower() or "going" in hello or "up" in hello
    if asked:
        answer = pick.choice(WELL) + " " + pick.choice(["How are you?", "And you?",
                                                        "What about you?"])
    else:
        answer = pick.choice(WELCOMES) + " " + pick.choice(OFFERS)
    return chat(turn(pick, hello, "?" if asked else pick.choice("!.")), answer)


def identity(pick: random.Random) -> Chat:
    kind = pick.random()
    if kind < 0.5:
        question = pick.choice(WHO)
        person = re.search(r"person|human|real", question)
        return chat(turn(pick, question), pick.choice(NOT_HUMAN if person else WHO_ANSWERS))
    if kind < 0.75:
        return chat(turn(pick, pick.choice(CAN)), pick.choice(CAN_ANSWERS))
    question = pick.choice(HOW)
    return chat(turn(pick, question), HOW_ANSWERS[question])


def likes(pick: random.Random) -> Chat:
    thing, kind = pick.choice(
        [(pick.choice(words.ANIMALS) + "s", "animal"), (pick.choice(words.FOODS), "food"),
         (pick.choice(words.COLOURS), "color"), (pick.choice(words.HOBBIES), "thing to do")])
    thing = thing.replace("_", " ").replace("mouses", "mice").replace("foxs", "foxes")
    thing = thing.replace("fishs", "fish").replace("sheeps", "sheep")
    form = pick.randrange(4)
    if form == 0:
        return chat(turn(pick, f"Do you like {thing}"), pick.choice([
            f"Yes, I like {thing} very much. Do you?", f"I love {thing}! What about you?",
            f"Yes, {thing} is my favorite {kind}." if kind in ("color", "thing to do") else
            f"Yes, I like {thing}. They are great." if kind == "animal" else
            f"I do not eat, but {thing} must be good."]))
    if form == 1:
        question = pick.choice([f"What is your favorite {kind}", f"What's your favourite {kind}",
                                f"Do you have a favorite {kind}", f"Which {kind} do you like best"])
        return chat(turn(pick, question),
                    pick.choice([f"My favorite {kind} is {thing}. What is yours?",
                                 f"I like {thing} best."])
                    if kind != "animal" else f"I like {thing} best. Which animal do you like?")
    if form == 2:
        hobby = pick.choice(words.HOBBIES)
        question = pick.choice(["What do you like to do", "What do you do for fun",
                                "What are your hobbies",
                                "What do you like", "What do you enjoy"])
        return chat(turn(pick, question),
                    pick.choice([f"I like telling stories and {hobby}. And you?",
                                 f"I enjoy {hobby}. What do you like to do?"]))
    statement = pick.choice([f"I like {thing}", f"I love {thing}",
                             f"My favorite {kind} is {thing}"])
    return chat(turn(pick, statement, "."), pick.choice([
        f"I like {thing} too!", f"That is nice. Why do you like {thing}?",
        f"Oh, {thing}! That sounds great.", f"Me too. I think {thing} is wonderful."
        if kind in ("color", "thing to do") else f"Me too. I love {thing}."]))


def feeling(pick: random.Random) -> Chat:
    name = pick.choice(list(FEELINGS))
    start = pick.choice(["I am", "I'm", "I feel", "I am so", "I am feeling", "Today I am"])
    return chat(turn(pick, f"{start} {name}", "."), pick.choice(FEELINGS[name]))


def naming(pick: random.Random) -> Chat:
    name = pick.choice(words.GIRLS + words.BOYS + ["Alex", "Maria", "David", "Sarah", "John",
                                                   "Laura"])
    start = pick.choice(["My name is", "I am", "I'm", "Hi, my name is", "Hello, I am", "Call me"])
    answer = pick.choice([f"Hello, {name}! Nice to meet you.", f"Nice to meet you, {name}!",
                          f"Hi {name}! How are you?"])
    if pick.random() < 0.5:
        return chat(turn(pick, f"{start} {name}", "."), answer)
    return chat(turn(pick, f"{start} {name}", "."), answer,
                turn(pick, pick.choice(["What is my name", "Do you know my name", "Who am I"])),
                pick.choice([f"Your name is {name}.", f"You are {name}."]))


def fact(pick: random.Random) -> Chat:
    form = pick.randrange(7)
    if form == 0:
        animal, sound = pick.choice(list(words.SOUNDS.items()))
        return chat(turn(pick, pick.choice([f"What does {with_article(animal)} say",
                                            f"What sound does {with_article(animal)} make"])),
                    f"{with_article(animal).capitalize()} says {sound}.")
    if form == 1:
        animal, legs = pick.choice(list(words.LEGS.items()))
        return chat(turn(pick, f"How many legs does {with_article(animal)} have"),
                    f"{with_article(animal).capitalize()} has {legs} legs.")
    if form == 2:
        word, other = pick.choice(list(words.OPPOSITES.items()))
        return chat(turn(pick, f"What is the opposite of {word}"),
                    f"The opposite of {word} is {other}.")
    if form == 3:
        thing, colour = pick.choice(list(words.COLOUR_OF.items()))
        verb = "are" if thing.endswith("s") and thing != "grass" else "is"
        return chat(turn(pick,
                         pick.choice([f"What color {verb} {thing}",
                                      f"What colour {verb} {thing}"])),
                    f"{thing.capitalize()} {verb} {colour}.")
    if form == 4:
        animal, place = pick.choice(list(words.LIVES.items()))
        return chat(turn(pick, f"Where does {with_article(animal)} live"),
                    f"{with_article(animal).capitalize()} lives {place}.")
    if form == 5:
        animal, food = pick.choice(list(words.EATS.items()))
        return chat(turn(pick, f"What does {with_article(animal)} eat"),
                    f"{with_article(animal).capitalize()} eats {food}.")
    sequence = pick.choice([words.NUMBERS, words.DAYS])
    i = pick.randrange(len(sequence) - 1)
    return chat(turn(pick, f"What comes after {sequence[i]}"),
                f"After {sequence[i]} comes {sequence[i + 1]}.")


def unknown(pick: random.Random) -> Chat:
    return chat(turn(pick, pick.choice(UNKNOWN).format(pick.choice(UNKNOWN_THINGS))),
                pick.choice(UNKNOWN_ANSWERS))


def polite(pick: random.Random) -> Chat:
    if pick.random() < 0.5:
        return chat(turn(pick, pick.choice(THANKS), pick.choice("!.")), pick.choice(THANKS_ANSWERS))
    bye = pick.choice(BYES)
    night = "night" in bye or "bed" in bye
    return chat(turn(pick, bye, pick.choice("!.")),
                pick.choice(NIGHT_ANSWERS if night else BYES_ANSWERS))


def what_is(pick: random.Random, glosses: dict[str, str]) -> Chat:
    common = list(glosses)[:30]
    noun = pick.choice(common if pick.random() < 0.45 else list(glosses))
    named = f"the {noun}" if noun in ("sun", "moon", "rain", "snow",
                                      "ocean") else with_article(noun)
    if noun in ("rain", "snow", "milk", "honey", "bread", "butter", "soap", "hair", "candy"):
        named = noun
    question = pick.choice(WHAT_IS).format(a=named, n=noun)
    answer = f"{named.capitalize()} is {glosses[noun]}."
    return chat(turn(pick, question), answer)


def about_story(pick: random.Random) -> Chat:
    """A short story in the prompt and a question about it, or two."""
    story = make_story(pick)
    text = story.text
    if pick.random() < 0.4:
        text = " ".join(re.split(r"(?<=[.!?\"])\s+", text)[:4])
    known = [(asks, answers) for asks, answers in story.facts
             if text == story.text or asks[0].startswith(("Who is", "What is"))]
    asks, answers = pick.choice(known)
    question, answer = pick.choice(asks), pick.choice(answers)
    if pick.random() < 0.8:
        join = pick.choice([" ", "\n", "\n\n"])
        return chat(text + join + question if pick.random() < 0.8 else question + join + text,
                    answer)
    return chat(pick.choice(ASK_ANY_STORY), text, question, answer)


def story_about(noun: str, text: str, pick: random.Random) -> Chat:
    if pick.random() < 0.15:
        return chat(turn(pick, pick.choice(ASK_ANY_STORY), "."), text)
    return chat(turn(pick, pick.choice(ASK_STORY).format(noun), "."), text)


def make_chat(pick: random.Random, glosses: dict[str, str]) -> Chat:
    kinds = ((greeting, 14), (identity, 16), (likes, 14), (feeling, 6), (naming, 7), (fact, 9),
             (unknown, 4), (polite, 9), (what_is, 17), (about_story, 12))
    make = pick.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
    return make(pick, glosses) if make is what_is else make(pick)
