"""The demo model is small, complete, and answers what its README says; the corpus it was made from holds together."""

import json
from functools import cache
from random import Random
from typing import Any

import pytest

from launch.demo_model.corpus import (
    UNKNOWN,
    Corpus,
    clashes,
    conversation,
    counted,
    dressed,
    expanded,
    filled,
    nearest,
    questions,
)
from launch.demo_model.measure import MODEL, Speaker, Turn, common, engine_of, read_corpus, run, speaker_of
from launch.demo_model.train import CONFIG, TEMPLATE
from nodes.contract.engine import Ending, Job, Sampling
from nodes.engines.numpy.engine import NumpyEngine

DIRECTORY_BYTES_MAX = 8 << 20
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
QUESTIONS = {  # with words that its answer must hold
    "What is Wiremesh?": ("wiremesh", "language models", "mesh"),
    "what does a router do": ("router", "itinerary", "workers"),
    "What does migration mean?": ("migration", "another worker", "tokens"),
    "Who won the world cup in 1990?": ("not know", "demo"),
}


@cache
def speaker() -> Speaker:
    return speaker_of(MODEL)


@cache
def engine() -> NumpyEngine:
    return engine_of(MODEL)


@cache
def corpus_read() -> Corpus:
    return read_corpus()


def said(questions: list[list[Turn]], sampling: Sampling) -> list[str]:
    jobs = [Job(key, speaker().prompt(turns), max_tokens=200, sampling=sampling) for key, turns in enumerate(questions)]
    answers = run(engine(), jobs)
    assert {answer.ending for answer in answers} == {Ending.STOP}
    return [speaker().tokenizer.decode(answer.tokens) for answer in answers]


def test_the_files_are_there_and_small() -> None:
    assert sorted(path.name for path in MODEL.iterdir()) == FILES
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= DIRECTORY_BYTES_MAX


def test_the_files_are_those_of_the_script() -> None:
    assert json.loads((MODEL / "config.json").read_text()) == CONFIG
    assert json.loads((MODEL / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
    assert speaker().tokenizer.vocabulary == CONFIG["vocab_size"]
    assert (speaker().tokenizer.eos_tokens, speaker().tokenizer.context) == ((0,), 1024)


def test_the_template() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": " Be brief. "},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "1"},
    ]
    text = "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|><|end|><|user|>1<|end|>"
    assert speaker().template.render(messages, open_answer=False) == text
    assert speaker().template.render(messages) == text + "<|assistant|>"


def test_a_turn_is_what_it_was_taught() -> None:
    tokens = speaker().prompt([Turn("user", "Hello!")])
    assert speaker().tokenizer.decode(tokens, skip_special=False) == "<|user|>Hello!<|end|><|assistant|>"
    assert [tokens[0], tokens[-2], tokens[-1]] == [2, 0, 3]


def test_any_text_survives_the_tokenizer() -> None:
    for text in ("Wiremesh ", "naïve 日本語 😀\n\tx=1", "", " a  b "):
        assert speaker().tokenizer.decode(speaker().tokenizer.encode(text)) == text


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_it_answers(temperature: float) -> None:
    answers = said([[Turn("user", question)] for question in QUESTIONS], Sampling(temperature=temperature, seed=3))
    for answer, words in zip(answers, QUESTIONS.values(), strict=True):
        assert all(word in answer.lower() for word in words), answer


def test_it_answers_in_a_conversation() -> None:
    turns = [
        Turn("system", "You are a helpful assistant."),
        Turn("user", "Hello!"),
        Turn("assistant", "Hello! I am the demo model of Wiremesh."),
        Turn("user", "and what is a kv cache?"),
    ]
    assert "keys and values" in said([turns], Sampling(temperature=0.0))[0]


def test_it_says_what_it_is() -> None:
    answer = said([[Turn("user", "Who are you?")]], Sampling(temperature=0.0))[0]
    assert "demo model" in answer and "two million parameters" in answer


# --- The corpus -----------------------------------------------------------------------------------------


def test_no_question_belongs_to_two_topics() -> None:
    assert not clashes(corpus_read())


def test_held_out_questions_are_not_trained() -> None:
    corpus = corpus_read()
    trained = {question for topic in corpus.topics for question in [*topic.asks, *topic.made]}
    assert not trained & {question for _, question in questions(corpus)}


def test_the_corpus_is_as_large_as_its_readme_says() -> None:
    counts = counted(corpus_read())
    assert counts["topics"] >= 200 and counts["questions"] >= 10_000 and counts["held"] >= 120


def test_every_topic_can_be_asked_and_answers() -> None:
    for topic in corpus_read().topics:
        assert (topic.asks or topic.made) and topic.answers, topic.name
        assert all(answer[-1] in ".!?" for answer in [*topic.answers, topic.more] if answer), topic.name


def test_every_answer_is_nearest_to_itself() -> None:
    corpus = corpus_read()
    answers = [(topic.name, answer) for topic in corpus.topics for answer in topic.answers]
    assert all(nearest(corpus, answer) == name for name, answer in answers[::7])


def test_patterns_unfold() -> None:
    assert expanded("a (b|c|) d / e") == ["a b d", "a c d", "a d", "e"]
    assert expanded("(a(1|2)|b)") == ["a1", "a2", "b"]


def test_blanks_are_filled() -> None:
    corpus, random = corpus_read(), Random(1)
    unknown = next(topic for topic in corpus.topics if topic.name == UNKNOWN)
    asked = [filled(ask, corpus, random) for ask in unknown.asks]
    assert not any("{" in question for question in asked)


def test_the_generator_is_a_function_of_its_seed() -> None:
    corpus = corpus_read()

    def some(seed: int) -> list[list[Turn]]:
        random = Random(seed)
        return [conversation(corpus, random) for _ in range(50)]

    assert some(1) == some(1) != some(2)


@pytest.mark.parametrize("question", ["", "x", "?", "what is a router", "?! ."])
def test_any_question_can_be_typed(question: str) -> None:
    corpus = corpus_read()
    assert all(isinstance(dressed(question, corpus, Random(seed)), str) for seed in range(300))


def test_what_two_streams_have_in_common() -> None:
    assert [common([1, 2], [1, 3]), common([1], [1, 2]), common([], [])] == [1, 1, 0]
