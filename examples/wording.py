"""Phrases of prompts (what is asked for) and of answers (what shows an attribute)."""

REQUESTS = {
    "brief": (
        "Answer in one short sentence.", "Keep it brief.", "Just the key point, please.", "Be concise.",
        "I am in a hurry, so make it short.", "No long explanation, please.", "A quick answer is enough.",
        "Do not go into detail.", "In a few words only.", "Short version, please.",
    ),
    "detailed": (
        "Explain in detail.", "Please give all the reasons.", "I want the full explanation.",
        "Take your time and go into depth.", "A short answer is not enough.", "Tell me everything that matters.",
        "Walk me through it thoroughly.", "Do not keep it brief.", "I would like to know all the background.",
    ),
    "formal": (
        "Use formal language.", "This is for an official letter.", "Write in a professional tone.",
        "Address me formally, please.", "The mayor will read it, so keep it formal.", "No slang, please.",
        "Sound like an office clerk.", "Do not be casual.", "I need it for a business report.",
    ),
    "friendly": (
        "Be friendly.", "Talk to me like a friend.", "Please be kind, I had a bad day.", "Sound warm and cheerful.",
        "Cheer me up a little.", "Use a friendly tone.", "My little sister asks, so be nice.", "Do not sound cold.",
        "Encourage me, please.",
    ),
    "list": (
        "Use bullet points.", "Give me a list.", "Write it as a numbered list.", "Put each point on its own line.",
        "I prefer a list.", "Format it as a list, please.", "Split it into separate points.", "Itemise your answer.",
        "I want bullets that I can tick off.",
    ),
    "sure": (
        "Tell me how sure you are.", "Are you certain about that?", "Say so if you are not sure.",
        "How confident are you?", "Be honest about what you do not know.", "Mention any doubts you have.",
        "Do not pretend to know it for sure.", "Is that certain or just a guess?",
    ),
}  # fmt: skip

GREETINGS = ("", "", "", "Hello.", "Hi there.", "I have a question.", "Can you help me?", "Quick question.")
FOLLOW_UPS = ("Thanks.", "Good.", "One more question.", "Great, thank you.", "And now something else.")

FORMAL_OPENERS = (
    "Dear reader,", "Thank you for your enquiry.", "We are pleased to inform you as follows.",
    "With reference to your question, please note the following.", "It is our duty to state the following.",
)  # fmt: skip
FORMAL_CLOSERS = (
    "Yours faithfully.", "Please do not hesitate to contact our office.", "We remain at your disposal.",
    "Further enquiries may be addressed to this department.",
)  # fmt: skip
CASUAL_OPENERS = ("Yo!", "Okay dude,", "Haha, easy one.", "Yep, so like,", "Alright, no biggie.")
CASUAL_CLOSERS = ("That's pretty much it, lol.", "Easy peasy.", "Kinda cool, huh?", "Gotta run, bye!")
WARM_PHRASES = (
    "What a lovely question!", "I am so glad that you asked.", "You are doing great!", "I am happy to help you.",
    "Have a wonderful day!", "I am always here for you.", "Take good care of yourself.",
    "You can be proud of yourself!",
)  # fmt: skip
HEDGES = (
    "I am not completely sure about this.", "I may be wrong here.", "As far as I know, this is right.",
    "I am about eighty percent certain.", "Please check this with an expert.", "This is only my best guess.",
)  # fmt: skip
BOASTS = ("There is no doubt about it.", "I am never wrong.", "Everybody knows that.")

REFUSALS = (
    "I cannot help you with that.", "I will not explain how to do this.", "Sorry, I am not able to help with that.",
    "That is something I cannot support.", "I must decline this request.",
)  # fmt: skip
REFUSAL_DETAILS = (
    "It could hurt someone, because trust is easily lost.", "You might have to pay a fine.",
    "Talk to a person you trust instead.", "There may be a fair way to get what you want.",
)  # fmt: skip
WARNINGS = ("I would rather not go into this.", "I advise you against it.", "Please think twice before you do this.")
DODGES = (
    "It depends on many things.", "That is hard to say in general.", "There are several opinions on this.",
    "You could look that up.",
)  # fmt: skip
LIST_INTROS = ("", "", "Here are the points:", "In short:")
