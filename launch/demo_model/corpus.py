"""Pure. The text that the demo model learns: from topics with their phrasings to conversations, by a seeded generator.

A corpus file holds topics. `== name` begins one, or goes on with it; its lines are

    name:   noun phrases, for "what is ...?" and its like       many:  the same in the plural
    do:     verb phrases, for "how do I ...?" and its like      ask:   whole questions
    held:   questions that are not trained, only asked in the measurement
    a:      an answer; several lines are variants               more:  the answer to "tell me more" after it
    words:  in a topic `list.NAME`, what {NAME} in other topics stands for, or how questions are put

Phrases are in lower case, parted by " / "; (one|other|) stands for each of its alternatives.
"""

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from msgspec import Struct

KEYS = ("name", "many", "do", "ask", "held", "a", "more", "words")
NO_MORE = "That is all I know about it: I am a small model. The README of Wiremesh has more."
PROPER = {
    "wiremesh": "Wiremesh", "kv": "KV", "llm": "LLM", "llms": "LLMs", "gpu": "GPU", "gpus": "GPUs", "cpu": "CPU",
    "openai": "OpenAI", "api": "API", "http": "HTTP", "slurm": "Slurm", "zeromq": "ZeroMQ", "i": "I", "ttft": "TTFT",
    "python": "Python", "nvidia": "NVIDIA", "dynamo": "Dynamo", "kubernetes": "Kubernetes", "vllm": "vLLM",
    "sglang": "SGLang", "tensorrt-llm": "TensorRT-LLM", "sse": "SSE", "rag": "RAG", "bpe": "BPE", "rope": "RoPE",
    "moe": "MoE", "qwen": "Qwen", "llama": "Llama", "mistral": "Mistral", "linux": "Linux", "prometheus": "Prometheus",
    "json": "JSON", "sigterm": "SIGTERM", "lan": "LAN", "tls": "TLS", "gqa": "GQA", "ctrl-c": "Ctrl-C",
}  # fmt: skip
SHORT = {
    "do not": "don't",
    "is not": "isn't",
    "what is": "what's",
    "i am": "I'm",
    "can not": "can't",
    "who is": "who's",
}
ASKING = re.compile(
    r"(and |so |then |now )?(what|how|why|can|could|is|are|do|does|which|who|where|when|will|should|did)"
)
SYLLABLES = ("ba", "flo", "zu", "mer", "tin", "gra", "pol", "xi", "ven", "dor", "ki", "lam", "sto", "que", "bri", "nax")
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
UNKNOWN = "unknown"
UNKNOWN_SHARE = 0.11  # of all questions
KEYWORD_SHARE = 0.08
OFTEN = 3.0  # how much oftener than others these are asked
KEY_TOPICS = (
    *("wiremesh", "wiremesh.how", "frontend", "router", "worker", "worker.dies", "migration", "cancel", "drain"),
    *("discovery", "kvcache", "engine", "numpyengine", "install", "start", "ownmodel"),
    *("hello", "thanks", "bye", "whoareyou", "whatcan", "joke"),
)
SYSTEM_SHARE = 0.3
MORE_SHARE = 0.2
TURNS = ((1, 0.62), (2, 0.22), (3, 0.09), (5, 0.05), (9, 0.02))  # questions in a conversation, and how often


class Topic(Struct):
    """What has one answer, or variants of one."""

    name: str
    asks: list[str]  # written out
    made: list[str]  # from forms; none for small talk
    held: list[str]
    answers: list[str]
    more: str


class Corpus(Struct):
    """All topics, and what is filled into their questions."""

    topics: list[Topic]
    words: dict[str, list[str]]
    synonyms: list[list[str]]


class Turn(NamedTuple):
    """A message of a conversation."""

    role: str  # system, user, assistant
    text: str


def corpus_of(texts: Sequence[str]) -> Corpus:
    """From the content of the files."""
    found = sections("\n".join(texts))
    written: dict[str, str] = {}  # question to its topic: whoever spells it out has it before those who make it
    for name, fields in found.items():
        for question in expanded(" / ".join([*fields["held"], *fields["ask"]])):
            written.setdefault(question, name)
    words = {name[5:]: expanded(" / ".join(fields["words"])) for name, fields in found.items() if is_list(name)}
    topics = [topic_of(name, fields, words, written) for name, fields in found.items() if not is_list(name)]
    return Corpus(topics, words, [group.split("=") for group in words.pop("synonyms")])


def is_list(name: str) -> bool:
    return name.startswith("list.")


def sections(text: str) -> dict[str, dict[str, list[str]]]:
    """The lines of each topic, by their keys."""
    found: dict[str, dict[str, list[str]]] = {}
    for section in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        name, *lines = section.strip().splitlines()
        fields = found.setdefault(name, {key: [] for key in KEYS})
        for line in lines:
            if line and not line.startswith("#"):
                key, value = line.split(": ", 1)
                fields[key].append(value)
    return found


def topic_of(name: str, fields: dict[str, list[str]], words: dict[str, list[str]], written: dict[str, str]) -> Topic:
    pairs = (("name", "concept"), ("many", "plural"), ("do", "action"))
    forms = [form.replace("{}", noun) for key, kind in pairs for noun in split(fields[key]) for form in words[kind]]
    held = expanded(" / ".join(fields["held"]))
    asks, made = (
        [ask for ask in expanded(" / ".join(source)) if written.setdefault(ask, name) == name and ask not in held]
        for source in (fields["ask"], forms)
    )
    return Topic(name, asks, made, held, fields["a"], " ".join(fields["more"]))


def split(lines: Sequence[str]) -> list[str]:
    return [phrase for line in lines for phrase in line.split(" / ")]


def expanded(patterns: str) -> list[str]:
    """Every phrase that patterns with (one|other|) stand for."""
    found: dict[str, None] = {}
    for pattern in filter(None, patterns.split(" / ")):
        found |= dict.fromkeys(" ".join(phrase.split()) for phrase in unfolded(pattern))
    return list(found)


def unfolded(pattern: str) -> list[str]:
    """Brackets may be nested."""
    head, opened, rest = pattern.partition("(")
    if not opened:
        return [pattern]
    choices, depth = [""], 1
    for letter in rest:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            break
        if letter == "|" and depth == 1:
            choices.append("")
        else:
            choices[-1] += letter
    tails = unfolded(rest[len("|".join(choices)) + 1 :])
    return [head + middle + tail for choice in choices for middle in unfolded(choice) for tail in tails]


# --- Conversations ------------------------------------------------------------------------------------


def conversation(corpus: Corpus, random: Random) -> list[Turn]:
    """Some questions with their answers, perhaps after a system prompt."""
    turns: list[Turn] = []
    if random.random() < SYSTEM_SHARE:
        turns.append(Turn("system", filled(random.choice(corpus.words["system"]), corpus, random)))
    count = random.choices([count for count, _ in TURNS], [share for _, share in TURNS])[0]
    before: Topic | None = None
    for _ in range(count):
        if before and random.random() < MORE_SHARE:
            turns += [Turn("user", dressed(random.choice(corpus.words["more"]), corpus, random)), answer_more(before)]
            before = None
        else:
            before = chosen(corpus, random)
            question = question_of(before, corpus, random)
            turns += [Turn("user", dressed(question, corpus, random)), Turn("assistant", random.choice(before.answers))]
    return turns


def answer_more(topic: Topic) -> Turn:
    return Turn("assistant", topic.more or NO_MORE)


def chosen(corpus: Corpus, random: Random) -> Topic:
    """A topic; those with many phrasings a little oftener."""
    if random.random() < UNKNOWN_SHARE:
        return next(topic for topic in corpus.topics if topic.name == UNKNOWN)
    return random.choices(corpus.topics, [weight(topic) for topic in corpus.topics])[0]


def weight(topic: Topic) -> float:
    often = OFTEN if topic.name in KEY_TOPICS else 1.0
    return often * float((len(topic.asks) + len(topic.made)) ** 0.25) * (topic.name != UNKNOWN)


def question_of(topic: Topic, corpus: Corpus, random: Random) -> str:
    """One that is written out, one that is made, or only words that belong to the topic."""
    if random.random() < KEYWORD_SHARE and topic.name != UNKNOWN:
        return keywords(topic, corpus, random)
    found = random.choice([kind for kind in (topic.asks, topic.made) if kind])
    return filled(random.choice(found), corpus, random)


def keywords(topic: Topic, corpus: Corpus, random: Random) -> str:
    """Some words of a question or an answer, in their order: that these belong to the topic is worth to know too."""
    told = topic.answers if topic.made else []  # small talk is of anything
    source = random.choice([*(random.choice(topic.asks or topic.made) for _ in range(3)), *told])
    words = [word for word in re.findall(r"[\w/-]+", source.lower()) if word not in corpus.words["common"]]
    places = sorted(random.sample(range(len(words)), min(len(words), random.randint(3, 5))))
    return " ".join([random.choice(corpus.words["keywords"]), *(words[place] for place in places)]).strip()


def filled(question: str, corpus: Corpus, random: Random) -> str:
    """With words for {thing} and its like."""

    def word(match: re.Match[str]) -> str:
        if match[1] == "invented":
            return "".join(random.choice(SYLLABLES) for _ in range(random.randint(2, 4)))
        return random.choice(corpus.words[match[1]])

    return re.sub(r"\{(\w+)\}", word, question)


def dressed(question: str, corpus: Corpus, random: Random) -> str:
    """As somebody would type it: polite or not, with capitals or not, with a typing error or not."""
    if random.random() < 0.4:
        question = reworded(question, corpus, random)
    if random.random() < 0.2:
        question = clipped(question, corpus, random)
    if random.random() < 0.2:
        question = f"{random.choice(corpus.words['opening'])} {question}"
    if random.random() < 0.08:
        question = f"{question} {random.choice(corpus.words['closing'])}"
    if random.random() < 0.25:
        for long, short in SHORT.items():
            question = re.sub(rf"\b{long}\b", short.replace("'", random.choice(["'", ""])), question)
    if random.random() < 0.65:
        question = " ".join(PROPER.get(word, word) for word in question.split())
        question = question[:1].upper() + question[1:]
    if random.random() < 0.7:
        question += "?" if ASKING.match(question.lower()) else random.choice([".", "", "!", "?", "..."])
    if random.random() < 0.2:
        question = mistyped(question, random)
    style = random.random()
    return question.upper() if style < 0.03 else question.lower() if style < 0.15 else question


def reworded(question: str, corpus: Corpus, random: Random) -> str:
    """With one or two words replaced by such as may stand for them."""
    for _ in range(random.choice([1, 1, 2])):
        fitting = [group for group in corpus.synonyms if any(f" {word} " in f" {question} " for word in group)]
        if not fitting:
            break
        group = random.choice(fitting)
        word = next(word for word in group if f" {word} " in f" {question} ")
        question = f" {question} ".replace(f" {word} ", f" {random.choice(group)} ", 1).strip()
    return question


def clipped(question: str, corpus: Corpus, random: Random) -> str:
    """Without one of its words, mostly a little one."""
    words = question.split()
    little = [place for place, word in enumerate(words) if word in corpus.words["common"]]
    if len(words) > 3:
        del words[random.choice(little if little and random.random() < 0.6 else range(len(words)))]
    return " ".join(words)


def mistyped(text: str, random: Random) -> str:
    """One or two letters swapped, dropped, doubled or replaced by a neighbour on the keyboard."""
    for _ in range(random.choice([1, 1, 2])):
        at = random.randrange(max(1, len(text) - 1))
        first, second = text[at : at + 1], text[at + 1 : at + 2]
        fault = random.choice([second + first, second, first + first + second, neighbour(first, random) + second])
        text = text[:at] + fault + text[at + 2 :]
    return text


def neighbour(letter: str, random: Random) -> str:
    row = next((row for row in KEYBOARD if letter.lower() in row and letter), "")
    at = row.find(letter.lower())
    return random.choice([other for other in row[max(0, at - 1) : at + 2] if other != letter]) if row else letter


# --- Measuring ----------------------------------------------------------------------------------------


def nearest(corpus: Corpus, said: str) -> str:
    """The topic whose answer shares most words with this one."""
    words = bag(said)
    scored = [(overlap(words, bag(answer)), topic.name) for topic, answer in answers(corpus)]
    return max(scored)[1]


def answers(corpus: Corpus) -> Iterator[tuple[Topic, str]]:
    for topic in corpus.topics:
        yield from ((topic, answer) for answer in [*topic.answers, *filter(None, [topic.more])])


def bag(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[\w-]+", text.lower()))


def overlap(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / max(1, len(left | right))


def questions(corpus: Corpus) -> list[tuple[str, str]]:
    """(topic, question) of all that were held out."""
    return [(topic.name, question) for topic in corpus.topics for question in topic.held]


def clashes(corpus: Corpus) -> list[tuple[str, str, str]]:
    """Questions that two topics claim: the model cannot learn both."""
    owner: dict[str, str] = {}
    pairs = [
        (question, topic.name)
        for topic in corpus.topics
        for question in dict.fromkeys([*topic.asks, *topic.made, *topic.held])
    ]
    found = [(question, owner.setdefault(question, name), name) for question, name in pairs]
    return [(question, first, name) for question, first, name in found if first != name]


def counted(corpus: Corpus) -> dict[str, int]:
    """How large it is."""
    return {
        "topics": len(corpus.topics),
        "answers": len(list(answers(corpus))),
        "questions": sum(len({*topic.asks, *topic.made}) for topic in corpus.topics),
        "held": len(questions(corpus)),
    }
