"""Bodies that no frontend can serve, from nothing to forty megabytes."""

import json

from tests.real.raw_http import CHAT, COMPLETIONS
from tests.real.serving import MODEL, chat


def but(path: str = CHAT, /, **more: object) -> tuple[str, bytes]:
    """A request that would be right but for `more`."""
    right = {
        CHAT: chat(tokens=3),
        COMPLETIONS: {"model": MODEL, "prompt": "hello", "max_tokens": 3},
        "/tokenize": {"model": MODEL, "prompt": "hello"},
        "/detokenize": {"model": MODEL, "tokens": [5]},
    }[path]
    return path, json.dumps({**right, **more}).encode()


MB = 1_000_000
SAID = {"role": "user", "content": "x"}
DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES: dict[str, tuple[str, bytes]] = {
    "nothing": (CHAT, b""),
    "no JSON": (CHAT, b"{model:"),
    "cut short": (CHAT, but()[1][:-5]),
    "something behind it": (CHAT, but()[1] + b"{}"),
    "a list": (CHAT, b"[1]"),
    "a number": (CHAT, b"1"),
    "null": (CHAT, b"null"),
    "zeros": (CHAT, b"\0" * 1000),
    "UTF-16": (CHAT, but()[1].decode().encode("utf-16")),
    "bad UTF-8": (CHAT, but()[1].replace(b"hello", b"\xff\xfe\xc3")),
    "half a surrogate": (CHAT, but()[1].replace(b"hello", b"\xed\xa0\x80")),
    "deep": (CHAT, but()[1][:-1] + b', "messages": ' + DEEP + b"}"),
    "deep and unknown": (CHAT, but()[1][:-1] + b', "zzz": ' + DEEP + b"}"),
    "deep tools": but(
        tools=[{"type": "function", "function": {"name": "f", "parameters": json.loads("[" * 200 + "]" * 200)}}]
    ),
    "10 MB of text": (CHAT, b"x" * (10 * MB)),
    "10 MB of brackets": (CHAT, b"[" * (10 * MB)),
    "10 MB of zeros": (CHAT, b'{"model":"m","messages":[' + b"0," * (5 * MB) + b"0]}"),
    "10 MB of messages": but(messages=[SAID] * 300_000),
    "10 MB of one message": but(messages=[{"role": "user", "content": "hello " * (10 * MB // 6)}]),
    "10 MB of prompt": but(COMPLETIONS, prompt="hello " * (10 * MB // 6)),
    "10 MB of a model": but(model="m" * (10 * MB)),
    "40 MB": (CHAT, b" " * (40 * MB)),
    "100,000 stops": but(stop=[f"s{number}" for number in range(100_000)]),
    "a long stop": but(stop="x" * 100_000),
    "100,000 fields": but(**{f"field{number}": number for number in range(100_000)}),
    "a field of 1 MB": but(zzz="x" * MB),
    "100,000 biases": but(logit_bias={str(number): 1 for number in range(100_000)}),
    "negative tokens": but(max_tokens=-1),
    "negative n": but(n=-1),
    "no n": but(n=0),
    "a million choices": but(n=1_000_000),
    "absurd tokens": but(max_tokens=2**31),
    "beyond 64 bits": but(max_tokens=10**30),
    "beyond floats": (CHAT, but()[1][:-1] + b', "temperature": 1e999}'),
    "NaN": (CHAT, but()[1][:-1] + b', "temperature": NaN}'),
    "absurd seed": but(seed=2**64),
    "a float as a count": but(max_tokens=1.5),
    "a text as a count": but(max_tokens="3"),
    "a truth as a count": but(max_tokens=True),
    "a list as a model": but(model=["a"]),
    "no model": but(model=""),
    "a path as a model": but(model="../../etc/passwd"),
    "a strange model": but(model="\0\n\u202e"),
    "a strange role": but(messages=[{"role": "king", "content": "x"}]),
    "no messages": but(messages=[]),
    "a message that is none": but(messages=["x"]),
    "a picture": but(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]),
    "a hostile option": but(chat_template_kwargs={"messages": "x", "__class__": 1, "x": {"y": 1}}),
    "a template": but(chat_template="{{ 1 }}"),
    "options without a stream": but(stream_options={"include_usage": True}),
    "prompts of prompts": but(COMPLETIONS, prompt=[[["x"]]]),
    "no prompt": but(COMPLETIONS, prompt=[]),
    "empty prompts": but(COMPLETIONS, prompt=[[], []]),
    "mixed prompts": but(COMPLETIONS, prompt=[1, "x"]),
    "100,000 prompts": but(COMPLETIONS, prompt=["x"] * 100_000),
    "negative tokens to read": but(COMPLETIONS, prompt=[-1]),
    "unknown tokens to read": but(COMPLETIONS, prompt=[10**6]),
    "a million tokens to read": but(COMPLETIONS, prompt=[5] * 1_000_000),
    "absurd best_of": but(COMPLETIONS, best_of=10**9),
    "negative tokens to show": but("/detokenize", tokens=[-1]),
    "unknown tokens to show": but("/detokenize", tokens=[10**9]),
    "texts to show": but("/detokenize", tokens="5"),
    "30 MB to tokenize": but("/tokenize", prompt="a" * (30 * MB)),
    "a million tokens to show": but("/detokenize", tokens=[5] * 1_000_000),
    "nothing to tokenize": but("/tokenize", prompt=None),
}
