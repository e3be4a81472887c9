"""Pure. How `wiremesh up` looks: on a terminal, in a pipe, and as lines of JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from nodes.places import Charge, Show, Stage, Topic

QUESTION = "What is Wiremesh?"
SCENE = "a lighthouse at night, in a storm"
PAINTED = {"image": ("/v1/images/generations", "picture.png"), "video": ("/v1/videos", "clip.mp4")}
# Some models never end by themselves, and who tries a curl does not want to wait, nor to see a small model wander.
SHORT = {"max_tokens": 100, "temperature": 0}
CONTENT = "content-type: application/json"
HEADER = ("NAME", "STATE", "PROCESS", "NODE", "UP", "STARTS", "LOAD")
PER_NODE = (Topic.LOG, Topic.SAID)  # what a node says, not what we say of it
# On a terminal the table shows these, and it is there all the time.
TABLED = (Topic.STARTING, Topic.LOADING)


class Served(Struct, frozen=True):
    """What the frontends serve, and a request that was seen to work."""

    url: str
    model: str = ""
    chat: bool = True  # whether the model has a chat template
    keyed: bool = False  # whether requests need an API key
    embeds: bool = False  # it makes embeddings, and no text
    paints: str = ""  # what it makes of texts: image or video


class Announcement(Struct, frozen=True, omit_defaults=True):
    """The line of `--json` that says that all is there."""

    event: str
    text: str
    url: str = ""
    model: str = ""
    curl: str = ""
    after_s: float | None = None


def curl(served: Served) -> str:
    """One command that works when it is pasted into a shell."""
    path, body = request_of(served)
    insecure = "-k " if served.url.startswith("https:") else ""  # a certificate that we were given may be its own
    text = json.dumps(body).replace("'", "'\\''")  # the only character that ends a quoted word of the shell
    words = f"curl {insecure}{served.url}{path} -H '{CONTENT}' -d '{text}'"
    return f"{words} | {_kept(PAINTED[served.paints][1])}" if served.paints else words


def _kept(name: str) -> str:
    """What makes a file of an answer: nobody wants to see it as text."""
    taken = 'base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"])'
    return f'python3 -c \'import base64, json, sys; open("{name}", "wb").write({taken})\''


def request_of(served: Served) -> tuple[str, dict[str, object]]:
    """The path and the body of a first request."""
    model = served.model
    if served.paints:
        return PAINTED[served.paints][0], {"model": model, "prompt": SCENE}
    if served.embeds:
        return "/v1/embeddings", {"model": model, "input": QUESTION}
    if served.chat:
        message = {"role": "user", "content": QUESTION}
        return "/v1/chat/completions", {"model": model, "messages": [message], **SHORT}
    return "/v1/completions", {"model": model, "prompt": QUESTION, **SHORT}


def announce(show: Show, served: Served | None) -> list[str]:
    """What people read when requests are served."""
    if served is None:
        return [show.text]
    if served.keyed:
        return [f"{show.text} at {served.url}; they need one of your API keys, as 'authorization: Bearer KEY'"]
    talk = "" if served.embeds or served.paints else f"'wiremesh chat{_url_flag(served.url)}', or "
    return [
        f"model {served.model!r} is served at {served.url}: {show.text}. Try",
        "",
        f"  {curl(served)}",
        "",
        f"or {talk}{served.url}/docs; Ctrl-C stops all of it",
    ]


def _url_flag(url: str) -> str:
    return "" if url == "http://127.0.0.1:8000" else f" --url {url}"


def announce_json(show: Show, served: Served | None) -> str:
    """The same for programs."""
    served = served or Served("")
    words = curl(served) if served.model else ""
    return as_json(Announcement(show.topic.value, show.text, served.url, served.model, words, show.after_s))


def as_json(line: Struct) -> str:
    """One line."""
    return msgspec.json.encode(line).decode()


def plain(show: Show) -> str:
    """A line for people."""
    text = harmless(show.text)
    return f"{show.name} | {text}" if show.topic in PER_NODE else text


def harmless(text: str) -> str:
    """The text without characters that a terminal would obey: what a node says may come from anywhere."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char == "\t" else "" for char in text)


def how_it_ended(code: int, meanings: Mapping[int, str], signals: Mapping[int, str]) -> str:
    """The end of a process in words; `code` is negative for a signal."""
    if code == 0:
        return "left"
    if code < 0:
        return f"was killed by {signals.get(-code, f'signal {-code}')}"
    meaning = meanings.get(code)
    return f"ended with exit code {code}" + (f" ({meaning})" if meaning else "")


# --- The table at the end of a terminal -------------------------------------------------------------------


def table(charges: Iterable[Charge], loads: Mapping[str, str], now: float, width: int, height: int) -> list[str]:
    """A line for each node, as many as fit."""
    rows = [HEADER, *(_row(charge, loads.get(charge.place.name, ""), now) for charge in charges)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows]
    room = max(height // 2, 3)  # the other half is for what happens
    if len(lines) > room:
        lines = [*lines[: room - 1], f"... and {len(lines) - room + 1} more"]
    return [line[: max(width - 1, 1)] for line in lines]


def _row(charge: Charge, load: str, now: float) -> tuple[str, ...]:
    runs = charge.stage in (Stage.STARTING, Stage.READY, Stage.LEAVING)
    return (
        charge.place.name,
        charge.stage.value,
        str(charge.pid or "-"),
        charge.node or "-",
        span(now - charge.began) if runs else "-",
        str(charge.starts),
        load or charge.steps or "-",
    )


def span(seconds: float) -> str:
    """A time, in the largest unit that says enough."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def load_of(status: Mapping[str, Any]) -> str:
    """What a node does, from what it says when it is asked (`wiremesh.node.status`)."""
    load, engine = status.get("load"), status.get("engine")
    if isinstance(load, Mapping) and isinstance(engine, Mapping):
        share = 100 * load.get("blocks_used", 0) // max(1, load.get("blocks_total", 1))
        running = f"{load.get('running', 0)}/{engine.get('slots', 0)} running, {load.get('waiting', 0)} waiting"
        return f"{running}, cache {share} % full"
    return f"{status['in_flight']} in flight" if "in_flight" in status else ""


def left_out(count: int) -> str:
    """Instead of lines that a slow reader did not take."""
    return f"({count} lines are left out here: they came faster than they were read)"


def joined(lines: Sequence[str]) -> str:
    """Lines as one text."""
    return "".join(line + "\n" for line in lines)
