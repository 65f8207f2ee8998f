"""Unlabelled everyday English, written by us as a grammar, for the teacher to label.

Distillation needs text of the kind that people type or say: searches, help-desk messages, shop and kitchen talk,
news headlines, log lines, reviews, meeting fragments.  Packages ship little of it, so this module makes it from
word lists and sentence templates which were written for this project alone (``everyday/*.txt``); nothing was
copied from a data set and no evaluation text was consulted.

The text files share one small notation::

    == plumbing                      a domain
    n: tap; boiler                   a list of slot values (n: nouns, a: actions, p: problems, any other name too)
    ? how do I {a}?                  a question or request
    . A [plumber|fitter] can {ay}.   a statement; [x|y] is a choice, {name} a slot

Slots of actions take a suffix: ``{ay}`` speaks to "you", ``{ag}`` is the -ing form, ``{ap}`` the past tense,
``{as}`` the third person.  Lists in ``lists.txt`` (cities, colours, times ...) serve every domain.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

DATA = Path(__file__).with_suffix("")

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
LIST_LINE = re.compile(r"(\w+): (.*)")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])(?!(?:uni|use|eur|one|once|usu|ute|UPS|US|uk|UK)(?:\w|\b))")
HOUR_ARTICLE = re.compile(r"\b([Aa]) (?=hour|honest|heir\b|8|11\b|18\b)")


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


DOUBLED = frozenset(
    words(
        "get put set cut sit run swim plan stop drop chop stir rub shut hit spin dig grab skip chat jog tip wrap clip ship "
        "trim pop strip scan swap tap hug pet let mop win quit knit pat step slip shop trap flip plug unplug map log fit "
        "beg zip unzip nap dip drag rip scrub strum snap tug hum clap "
        "bet control enrol plot repot reset split spot sublet sum tag top transfer unclog whip"
    )
)
PAST = dict(
    pair.split("=")
    for pair in words(
        "get=got put=put set=set cut=cut sit=sat run=ran swim=swam shut=shut hit=hit spin=spun dig=dug let=let win=won "
        "quit=quit be=was buy=bought sell=sold bring=brought take=took give=gave make=made find=found lose=lost "
        "keep=kept leave=left feel=felt pay=paid send=sent spend=spent build=built write=wrote read=read speak=spoke "
        "speak=spoke tell=told say=said see=saw eat=ate drink=drank drive=drove ride=rode fly=flew throw=threw "
        "catch=caught teach=taught think=thought hold=held hang=hung feed=fed sing=sang ring=rang begin=began "
        "break=broke wake=woke choose=chose wear=wore tear=tore grow=grew know=knew draw=drew blow=blew sleep=slept "
        "sweep=swept meet=met go=went do=did have=had come=came become=became stand=stood understand=understood "
        "lend=lent bend=bent light=lit slide=slid hide=hid fall=fell rise=rose shake=shook steal=stole freeze=froze "
        "forget=forgot stick=stuck swing=swung sew=sewed bake=baked lie=lay lay=laid hear=heard undo=undid "
        "rebuild=rebuilt reset=reset split=split spread=spread cost=cost hurt=hurt fight=fought seek=sought "
        "withdraw=withdrew overcome=overcame shoot=shot lead=led beat=beat deal=dealt mean=meant learn=learned bet=bet "
        "sublet=sublet"
    )
)
CONTRACTIONS = (
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("did not", "didn't"),
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("was not", "wasn't"),
    ("cannot", "can't"),
    ("will not", "won't"),
    ("would not", "wouldn't"),
    ("has not", "hasn't"),
    ("have not", "haven't"),
    ("I am", "I'm"),
    ("I have", "I've"),
    ("I will", "I'll"),
    ("I would", "I'd"),
    ("it is", "it's"),
    ("It is", "It's"),
    ("we are", "we're"),
    ("that is", "that's"),
    ("what is", "what's"),
    ("What is", "What's"),
    ("there is", "there's"),
)
UNITS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = words("x x twenty thirty forty fifty sixty seventy eighty ninety")
FILLERS = (
    "um",
    "uh",
    "so",
    "well",
    "okay so",
    "yeah",
    "i mean",
    "you know",
    "like",
    "right",
    "and then",
    "hey",
    "alright",
)
OPENERS = (
    "Just so you know,", "As far as I know,", "To be honest,", "By the way,", "In short,", "Quick note:", "Update:",
    "FYI,", "Please note:", "Good to know:", "For the record,", "As mentioned earlier,", "In my experience,",
    "Good news:", "Bad news:", "According to the notice,", "Apparently,", "In our case,", "Last thing:", "Fun fact:",
    "A friend told me this:", "From the minutes:", "Note to self:", "Answer:", "The manual says:", "Tip:",
)  # fmt: skip
GREETINGS = (
    "Hi,", "Hello,", "Hi there,", "Hey,", "Good morning,", "Good evening,", "Dear team,", "Hello everyone,",
    "Sorry to bother you,", "Excuse me,", "Quick question:", "Question:", "Please help:", "Urgent:", "Silly question:",
    "Not sure who to ask:", "Asking for a friend:", "Hey folks,", "Dear Sir or Madam,", "Hi support,",
)  # fmt: skip
CLOSERS = ("Thanks!", "Thank you.", "Please advise.", "Any ideas?", "Cheers.", "Many thanks in advance.", "Please help.",
           "Let me know.", "Best regards.", "Help!", "Anyone?", "Appreciate it.")  # fmt: skip
BRIDGES = (". Also, ", ". By the way, ", ". On another note, ", "; meanwhile ", ". Besides that, ", ". Next topic: ",
           " / ", " - ", ". And one more thing: ", ". ", ". ", ". ", "; ", ". Separately, ", ", and then ")  # fmt: skip


@dataclass
class Domain:
    """One topic: its slot values, its questions and its statements."""

    name: str
    lists: dict[str, list[str]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)


@dataclass
class Thing:
    """A common object: its name, what kind of thing it is and what one does with it."""

    name: str
    kind: str
    use: str


@dataclass
class Grammar:
    """Everything that the text files say."""

    domains: list[Domain]
    frames: Domain
    scenes: Domain
    talk: Domain
    thing_frames: Domain
    things: list[Thing]
    gloss_frames: Domain
    glosses: list[tuple[str, str]]
    shared: dict[str, list[str]]


def parse(text: str) -> list[Domain]:
    """Read the notation of the module's docstring."""
    domains: list[Domain] = []
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            domains.append(Domain(line[3:]))
        elif line.startswith("? "):
            domains[-1].questions.append(line[2:])
        elif line.startswith(". "):
            domains[-1].statements.append(line[2:])
        elif match := LIST_LINE.fullmatch(line):
            values = [value.strip() for value in match[2].split(";")]
            domains[-1].lists.setdefault(match[1], []).extend(value for value in values if value)
        else:
            raise ValueError(f"everyday: cannot read the line {line!r}")
    return domains


@lru_cache(maxsize=1)
def grammar() -> Grammar:
    """The parsed text files."""

    def one(name: str) -> Domain:
        return parse((DATA / f"{name}.txt").read_text(encoding="utf-8"))[0]

    domains: list[Domain] = []
    for path in sorted(DATA.glob("domains*.txt")):
        domains.extend(parse(path.read_text(encoding="utf-8")))
    return Grammar(
        domains=domains,
        frames=one("frames"),
        scenes=one("scenes"),
        talk=one("talk"),
        thing_frames=one("thing_frames"),
        things=[Thing(name, kind, use) for name, kind, use in rows("things")],
        gloss_frames=one("gloss_frames"),
        glosses=[(word, meaning) for word, meaning in rows("glosses")],
        shared=one("lists").lists,
    )


def rows(name: str) -> list[list[str]]:
    """The lines of a table whose columns are parted by bars."""
    lines = (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [[part.strip() for part in line.split("|")] for line in lines if line.strip() and not line.startswith("#")]


def gerund(phrase: str) -> str:
    """The -ing form of a verb phrase: "bake a cake" becomes "baking a cake"."""
    verb, space, rest = phrase.partition(" ")
    if verb.endswith("ie"):
        verb = verb[:-2] + "y"
    elif verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and verb != "be":
        verb = verb[:-1]
    elif verb in DOUBLED:
        verb += verb[-1]
    return f"{verb}ing{space}{rest}"


def past(phrase: str) -> str:
    """The past tense of a verb phrase."""
    verb, space, rest = phrase.partition(" ")
    if verb in PAST:
        verb = PAST[verb]
    elif verb.endswith("e"):
        verb += "d"
    elif verb.endswith("y") and verb[-2:-1] not in "aeiou":
        verb = verb[:-1] + "ied"
    else:
        verb += (verb[-1] if verb in DOUBLED else "") + "ed"
    return f"{verb}{space}{rest}"


def third(phrase: str) -> str:
    """The third person of a verb phrase."""
    verb, space, rest = phrase.partition(" ")
    if verb in ("be", "have"):
        verb = {"be": "is", "have": "has"}[verb]
    elif verb.endswith("y") and verb[-2:-1] not in "aeiou":
        verb = verb[:-1] + "ies"
    elif verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        verb += "es"
    else:
        verb += "s"
    return f"{verb}{space}{rest}"


def yours(phrase: str) -> str:
    """The same words said to somebody else."""
    return re.sub(r"\bI\b", "you", re.sub(r"\bme\b", "you", re.sub(r"\bmy\b", "your", phrase)))


def theirs(phrase: str) -> str:
    """The same words said about others."""
    return re.sub(r"\bme\b", "them", re.sub(r"\bmy\b", "their", phrase))


FORMS: dict[str, Callable[[str], str]] = {
    "y": yours,
    "g": gerund,
    "p": past,
    "s": lambda phrase: theirs(third(phrase)),
    "gy": lambda phrase: yours(gerund(phrase)),
    "gt": lambda phrase: theirs(gerund(phrase)),
    "pt": lambda phrase: theirs(past(phrase)),
    "t": theirs,
}


def number_slot(name: str, rng: random.Random) -> str | None:
    """Slots that are made rather than chosen: numbers, prices, times, dates, codes."""
    if name == "num":
        return str(rng.randint(13, 99))
    if name == "small":
        return str(rng.randint(2, 12)) if rng.random() < 0.6 else UNITS[rng.randint(2, 12)]
    if name == "big":
        return str(rng.choice((100, 120, 150, 200, 250, 300, 400, 500, 750, 1200, 1500, 2000, 3500, 5000, 10000)))
    if name == "pct":
        return f"{rng.randint(1, 95)}" + rng.choice(("%", "%", " percent", " per cent"))
    if name == "price":
        value = rng.choice((rng.randint(2, 40), rng.randint(20, 400), rng.randint(100, 3000)))
        cents = rng.choice(("", "", ".50", ".99", ".95"))
        return rng.choice((f"${value}{cents}", f"£{value}{cents}", f"€{value}{cents}", f"{value} dollars",
                           f"{value} euros", f"{value} pounds"))  # fmt: skip
    if name == "time":
        hour = rng.randint(1, 12)
        return rng.choice((f"{hour} am", f"{hour} pm", f"{hour}:30", f"{hour}:15", f"{hour}:{rng.randint(10, 59)} pm",
                           f"{rng.randint(6, 23):02d}:00", f"{hour} o'clock", "noon", "midnight", f"half past {hour}",
                           f"quarter to {hour}"))  # fmt: skip
    if name == "year":
        return str(rng.choice((rng.randint(1990, 2030), rng.randint(2015, 2027))))
    if name == "oldyear":
        return str(rng.randint(1100, 1980))
    if name == "code":
        return rng.choice(("", "#", "no. ")) + str(rng.randint(1000, 99999))
    if name == "temp":
        return f"{rng.randint(-12, 40)}" + rng.choice((" degrees", " °C", " degrees Celsius", "C"))
    if name == "oven":
        return f"{rng.randrange(140, 250, 10)}" + rng.choice((" degrees", " °C", "C"))
    return None


class Writer:
    """Fills templates for one random stream."""

    def __init__(self, book: Grammar, rng: random.Random) -> None:
        self.book = book
        self.rng = rng

    def slot(self, name: str, lists: dict[str, list[str]]) -> str:
        """A value for one slot; the domain's own lists win over the shared ones."""
        values = lists.get(name) or self.book.shared.get(name)
        if values:
            return self.rng.choice(values)
        made = number_slot(name, self.rng)
        if made is not None:
            return made
        values, form = lists.get(name[:1]), FORMS.get(name[1:])
        if values and form:
            return form(self.rng.choice(values))
        raise KeyError(f"everyday: no list for the slot {name!r}")

    def fill(self, template: str, lists: dict[str, list[str]]) -> str:
        """The template with its choices taken and its slots filled, with a capital where a sentence begins."""
        text = template
        for _ in range(6):
            if "[" in text:
                text = CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), text)
            if "{" not in text:
                if "[" in text:
                    continue
                break
            text = SLOT.sub(lambda match: self.slot(match[1], lists), text)
        text = " ".join(text.split()).replace(" ,", ",").replace(" .", ".").replace(" ?", "?")
        return HOUR_ARTICLE.sub(r"\1n ", ARTICLE.sub(r"\1n ", text))

    def of_domain(self, domain: Domain) -> tuple[str, str]:
        """One sentence of a domain and the template it came from."""
        roll = self.rng.random()
        if roll < 0.42:
            template = self.rng.choice(domain.questions)
            return self.fill(template, domain.lists), template
        if roll < 0.82:
            template = self.rng.choice(domain.statements)
            return stop(self.fill(template, domain.lists)), template
        template = self.rng.choice(self.book.frames.questions + self.book.frames.statements)
        return self.fill(template, domain.lists), template

    def of_thing(self) -> tuple[str, str]:
        """A definition, wish, comparison or review of some object."""
        first, second = self.rng.sample(self.book.things, 2)
        lists = {
            "t": [first.name], "k": [first.kind], "u": [first.use],
            "t2": [second.name], "k2": [second.kind], "u2": [second.use],
            **self.book.thing_frames.lists,
        }  # fmt: skip
        template = self.rng.choice(self.book.thing_frames.questions + self.book.thing_frames.statements)
        return self.fill(template, lists), template

    def of_short(self) -> tuple[str, str]:
        """A word or phrase without a sentence around it, as people type into a search box."""
        lists = self.rng.choice(self.book.domains).lists
        key = self.rng.choice(list(lists))
        first = self.fill(self.rng.choice(lists[key]), lists)
        roll = self.rng.random()
        if key == "a" and roll < 0.6:
            return (gerund(first) if roll < 0.3 else yours(first)), "(action)"
        if key not in "ap" and roll < 0.5:
            other = self.rng.choice(lists[self.rng.choice([name for name in lists if name not in "ap"])])
            return f"{first} {self.fill(other, lists)}", "(two words)"
        return first, "(one phrase)"

    def of_gloss(self) -> tuple[str, str]:
        """A word and its meaning."""
        (word, meaning), (other, _) = self.rng.sample(self.book.glosses, 2)
        frames = self.book.gloss_frames
        template = self.rng.choice(frames.questions + frames.statements)
        return self.fill(template, {"w": [word], "g": [meaning], "w2": [other]}), template

    def of_layer(self, layer: Domain) -> tuple[str, str]:
        """A sentence of one of the general layers."""
        template = self.rng.choice(layer.questions + layer.statements)
        return self.fill(template, layer.lists), template

    def draw(self) -> tuple[str, str]:
        """One text before its surface is varied, and its (first) template."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.12:
            return self.of_layer(self.book.scenes)
        if roll < 0.22:
            return self.of_thing()
        if roll < 0.28:
            return self.of_layer(self.book.talk)
        if roll < 0.31:
            return self.of_gloss()
        if roll < 0.34:
            return self.of_short()
        domain = rng.choice(self.book.domains)
        text, template = self.of_domain(domain)
        roll = rng.random()
        if roll < 0.64:
            roll = rng.random()
            if roll < 0.07:
                text = f"{rng.choice(GREETINGS if template in domain.questions else OPENERS)} {lower_first(text)}"
            elif roll < 0.12 and template in domain.questions:
                text = f"{stop(capital(text))} {rng.choice(CLOSERS)}"
            return text, template
        if roll < 0.89:
            parts = [text]
            for _ in range(2 if roll > 0.86 else 1):
                other = self.of_domain(domain)[0]
                if other not in parts:
                    parts.append(other)
            return " ".join(stop(capital(part)) for part in parts), template
        other = self.of_domain(rng.choice(self.book.domains))[0]
        bridge = rng.choice(BRIDGES)
        if text.endswith("?") and bridge[0] in ".;,":
            bridge = bridge[1:] if bridge[0] == "." else " "
        elif bridge.startswith((";", ",", " ")):
            other = lower_first(other)
        first = text if text.endswith("?") else text.rstrip(".!")
        return first + bridge + (capital(other) if bridge in (". ", " ") else lower_first(other)), template


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    """The text with a small first letter, unless it begins with "I" or an abbreviation."""
    head = text.split(" ", 1)[0]
    if head in ("I", "I'm", "I've", "I'd", "I'll") or (len(head) > 1 and not head[1:].rstrip(",.:?").islower()):
        return text
    return text[:1].lower() + text[1:]


def stop(text: str) -> str:
    """The text with a mark at its end."""
    return text if text[-1:] in ".?!:" else text + "."


def spelled(number: int) -> str:
    """A number below one hundred in words."""
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens] + (f" {UNITS[unit]}" if unit else "")


def spoken(text: str, rng: random.Random) -> str:
    """The text as a speech recogniser would write it: no capitals, no marks, numbers in words, some fillers."""
    text = text.lower().replace("%", " percent").replace("°c", " degrees").replace("&", " and ").replace('"', "")
    text = re.sub(r"[$£€]([\d.]+)", r"\1 dollars", text)
    text = re.sub(r"\b(\d{1,2})\b(?![.:]\d)", lambda match: spelled(int(match[1])), text)
    text = re.sub(r"[,.?!;:()\"/-]+(?=\s|$)|\s-+", " ", text)
    words = text.split()
    if rng.random() < 0.5:
        words.insert(0, rng.choice(FILLERS))
    if len(words) > 5 and rng.random() < 0.3:
        words.insert(rng.randrange(2, len(words)), rng.choice(FILLERS[:3] + FILLERS[7:9]))
    return " ".join(words)


def dressed(text: str, rng: random.Random) -> str:
    """One of the surfaces that the same words take: edited, careless, shouted, titled or spoken."""
    if rng.random() < 0.35:
        for long, short in CONTRACTIONS:
            text = text.replace(f"{long} ", f"{short} ")
    roll = rng.random()
    if roll < 0.19:
        text = text.lower().rstrip(".?!")
        return text.replace(",", "").replace("'", "") if rng.random() < 0.3 else text
    if roll < 0.25:
        return spoken(text, rng)
    if roll < 0.28:
        return text.upper()
    if roll < 0.31 and text.count(" ") < 11:
        return " ".join(capital(word) for word in text.rstrip(".").split())
    if roll < 0.36:
        return capital(text).rstrip(".")
    if roll < 0.39:
        return capital(text).replace(".", "!") if text.endswith(".") and text.count(".") == 1 else capital(text)
    return capital(text)


def everyday(seed: int, count: int) -> list[str]:
    """``count`` different everyday texts; the same seed gives the same texts."""
    rng = random.Random(seed)
    writer = Writer(grammar(), rng)
    texts: dict[str, None] = {}
    misses = 0
    while len(texts) < count:
        text = dressed(writer.draw()[0], rng)
        if text in texts or not text or text.count(" ") > 44:
            misses += 1
            if misses > 20 * count + 10_000:
                raise ValueError(f"everyday: the grammar cannot make {count} different texts")
            continue
        texts[text] = None
    return list(texts)
