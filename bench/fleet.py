"""Shell. Conversations over several workers: what of their prompts is found in caches, and how soon answers begin.

    python -m bench.fleet [--peer dynamo] [--rounds 2] [--ahead] [--json FILE]

Conversations of a group begin with the same long prefix, as those of one application do; each goes on for some turns,
and each turn sends all that was said before. What was answered is part of the script, so every system gets the same
requests. A conversation begins when the one before it in its group has had its first answer; otherwise all run at once.
Before each turn its user thinks for a while, else the answers of one worker would end, and be followed, in lockstep.

The best that any assignment could reach is what one cache that forgets nothing would have had of each prompt: all its
leading blocks that were in a prompt sent before. Four systems take turns, each with fresh processes: our kv router and
round-robin without it, and the peer's two. Engines are simulated with the same real timing (our formula is that of the
peer's mocker), and every answer is verified, ours to the character.

All servers share one core, so what else runs there is seen in first tokens, and twice as much by who has more processes
to take turns: `--ahead` gives the runs precedence over all that is not real-time (it needs to be root).
"""

import argparse
import http.client
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from bench.answers import Answer, Expected, Recording, Wrong, check
from bench.figures import Spread, spread
from bench.loadgen import DRAIN_S, EVENTS_MAX, POLL_S, Connection, Load, Run
from bench.processes import Failed
from bench.systems import CLIENTS, MODEL, Shape, System, running
from bench.tinymodel import made
from bench.truth import Prompts, Truth, vocabulary
from nodes.contract.blocks import chain
from nodes.engines.sim import continuation

BLOCK_TOKENS = 16
READY_S = 30.0  # until a frontend sees all workers
SETTLE_S = 2.0  # and until a router has heard of all caches
SYSTEMS = ("kv", "round-robin", "dynamo kv", "dynamo round-robin")


class Script(Struct, frozen=True, kw_only=True):
    """The load."""

    workers: int = 4
    prefixes: int = 16
    talks: int = 4  # of each prefix
    turns: int = 8
    prefix_tokens: int = 1_500
    turn_tokens: int = 60  # of a question, and of an answer in the script
    answer_tokens: int = 32  # that are generated
    think_ms: int = 300  # before a turn, on average: anything from nothing to twice as long
    blocks: int = 8_192  # of a worker's cache: 131,072 tokens; all conversations together have some 90,000
    seed: int = 1
    knobs: str = ""  # of our kv router: NAME=VALUE ...


Message = dict[str, str]


class Talk:
    """A conversation, and how far it is."""

    def __init__(self, messages: list[Message], thinks_s: list[float], group: int, number: int) -> None:
        self.messages = messages  # all of it: a system message, then questions and answers in turns
        self.thinks_s = thinks_s  # before each turn
        self.group = group
        self.number = number
        self.turn = 0

    def prompt(self) -> list[Message]:
        """What the next turn sends."""
        return self.messages[: 2 * self.turn + 2]


def talks_of(script: Script, words: Sequence[str]) -> list[Talk]:
    """All conversations."""
    draw = Random(script.seed)

    def said(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    found = []
    for group in range(script.prefixes):
        prefix = said(script.prefix_tokens)
        for number in range(script.talks):
            thinks_s = [draw.random() * 2 * script.think_ms / 1e3 for _ in range(script.turns)]
            messages = [{"role": "system", "content": prefix}]
            for _ in range(script.turns):
                messages.append({"role": "user", "content": said(script.turn_tokens)})
                messages.append({"role": "assistant", "content": said(script.turn_tokens)})
            found.append(Talk(messages, thinks_s, group, number))
    return found


class Conversations(Run):
    """A connection for each conversation."""

    def __init__(self, load: Load, script: Script, talks: Sequence[Talk], truth: Truth) -> None:
        super().__init__(load, Prompts(truth, 1, script.seed))
        self._script = script
        self._talks = list(talks)
        self._given: dict[int, Talk] = {}  # by connection
        self._free: list[Connection] = []
        self._due: list[tuple[float, int, Connection]] = []  # a heap: when who speaks next
        self.sent: list[list[Message]] = []  # in the order of the recordings

    def _measure(self) -> None:
        """Until everything is said, or nothing has come for long."""
        self.marks.append(self._mark())
        for connection in list(self._open.values()):
            self._ask(connection, inf)
        heard = time.perf_counter()
        while self._due or any(connection.recording for connection in self._open.values()):
            now = time.perf_counter()
            while self._due and self._due[0][0] <= now:
                self._say(heappop(self._due)[2])
            wait_s = min(POLL_S, self._due[0][0] - now) if self._due else POLL_S
            events = self._poll.poll(max(0.0, wait_s), EVENTS_MAX)
            heard = now if events else heard
            for descriptor, _ in events:
                self._read(self._open[descriptor], inf)
            if now > heard + DRAIN_S:
                self._give_up()
        self.marks.append(self._mark())

    def _ask(self, connection: Connection, end: float) -> None:
        """The next turn of its conversation, and perhaps the beginning of the next one."""
        talk = self._given.get(id(connection))
        if talk is None:
            self._free.append(connection)
            self._next([one for one in self._talks if one.number == 0])
            return
        talk.turn += 1
        if talk.turn == 1:
            self._next([one for one in self._talks if one.group == talk.group])
        if talk.turn < self._script.turns:
            self._think(connection, talk)

    def _next(self, able: Sequence[Talk]) -> None:
        """The first of these begins."""
        if able:
            connection = self._free.pop()
            self._talks.remove(able[0])
            self._given[id(connection)] = able[0]
            self._think(connection, able[0])

    def _think(self, connection: Connection, talk: Talk) -> None:
        heappush(self._due, (time.perf_counter() + talk.thinks_s[talk.turn], id(connection), connection))

    def _say(self, connection: Connection) -> None:
        messages = self._given[id(connection)].prompt()
        asked = msgspec.json.encode(
            {
                "model": MODEL,
                "messages": messages,
                "max_tokens": self._script.answer_tokens,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        self.sent.append(messages)
        self.recordings.append(connection.send(b"%b%d\r\n\r\n%b" % (self._head, len(asked), asked), ""))


# --- When the clock has stopped --------------------------------------------------------------------------


class Outcome(Struct, kw_only=True):
    """One run."""

    system: str
    round: int
    requests: int
    wrong: int
    troubles: dict[str, int]
    prompt_tokens: int
    cached_tokens: int
    best_tokens: int  # that one cache of everything would have had
    first_ms: Spread
    later_first_ms: Spread  # of all turns but the first: they have a cache somewhere
    whole_ms: Spread
    seconds: float
    cpu_s: dict[str, float] = {}  # by role

    @property
    def ratio(self) -> float:
        """What was cached of all prompts."""
        return self.cached_tokens / max(1, self.prompt_tokens)

    @property
    def of_best(self) -> float:
        """The same, compared with the best."""
        return self.cached_tokens / max(1, self.best_tokens)


def prompts_of(run: Conversations, truth: Truth) -> list[list[int]]:
    """The tokens of what was sent."""
    return [truth.tokenizer.encode(truth.template.render(messages), add_special=False) for messages in run.sent]


def best_of(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that one cache of everything would have had, of prompts in the order in which they were sent."""
    ever: dict[int, None] = {}
    found = 0
    for prompt in prompts:
        names = chain(prompt, BLOCK_TOKENS, 0, xxh3_64_intdigest)
        usable = names[: (len(prompt) - 1) // BLOCK_TOKENS]  # the last token is computed in any case
        known = next((place for place, name in enumerate(usable) if name not in ever), len(usable))
        found += known * BLOCK_TOKENS
        ever.update(dict.fromkeys(names))
    return found


def judged(run: Conversations, script: Script, truth: Truth, ours: bool, prompts: Sequence[list[int]]) -> list[Any]:
    """Each recording with its answer, or with what is wrong about it."""
    found: list[Any] = []
    for recording, prompt in zip(run.recordings, prompts, strict=True):
        text = None
        if ours:
            text = truth.tokenizer.decode(continuation(prompt, script.answer_tokens, truth.span))
        try:
            found.append((recording, check(recording, Expected(script.answer_tokens, text))))
        except Wrong as wrong:
            found.append((recording, wrong))
    return found


def outcome(title: str, number: int, run: Conversations, script: Script, truth: Truth) -> Outcome:
    """The figures of a run."""
    prompts = prompts_of(run, truth)
    verdicts = judged(run, script, truth, not title.startswith("dynamo"), prompts)
    right: list[tuple[Recording, Answer]] = [pair for pair in verdicts if isinstance(pair[1], Answer)]
    troubles = Counter(str(found) for _, found in verdicts if not isinstance(found, Answer))
    first = [answer.arrivals[0] - recording.began for recording, answer in right]
    turns = [len(messages) // 2 for messages in run.sent]
    later = [
        pair[1].arrivals[0] - pair[0].began
        for pair, turn in zip(verdicts, turns, strict=True)
        if turn > 1 and isinstance(pair[1], Answer)
    ]
    begin, end = run.marks
    return Outcome(
        system=title,
        round=number,
        requests=len(verdicts),
        wrong=len(verdicts) - len(right),
        troubles=dict(troubles.most_common(3)),
        prompt_tokens=sum(map(len, prompts)),
        cached_tokens=sum(answer.cached_tokens for _, answer in right),
        best_tokens=best_of(prompts),
        first_ms=spread(first),
        later_first_ms=spread(later),
        whole_ms=spread([recording.ended - recording.began for recording, _ in right]),
        seconds=round(end.time - begin.time, 2),
        cpu_s={role: round(spent - begin.cpu_s[role], 2) for role, spent in end.cpu_s.items()},
    )


# --- Running ---------------------------------------------------------------------------------------------


def shape_of(title: str, script: Script) -> Shape:
    """How a system is started. Their times are real ones: a prompt of 1,500 tokens takes 40 ms."""
    blocks, size = str(script.blocks), str(BLOCK_TOKENS)
    if title.startswith("dynamo"):
        worker = ("--speedup-ratio", "1", "--block-size", size, "--num-gpu-blocks-override", blocks)
        mode = title.removeprefix("dynamo ")
        frontend = ("--router-mode", mode, *(("--kv-cache-block-size", size) if mode == "kv" else ()))
        return Shape(workers=script.workers, worker_flags=worker, frontend_flags=frontend)
    worker = ("--speedup", "1", "--block-tokens", size, "--blocks", blocks)
    knobs = tuple(word for knob in script.knobs.split() for word in ("--knob", knob)) if title == "kv" else ()
    return Shape(workers=script.workers, routers=int(title == "kv"), worker_flags=worker, router_flags=knobs)


def measured(title: str, number: int, script: Script) -> Outcome:
    """One system, one run."""
    name = "dynamo" if title.startswith("dynamo") else "wiremesh"
    with running(name, shape_of(title, script), made()) as system:
        await_all(system, script.workers)
        truth = Truth(system.model)
        script = msgspec.structs.replace(script, seed=script.seed + number)
        talks = talks_of(script, sorted(vocabulary(truth)))
        requests = len(talks) * script.turns
        load = Load(url=system.url, model=MODEL, connections=len(talks), requests=requests, pids=system.pids())
        run = Conversations(load, script, talks, truth)
        run.run()
    return outcome(title, number, run, script, truth)


def await_all(system: System, workers: int) -> None:
    """Until the frontend sees all workers, and the router what they hold."""
    until = time.monotonic() + READY_S
    while (seen := workers_of(system)) < workers:
        if time.monotonic() > until:
            raise Failed(f"{system.name} sees {seen} of {workers} workers after {READY_S:g} s; see {system.folder}")
        time.sleep(0.1)
    time.sleep(SETTLE_S)


def workers_of(system: System) -> int:
    """How many workers the frontend would send requests to."""
    if system.name == "dynamo":
        instances = json.loads(got(system, "/health")).get("instances", [])
        return len({one["instance_id"] for one in instances if one.get("endpoint") == "generate"})
    lines = got(system, "/metrics").splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("wiremesh_frontend_workers{")))


def got(system: System, path: str) -> str:
    """What a GET answers."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=READY_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: medians over the rounds."""
    lines = [
        "| | cached of all prompt tokens | of the best possible | first token p50 / p99 ms | the same from turn 2 on "
        "| whole answer p50 ms | s | CPU s | wrong |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title in SYSTEMS:
        runs = [one for one in outcomes if one.system == title]
        if not runs:
            continue
        first = f"{median(r.first_ms.p50 for r in runs):.0f} / {median(r.first_ms.p99 for r in runs):.0f}"
        later = f"{median(r.later_first_ms.p50 for r in runs):.0f} / {median(r.later_first_ms.p99 for r in runs):.0f}"
        lines.append(
            f"| {title} | {median(r.ratio for r in runs):.1%} | {median(r.of_best for r in runs):.1%} | {first} | "
            f"{later} | {median(r.whole_ms.p50 for r in runs):.0f} | {median(r.seconds for r in runs):.1f} | "
            f"{median(sum(r.cpu_s.values()) for r in runs):.1f} | {sum(r.wrong for r in runs)} |"
        )
    return "\n".join(lines)


def scripted(options: argparse.Namespace) -> Script:
    """The load that a command line describes."""
    names = [name for name in Script.__struct_fields__ if getattr(options, name) is not None]
    return Script(**{name: getattr(options, name) for name in names})


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--peer", choices=["dynamo"], help="run it, too: see bench/dynamo.sh")
    parser.add_argument("--only", choices=SYSTEMS, help="one system")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ahead", action="store_true", help="before all other processes: see above")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append each run's figures")
    for name in Script.__struct_fields__:
        parser.add_argument("--" + name.replace("_", "-"), type=type(getattr(Script(), name)))
    options = parser.parse_args(arguments)
    script = scripted(options)
    os.sched_setaffinity(0, {int(CLIENTS)})  # the servers have the other core
    if options.ahead:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    chosen = [options.only] if options.only else SYSTEMS if options.peer else SYSTEMS[:2]
    outcomes: list[Outcome] = []
    for number in range(options.rounds):
        for title in chosen:
            found = measured(title, number, script)
            outcomes.append(found)
            print(json.dumps(msgspec.to_builtins(found)), file=sys.stderr, flush=True)
            if options.json is not None:
                with options.json.open("ab") as file:
                    file.write(msgspec.json.encode(found) + b"\n")
    print(table(outcomes))
    return int(any(one.wrong for one in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
