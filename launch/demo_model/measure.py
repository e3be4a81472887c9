"""Shell. What the demo model is worth: whether it answers, how fast, and how often a token depends on the batch.

    python -m launch.demo_model.measure answers [--temperature 0.7]   questions that it was not trained on
    python -m launch.demo_model.measure speed                         tokens per second, by streams
    python -m launch.demo_model.measure flips [--seconds 300]         the same requests in other company

`flips` gives the same requests to engines that batch and cut them differently. A stream counts up to its first token
that differs from the exact engine's: what follows another token is another text.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct

from launch.demo_model.corpus import Corpus, Turn, conversation, corpus_of, nearest, questions
from nodes.contract.engine import Ending, Job, Sampling
from nodes.engines.numpy.engine import NumpyEngine, Settings
from nodes.text.template import ChatTemplate
from nodes.text.tokenizer import NAMES, ModelFiles, Tokenizer

FOLDER = Path(__file__).parent
MODEL = FOLDER.parent.parent / "nodes" / "models" / "demo"
ANSWER_TOKENS_MAX = 200  # the longest that it was taught has half of that
SPEED_TOKENS = 200
ROUND_JOBS = 96  # of a round of `flips`; the time is looked at between rounds
COMPANIES: dict[str, dict[str, Any]] = {  # settings by how a request is computed
    "alone": {"slots": 1, "caching": False},
    "32 at once": {"slots": 32, "caching": False},
    "8 at once, prompts cut, prefixes shared": {"slots": 8, "step_tokens": 23},
}
STYLES = (Sampling(temperature=0.0), Sampling(temperature=0.7), Sampling(temperature=1.0))


class Speaker(Struct):
    """A model with its texts."""

    tokenizer: Tokenizer
    template: ChatTemplate

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return self.tokenizer.encode(self.template.render(messages), add_special=False)


class Answer(Struct):
    """What one request got."""

    tokens: list[int]
    ending: Ending | None


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the demo model.")
    parser.add_argument("what", choices=["answers", "speed", "flips"])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    speaker = speaker_of(given.model)
    if given.what == "answers":
        show_answers(given.model, speaker, Sampling(temperature=given.temperature, seed=given.seed))
    elif given.what == "speed":
        show_speed(given.model, speaker)
    else:
        show_flips(given.model, speaker, given.seconds, Random(given.seed))
    return 0


def speaker_of(folder: Path) -> Speaker:
    contents = {}
    for field, names in NAMES.items():
        path = next((folder / name for name in names if (folder / name).exists()), None)
        contents[field] = path.read_bytes() if path else b""
    tokenizer = Tokenizer(ModelFiles(**contents))
    return Speaker(tokenizer, ChatTemplate(tokenizer.template, tokenizer.specials))


def read_corpus() -> Corpus:
    return corpus_of([path.read_text() for path in sorted((FOLDER / "corpus").glob("*.txt"))])


def engine_of(folder: Path, **settings: Any) -> NumpyEngine:
    engine = NumpyEngine(Settings(str(folder), **settings))
    engine.start()
    return engine


def run(engine: NumpyEngine, jobs: Sequence[Job]) -> list[Answer]:
    """All answers, in the order of the jobs, whose keys are their indexes."""
    found = [Answer([], None) for _ in jobs]
    for job in jobs:
        refusal = engine.submit(job)
        if refusal:
            raise ValueError(refusal)
    while not engine.idle():
        for output in engine.step().outputs:
            answer = found[int(str(output.key))]
            answer.tokens += output.tokens
            answer.ending = output.ending
    return found


# --- Answers ------------------------------------------------------------------------------------------


def show_answers(folder: Path, speaker: Speaker, sampling: Sampling) -> None:
    corpus = read_corpus()
    held = questions(corpus)
    jobs = [
        Job(index, speaker.prompt([Turn("user", typed(question))]), max_tokens=ANSWER_TOKENS_MAX, sampling=sampling)
        for index, (_, question) in enumerate(held)
    ]
    found = run(engine_of(folder), jobs)
    right = ended = verbatim = 0
    known = {answer for topic in corpus.topics for answer in [*topic.answers, topic.more]}
    for (topic, question), answer in zip(held, found, strict=True):
        said = speaker.tokenizer.decode(answer.tokens)
        ended += answer.ending is Ending.STOP
        verbatim += said in known
        if nearest(corpus, said) == topic:
            right += 1
        else:
            print(f"{topic}: {typed(question)}\n    {said}")
    print(f"{right} of {len(held)} held-out questions got the answer of their topic; {ended} ended by themselves;")
    print(f"{verbatim} were word for word an answer of the corpus")


def typed(question: str) -> str:
    return question[:1].upper() + question[1:] + "?"


# --- Speed --------------------------------------------------------------------------------------------


def show_speed(folder: Path, speaker: Speaker) -> None:
    prompt = speaker.prompt([Turn("user", "What is Wiremesh?")])
    for streams in (1, 8, 32):
        engine = engine_of(folder, slots=streams, caching=False)
        for rows in (2, SPEED_TOKENS):  # first to warm up
            began, used = time.perf_counter(), time.process_time()
            jobs = [Job(key, prompt, max_tokens=rows, ignore_eos=True, sampling=STYLES[0]) for key in range(streams)]
            run(engine, jobs)
        made, elapsed, used = streams * SPEED_TOKENS, time.perf_counter() - began, time.process_time() - used
        print(f"{streams} streams: {made / elapsed:,.0f} tokens/s, {made / used:,.0f} per second of processor time")


# --- Flips --------------------------------------------------------------------------------------------


def show_flips(folder: Path, speaker: Speaker, seconds: float, random: Random) -> None:
    corpus, began = read_corpus(), time.monotonic()
    exact = engine_of(folder, exact=True)
    engines = {name: engine_of(folder, **settings) for name, settings in COMPANIES.items()}
    compared, differed = dict.fromkeys(engines, 0), dict.fromkeys(engines, 0)
    streams = 0
    while time.monotonic() - began < seconds:
        jobs = [job_of(speaker, conversation(corpus, random), index, random) for index in range(ROUND_JOBS)]
        wanted = run(exact, jobs)
        streams += len(jobs)
        for name, engine in engines.items():
            for answer, right in zip(run(engine, jobs), wanted, strict=True):
                same = common(answer.tokens, right.tokens)
                flipped = answer.tokens != right.tokens
                compared[name] += same + flipped
                differed[name] += flipped
    for name in engines:
        print(f"{name}: {differed[name]} of {compared[name]:,} tokens ({streams} streams) differ from the exact ones")


def job_of(speaker: Speaker, turns: Sequence[Turn], index: int, random: Random) -> Job:
    """The last question of a conversation, after all before it."""
    style = random.choice(STYLES)
    sampling = Sampling(temperature=style.temperature, seed=random.getrandbits(32))
    return Job(index, speaker.prompt(turns[:-1]), max_tokens=ANSWER_TOKENS_MAX, sampling=sampling)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(left), len(right)))


if __name__ == "__main__":
    sys.exit(main())
