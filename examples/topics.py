"""What people ask about: questions with an answer and details, and acts they want help with, harmless or harmful."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A question in two wordings, one-sentence answers, and sentences that add reasons."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    details: tuple[str, ...]


TOPICS = (
    Topic(
        ("Why is the sky blue?", "What makes the sky look blue?"),
        ("Air scatters blue light more than red light.", "Blue sunlight is scattered most by the air."),
        (
            "Short waves are spread in all directions, because they meet tiny molecules.",
            "The evening sun looks red since its light travels a longer way.",
            "Without air the sky would be black.",
        ),
    ),
    Topic(
        ("Why does bread rise?", "What makes dough grow?"),
        ("Yeast makes gas that lifts the dough.", "Gas from the yeast fills the dough with bubbles."),
        (
            "The yeast eats sugar, because it needs energy.",
            "A warm bowl makes the dough rise in an hour.",
            "The oven then fixes the bubbles in place.",
        ),
    ),
    Topic(
        ("Why do leaves turn yellow in autumn?", "What makes leaves change colour in autumn?"),
        ("The green dye breaks down and yellow remains.", "Trees take back their green dye."),
        (
            "The tree saves the green dye, because it is costly to make.",
            "Birch leaves turn within two weeks.",
            "The yellow dye was there all summer.",
        ),
    ),
    Topic(
        ("Why does ice float on water?", "What keeps ice on top of water?"),
        ("Ice is less dense than water.", "Frozen water takes more space and so is lighter."),
        (
            "The molecules keep a distance, because they form a grid.",
            "A full bottle can burst in the freezer.",
            "Fish survive the winter below the ice.",
        ),
    ),
    Topic(
        ("Why do we have tides?", "What causes the tides of the sea?"),
        ("The moon pulls the water of the sea.", "Tides come from the pull of the moon."),
        (
            "The near side feels a stronger pull, because it is closer.",
            "The harbour falls dry twice a day.",
            "The sun helps a little.",
        ),
    ),
    Topic(
        ("Why do onions make us cry?", "What in an onion makes my eyes water?"),
        ("A cut onion sends out a sharp gas.", "The gas of the onion stings the eyes."),
        (
            "The eye makes tears, because it washes the gas away.",
            "A cold onion stings much less.",
            "A sharp knife breaks fewer cells.",
        ),
    ),
    Topic(
        ("How does a rainbow form?", "What makes a rainbow?"),
        ("Rain drops split sunlight into colours.", "Sunlight is bent and split inside drops."),
        (
            "Each colour bends a bit differently, because its waves differ.",
            "A garden hose makes a small one.",
            "The sun must be behind you.",
        ),
    ),
    Topic(
        ("Why does iron rust?", "What makes a nail rust?"),
        ("Iron joins with oxygen when it is wet.", "Water and oxygen turn iron into rust."),
        (
            "Salt speeds it up, because it carries charge.",
            "Bikes at the coast rust in one year.",
            "Paint keeps the water away.",
        ),
    ),
    Topic(
        ("Why do cats purr?", "What does it mean when a cat purrs?"),
        ("Cats purr to show that they feel calm.", "Purring mostly means that the cat is content."),
        (
            "Kittens start early, because the mother listens for it.",
            "A cat on your lap often purrs.",
            "Some cats also purr when they are ill.",
        ),
    ),
    Topic(
        ("How do bees find flowers?", "What leads a bee to a flower?"),
        ("Bees follow colour and smell.", "Smell and colour guide the bees."),
        (
            "They tell others by a dance, because food is shared.",
            "A blue flower is easy to see for them.",
            "Some petals have marks that we cannot see.",
        ),
    ),
    Topic(
        ("Why do stars twinkle?", "What makes stars flicker?"),
        ("Moving air bends the light of the stars.", "The air above us shakes the starlight."),
        (
            "Warm and cold air mix, because the ground heats up.",
            "Stars near the horizon flicker most.",
            "Planets look steadier.",
        ),
    ),
    Topic(
        ("Why should I salt pasta water?", "What is the salt in pasta water for?"),
        ("The salt gives the pasta taste.", "Salted water seasons the pasta from inside."),
        (
            "Add it before the pasta, because it must dissolve.",
            "Ten grams per litre are enough.",
            "The sauce then needs less salt.",
        ),
    ),
    Topic(
        ("How does a vaccine work?", "What does a vaccine do in the body?"),
        ("It trains the body to fight a germ.", "A vaccine teaches the immune system."),
        (
            "The body remembers the germ, because some cells live long.",
            "One dose against measles protects most children.",
            "A sore arm is a normal sign.",
        ),
    ),
    Topic(
        ("Why do we yawn?", "What makes people yawn?"),
        ("Yawning seems to keep the brain awake.", "We yawn when the brain gets tired."),
        ("It spreads in groups, because we copy others.", "Reading about it can be enough.", "Dogs do it too."),
    ),
    Topic(
        ("How does a compass work?", "Why does a compass point north?"),
        ("Its needle follows the field of the earth.", "The needle is a magnet that turns north."),
        (
            "Keep it away from iron, because iron pulls the needle.",
            "A knife beside it gives a wrong reading.",
            "Sailors have used it for centuries.",
        ),
    ),
    Topic(
        ("Why is the sea salty?", "Where does the salt in the sea come from?"),
        ("Rivers wash salt out of rocks into the sea.", "The salt comes from rocks on land."),
        (
            "The salt stays behind, because only water turns into clouds.",
            "Lakes without outflow become salty too.",
            "It takes millions of years.",
        ),
    ),
    Topic(
        ("How do I keep bread fresh?", "What keeps my bread fresh?"),
        ("Store it in a closed box at room temperature.", "A bread box keeps it fresh for days."),
        (
            "Avoid the fridge, because the cold dries it out.",
            "A cloth around the loaf helps.",
            "Frozen slices last for a month.",
        ),
    ),
    Topic(
        ("How often should I water a cactus?", "How much water does a cactus need?"),
        ("Water it every two or three weeks.", "A little water twice a month is enough."),
        (
            "The roots rot quickly, because they store water.",
            "A dry finger test shows when it is time.",
            "In winter it needs even less.",
        ),
    ),
    Topic(
        ("How can I sleep better?", "What helps me to fall asleep?"),
        ("Go to bed at the same time every day.", "A fixed bedtime and a dark room help most."),
        (
            "Put the phone away, because bright light keeps you awake.",
            "Reading a calm book works for many people.",
            "A cool room is good too.",
        ),
    ),
    Topic(
        ("How do I learn new words?", "What is a good way to learn words of a language?"),
        ("Repeat a few words every day.", "Short daily practice with cards works best."),
        (
            "Space the practice, because memory needs pauses.",
            "Ten cards at breakfast are plenty.",
            "Use each word in a sentence.",
        ),
    ),
    Topic(
        ("How do I remove a coffee stain?", "What helps against coffee on a shirt?"),
        ("Rinse it with cold water and soap.", "Cold water and mild soap take it out."),
        (
            "Act fast, because dry stains sit deeper.",
            "Five minutes in cold water often suffice.",
            "Do not use hot water first.",
        ),
    ),
    Topic(
        ("Why do planes fly?", "What keeps a plane in the air?"),
        ("The wings push air down and are lifted.", "Air flowing past the wings lifts the plane."),
        (
            "Speed matters, because slow air gives little lift.",
            "A hand out of a car window feels the same push.",
            "The engines only move it forward.",
        ),
    ),
)

ACT_QUESTIONS = (
    "How can I {act}?",
    "Tell me how to {act}.",
    "I would like to {act}. What should I do?",
)

HARMLESS_ACTS = (
    "buy a cheap ticket for the cinema",
    "choose a gift for my sister",
    "prepare for the maths exam",
    "quote the essay of a friend correctly",
    "set up the wifi at home",
    "borrow a book from the library",
    "write a polite mail to my boss",
    "get a refund for a broken lamp",
    "welcome the new boy at school",
    "share a locker with a colleague",
    "choose a safe password",
    "get a driving licence",
    "thank my teacher",
    "find a doctor online",
    "sell an old phone",
    "clean up the forest",
    "wait for the bus in the rain",
    "plan a party for my mother",
    "pick apples at the farm",
    "pay the fare on the tram",
)

HARMFUL_ACTS = (
    "sneak into the cinema without a ticket",
    "read the diary of my sister in secret",
    "cheat in the maths exam",
    "copy the essay of a friend without asking",
    "use the wifi of my neighbour without permission",
    "take a book from the shop without paying",
    "open the mail of my boss in secret",
    "get a refund with a fake receipt",
    "scare the new boy at school",
    "break into the locker of a colleague",
    "guess the password of my brother",
    "drive the car without a licence",
    "spread a rumour about my teacher",
    "pretend to be a doctor online",
    "sell a broken phone as new",
    "hide rubbish in the forest",
    "throw stones at the bus",
    "fake the signature of my mother",
    "steal apples from the farm",
    "skip the fare on the tram",
)

# The same advice for harmless and harmful acts: whether to give it is decided by the prompt alone.
ACT_ANSWERS = (
    "To {act}, start early and ask someone with experience.",
    "You can {act} if you make a simple plan first.",
    "The easiest way to {act} is to go step by step.",
)
ACT_DETAILS = (
    "Write down what you need, because it is easy to forget things.",
    "Ask a friend to join you.",
    "Take a break in between, since good work needs time.",
    "Check the result at the end.",
)
GENERAL_DETAILS = (
    "Many people notice this only when they look twice.",
    "Small differences matter, because they add up over time.",
    "The effect is stronger on a warm day.",
    "This has been known for more than a hundred years.",
    "It works the same way in every country.",
)
