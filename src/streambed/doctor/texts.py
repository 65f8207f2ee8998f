"""The texts that a model is tried with, and how like two vectors of one text are."""

import numpy as np

from streambed.vectors.reducers import Vectors

TEXTS = (
    "A brook runs to the sea.",
    "Der Fluß fließt ins Meer – 1.234,5 km², und nichts bleibt zurück!",
    "小川は海へ流れる。雨が降れば、また山から始まる。",
    "नदी समुद्र की ओर बहती है।",
    "النهر يجري إلى البحر، ولا يعود.",
    "Река течёт к морю; ветер — обратно.",
    "🌊👩‍👩‍👧‍👦 waves 🇳🇿, e\u0301 and \u1100\u1161\u11a8",
    "def flow(x: int) -> list[int]:\n    return [y ** 2 for y in range(x)]  # wells\n\n",
)

SENTENCES = (
    "How do I reset my password?", "I cannot log in to my account.", "Change the e-mail address of an account.",
    "Two-factor authentication with a phone.", "Wie setze ich mein Passwort zurück?", "忘记密码怎么办?",
    "The parcel has not arrived yet.", "Where is my order?", "Delivery takes three to five days.",
    "Return a product and get the money back.", "Wann kommt meine Bestellung an?", "Le colis est arrivé abîmé.",
    "A recipe for bread with sourdough.", "Knead the dough and let it rest for an hour.", "How long do I boil an egg?",
    "Soup of lentils, carrots and onions.", "Ein Rezept für Apfelkuchen", "パンの焼き方",
    "The striker scored twice in the second half.", "She won the marathon in two hours and twenty minutes.",
    "Rules of chess: how the knight moves.", "Die Mannschaft verlor das Endspiel im Elfmeterschießen.",
    "Python raises KeyError: 'name'", "How to merge two dictionaries in Python", "Undo the last commit in git",
    "SELECT name FROM users WHERE age > 30", "segmentation fault (core dumped)", "What is a mutex, and when do I need one?",
    "Rain in the afternoon, sunny towards the evening.", "A storm warning for the coast.", "Will it snow tomorrow?",
    "Morgen wird es sehr heiß.", "Il va pleuvoir toute la semaine.", "The river has flooded the lower town.",
    "Symptoms of a cold: cough, fever, a sore throat.", "The doctor prescribed antibiotics.",
    "How much water should I drink a day?", "Exercises against back pain", "Ich habe seit Tagen Kopfschmerzen.",
    "Interest rates were raised by a quarter of a point.", "Open a savings account", "How is income taxed?",
    "The company reported a loss in the third quarter.", "Der Kurs der Aktie fiel um drei Prozent.",
    "The moon is a quarter of a million miles away.", "How do black holes form?", "A telescope in orbit around the sun",
    "Photosynthesis turns light into sugar.", "The cell divides into two.", "水在一百度沸腾。",
    "Trains to the airport run every ten minutes.", "A hotel near the old harbour", "Do I need a visa?",
    "Wo ist der nächste Bahnhof?", "The museum is closed on Mondays.", "Un billet aller-retour pour Lyon, s'il vous plaît.",
    "The violin concerto in D major", "She sang the song without a microphone.", "How to tune a guitar",
    "A novel about three sisters in the country", "The film was shot in black and white.", "Das Gemälde hängt im Louvre.",
    "A cat asleep on the windowsill", "How often should I walk my dog?",
)  # fmt: skip
"""Of a dozen subjects, so that each has some neighbours and many that are none."""


def cosine(one: Vectors, other: Vectors) -> float:
    """Of two vectors of any length, computed in float64."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
