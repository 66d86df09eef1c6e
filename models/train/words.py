"""The things own stories and chats are made of."""

GIRLS = "Lily Mia Anna Sue Emma Lucy Ella Rosie Nina Zoe Amy Kate Ruby Daisy Clara Molly".split()
BOYS = "Tom Tim Ben Max Sam Jack Leo Finn Joe Billy Noah Bob Dan Oscar Peter Luke Jim Toby".split()
ANIMAL_NAMES = "Spot Fluffy Pip Bruno Coco Nibbles Hoppy Whiskers Buddy Goldie Patch Rex".split()

ANIMALS = (
    "dog cat rabbit mouse bear fox bird duck frog squirrel lion elephant pig cow horse turtle owl "
    "monkey hedgehog fish sheep goat penguin bee"
).split()
CHILDREN = ["girl", "boy"]
TRAITS = (
    "kind brave shy curious clever happy small quiet cheerful gentle sleepy hungry playful careful "
    "stubborn friendly"
).split()
PLACES = {
    "forest": "in the forest", "park": "in the park", "garden": "in the garden",
    "farm": "on the farm", "beach": "at the beach", "village": "in the village",
    "river": "by the river", "lake": "by the lake", "hill": "on the hill",
    "school": "at school", "kitchen": "in the kitchen", "market": "at the market",
    "meadow": "in the meadow", "house": "in the old house", "barn": "in the barn",
}
# thing: (adjectives, the place it may hide, what one does with it)
THINGS = {
    "ball": ("red blue shiny round new", "under a bush", "play with it"),
    "kite": ("yellow big red long bright", "high up in a tree", "fly it"),
    "hat": ("green warm funny old blue", "behind a rock", "wear it"),
    "book": ("old big thick pretty new", "under the bed", "read it"),
    "boat": ("little wooden white blue fast", "in the tall grass", "sail it"),
    "drum": ("loud small red old round", "in a dark box", "play it"),
    "cake": ("sweet big chocolate warm round", "on a high shelf", "eat it"),
    "key": ("golden tiny old shiny silver", "in the mud", "open the box"),
    "shell": ("pink smooth pretty white round", "in the sand", "listen to it"),
    "flower": ("purple lovely tall yellow pretty", "behind the fence", "smell it"),
    "apple": ("red juicy sweet green big", "at the top of the tree", "eat it"),
    "doll": ("soft little pretty old lovely", "under a chair", "hug it"),
    "blanket": ("warm soft blue cozy old", "on the roof", "sleep under it"),
    "lamp": ("bright small yellow old pretty", "in a dark corner", "light the room"),
    "bell": ("silver loud little golden old", "in a deep hole", "ring it"),
    "basket": ("big brown round light old", "behind the door", "carry it"),
    "map": ("old secret big brown strange", "inside a tree", "follow it"),
    "star": ("bright paper golden little shiny", "at the bottom of the pond", "keep it"),
}
FEARS = {
    "the dark": "turned on a small light", "the deep water": "held a strong hand",
    "loud thunder": "sang a song together", "the big slide": "took one small step at a time",
    "the tall tree": "climbed one branch after the other",
    "the old bridge": "walked over it slowly",
}
SKILLS = {
    "swim": "splashed and sank", "ride a bike": "fell on the grass", "whistle": "only blew air",
    "sing": "sang much too low", "paint": "spilled all the paint", "bake bread": "burned the bread",
    "jump high": "landed in a puddle", "catch a ball": "dropped it every time",
    "dance": "tripped over both feet", "tie a knot": "made a big tangle",
}
FAMILY = ["mom", "dad", "grandma", "grandpa"]
WEATHER = ["It was a sunny day.", "The sky was blue.", "It was a cold morning.",
           "The wind was soft.",
           "It was raining a little.", "The sun was warm.", "Snow lay on the ground."]
LESSONS = {
    "share": ["It is more fun to share.", "Sharing makes everyone happy.",
              "A thing is twice as nice when you share it."],
    "brave": ["Being brave means trying even when you are scared.", "Even small ones can be brave.",
              "You can be scared and brave at the same time."],
    "try": ["If you keep trying, you will learn.", "Nobody is good at it on the first day.",
            "Practice makes it better every day."],
    "help": ["Good friends help each other.", "It is good to ask for help.",
             "A kind word can change the whole day."],
    "honest": ["It is always better to tell the truth.", "The truth makes your heart light.",
               "When you say sorry and mean it, people listen."],
}

COLOURS = "red blue green yellow purple orange pink white black brown".split()
FOODS = ("apples pizza soup cake bread cookies pancakes carrots strawberries cheese noodles honey "
         "rice bananas ice cream").replace("ice cream", "ice_cream").split()
HOBBIES = ["reading", "singing", "drawing", "playing outside", "swimming", "baking", "dancing",
           "riding a bike", "looking at the stars", "playing music", "gardening", "hiking",
           "playing football", "watching movies", "cooking"]
SOUNDS = {"dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa",
          "pig": "oink",
          "bee": "buzz", "owl": "hoot", "lion": "roar", "frog": "ribbit", "mouse": "squeak",
          "horse": "neigh", "bird": "tweet", "rooster": "cock-a-doodle-doo"}
LEGS = {"dog": "four", "cat": "four", "cow": "four", "horse": "four", "bird": "two", "duck": "two",
        "spider": "eight", "bee": "six", "ant": "six", "fish": "no", "snake": "no",
        "rabbit": "four",
        "person": "two", "frog": "four", "pig": "four", "sheep": "four"}
OPPOSITES = {"big": "small", "hot": "cold", "up": "down", "happy": "sad", "fast": "slow",
             "day": "night", "open": "closed", "wet": "dry", "old": "young", "loud": "quiet",
             "light": "dark", "good": "bad", "long": "short", "hard": "soft", "full": "empty"}
COLOUR_OF = {"the sky": "blue", "grass": "green", "snow": "white", "a banana": "yellow",
             "the sun": "yellow", "a strawberry": "red", "a carrot": "orange", "milk": "white",
             "a tree": "green and brown", "the night": "black", "a frog": "green",
             "a fire truck": "red",
             "a lemon": "yellow", "chocolate": "brown", "an elephant": "grey", "the sea": "blue"}
LIVES = {"fish": "in the water", "bird": "in a nest", "bear": "in the forest", "bee": "in a hive",
         "cow": "on a farm", "lion": "in the grassland", "penguin": "where it is cold",
         "rabbit": "in a hole in the ground", "frog": "near a pond", "monkey": "in the trees",
         "owl": "in a tree", "whale": "in the sea", "pig": "on a farm", "camel": "in the desert"}
EATS = {"dog": "meat and bones", "cat": "fish and meat", "cow": "grass",
        "rabbit": "carrots and grass",
        "bird": "seeds and worms", "bear": "fish and honey", "monkey": "bananas",
        "horse": "hay and apples", "mouse": "cheese and seeds", "lion": "meat", "frog": "flies",
        "squirrel": "nuts", "panda": "bamboo", "duck": "bread and water plants"}
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun
