"""What the evaluation asks; chosen before the model was trained and never changed to suit it."""

STORIES = [
    "Once upon a time", "One day, a little girl named Lily", "Tom had a red ball.",
    "The old bear lived in the forest.", "Once there was a small duck who",
    "Mia and Ben went to the beach.",
    "It was a cold morning.", '"Look at that!" said the fox.', "Grandma made a big cake.",
    "There was a brave mouse named Pip.",
]

CHATS = [
    [("user", "Hi")],
    [("user", "Who are you?")],
    [("user", "Tell me a story about a dog.")],
    [("user", "What is a cat?")],
    [("user", "Lily had a red ball. She lost it in the park. Her friend Max found it under a tree. "
              "Who found the ball?")],
    [("user", "What do you like to do for fun?")],
    [("user", "Do you like apples?")],
    [("user", "I am sad.")],
    [("user", "My name is Anna."), ("assistant", "Hello, Anna! Nice to meet you."),
     ("user", "What is my name?")],
    [("user", "Thank you! Goodbye.")],
]

# Texts stay as they are, a number is a hole of that many tokens.
INFILLS = [
    ["Once upon a time, there was", 8, " who loved to", 6, "."],
    ["One day, Tom found", 8, " in the garden. He was very", 2, "."],
    ["Lily was sad because", 10, ". Her mom gave her", 6, "."],
    ["The cat", 8, " and then the dog", 8, "."],
    ['"Where is my', 2, '?" asked Ben. "It is', 6, '," said his dad.'],
    ["The little bird could not", 6, ". So her friend", 10, ". She was happy again."],
    ["In the morning", 10, ". In the evening", 10, "."],
    ["Max wanted to", 6, ", but it was too", 2, ". Then", 12, "."],
    ["The princess opened the", 4, " and saw", 8, ". What a surprise!"],
    ["They all", 8, ". From that day on, they", 10, "."],
]


def messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]
