"""Stories: a topic as it is asked for, and a plot that names it. Half the topics are invented words."""

from dataclasses import dataclass, replace
from random import Random

from deploy.starter import words
from deploy.starter.words import draw


@dataclass(frozen=True)
class Topic:
    asked: str  # "a brave fox": as the prompt has it
    first: str  # "a brave fox": where the story names it first
    later: str  # "the fox"
    plural: bool = False
    theme: bool = False  # "friendship": no figure, told by themes.txt
    pronoun: str = "it"

    @property
    def focus(self) -> frozenset[str]:
        """The words whose copying training weighs more."""
        small = {"a", "an", "the", "and", "in", "on", "who", "that", "of", "my", "your", "to"}
        return frozenset(self.asked.lower().split()) - small


def article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    irregular = {"mouse": "mice", "goose": "geese", "wolf": "wolves", "child": "children", "leaf": "leaves"}
    irregular |= {"sheep": "sheep", "deer": "deer", "knife": "knives", "elf": "elves", "thief": "thieves"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("man"):
        return noun[:-3] + "men"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def figure(rng: Random, noun: str) -> Topic:
    """A noun as one of the many shapes in which people name a hero."""
    scenery = words.table("scenery")
    word = rng.choice(scenery["adjective"])
    rich = article(f"{word} {noun}")
    the, many = f"the {noun}", plural(noun)
    relative = f"{rng.choice(('who', 'that'))} {rng.choice(scenery[rng.choice(('wish', 'present'))])}"
    shape = rng.random()
    one = Topic(article(noun), article(noun), the)
    if shape < 0.36:
        return one
    if shape < 0.54:
        return Topic(rich, rich, rng.choice((the, the, f"the {word} {noun}")))
    if shape < 0.62:
        return Topic(many, rng.choice(("some ", "")) + many, f"the {many}", plural=True, pronoun="they")
    if shape < 0.69:
        counted = f"{rng.choice(scenery['number'])} {many}"
        return Topic(counted, counted, f"the {many}", plural=True, pronoun="they")
    if shape < 0.73:
        return Topic(f"{word} {many}", f"some {word} {many}", f"the {many}", plural=True, pronoun="they")
    if shape < 0.78:
        return Topic(the, article(noun), the)
    if shape < 0.82:
        return Topic(f"{rng.choice(('my', 'our', 'your'))} {noun}", article(noun), the)
    if shape < 0.90:
        told = f"{rng.choice((article(noun), rich))} {relative}"
        return Topic(told, told, the)
    if shape < 0.95:
        placed = f"{rng.choice((article(noun), rich))} {rng.choice(scenery['where'])}"
        return Topic(placed, placed, the)
    if shape < 0.97:
        return Topic(noun, article(noun), the)  # "story: fox"
    other = invented(rng) if rng.random() < 0.5 else rng.choice(words.topics(held=False))[1]
    both = f"{article(noun)} and {article(other)}"
    return Topic(both, both, f"the {noun} and the {other}", plural=True, pronoun="they")


def invented(rng: Random) -> str:
    word = words.pseudo_word(rng)
    kind, noun = rng.choice(words.topics(held=False))
    if kind != "theme" and rng.random() < 0.15:
        return rng.choice((f"{word} {noun}", f"{noun} {word}", word + noun.replace(" ", "")))
    return word


def random_topic(rng: Random) -> Topic:
    """Any topic of training."""
    kind, noun = rng.choice(words.topics(held=False))
    chance = rng.random()
    if chance < 0.06:
        name = rng.choice((rng.choice(words.table("scenery")["name"]), words.pseudo_word(rng).title()))
        asked = rng.choice((name, name, f"a girl named {name}", f"a boy called {name}"))
        topic = Topic(asked, asked, name, pronoun=rng.choice(("she", "he")))
    elif chance < 0.13:
        pseudo = words.pseudo_word(rng)
        theme = rng.choice((pseudo, f"the {pseudo}", f"{pseudo}ing", f"{pseudo} and {words.pseudo_word(rng)}"))
        topic = Topic(theme, theme, theme, theme=True)
    elif kind == "theme" or chance < 0.16:
        theme = noun if kind == "theme" else rng.choice((article(noun), plural(noun), f"the {noun}"))
        topic = Topic(theme, theme, theme, theme=True)
    else:
        topic = figure(rng, invented(rng) if rng.random() < 0.6 else noun)
    return topic


def shout(topic: Topic) -> Topic:
    asked, first, later = (text.upper() for text in (topic.asked, topic.first, topic.later))
    return replace(topic, asked=asked, first=first, later=later)


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def slots(rng: Random, topic: Topic) -> dict[str, str]:
    """What the sentences' {slots} hold in one telling."""
    scenery = words.table("scenery")
    helper, thing = rng.choice(scenery["helper"]), rng.choice(scenery["thing"])
    filled = {
        "a": topic.first,
        "t": topic.asked,
        "the": topic.later,
        "it": topic.pronoun,
        "its": {"it": "its", "they": "their", "she": "her", "he": "his"}[topic.pronoun],
        "was": "were" if topic.plural else "was",
        "at": rng.choice(scenery["at"]),
        "helper": helper,
        "thehelper": "the " + helper.split(" ", 1)[1],
        "thing": thing,
        "thething": "the " + thing.split(" ", 1)[1],
        "weather": "",
        "name": rng.choice(scenery["name"]),
    }
    return filled | {_upper_first(key): _upper_first(value) for key, value in filled.items() if key != "t"}


def tell(rng: Random, topic: Topic) -> str:
    """A story of five or six sentences groups, 60 to 120 words, that names its topic."""
    plots = words.sections("themes" if topic.theme else "stories")
    plot = plots[rng.choice(sorted(plots))]
    filled = slots(rng, topic)
    told = []
    for stage in "123456":
        line = rng.choice([line[2:] for line in plot if line[0] == stage])
        filled["weather"] = rng.choice(words.table("scenery")["weather"])
        told.append(line.format_map(filled))
    return " ".join(told)


def request(rng: Random, topic: Topic) -> str:
    pattern = rng.choice(words.sections("requests")["story"])
    noun = topic.later.removeprefix("the ")
    if "{n}" in pattern and (topic.theme or topic.plural or " " in noun or not topic.later.startswith("the ")):
        pattern = "[tell me|write] a story about {t}"
    return draw(rng, pattern).replace("{t}", topic.asked).replace("{n}", noun)
