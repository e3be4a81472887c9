"""Shell. One HTTP request from its head to its line in the log."""

import secrets

from nodes.frontend import headers
from nodes.frontend.batch import Batch
from nodes.frontend.frontend import Frontend
from nodes.frontend.generation import Generation
from nodes.frontend.record import Record
from nodes.frontend.wire import HeaderList, Wire
from nodes.openai import errors
from nodes.openai.errors import Problem

JSON = [(b"content-type", b"application/json")]


class Exchange:
    """A request to an endpoint that does something."""

    __slots__ = (
        *("attached", "began", "client_id", "endpoint", "frontend", "generation", "key", "model", "name", "outcome"),
        *("status", "stream", "trace", "wire"),
    )

    def __init__(self, frontend: Frontend, wire: Wire, endpoint: str, key: str) -> None:
        self.frontend = frontend
        self.wire = wire
        self.endpoint = endpoint
        self.key = key  # the name of the API key
        self.began = frontend.now()
        self.name = frontend.new_name()
        self.client_id = headers.client_id(wire.headers)
        self.trace = headers.trace(wire.headers, secrets.token_hex(8)) if b"traceparent" in wire.headers else ""
        self.model = ""
        self.stream = False
        self.outcome = ""
        self.status = 0
        self.attached = ""
        self.generation: Generation | Batch | None = None
        wire.extra.append((b"x-request-id", (self.client_id or self.name).encode()))
        if self.trace:
            wire.extra.append((b"traceparent", self.trace.encode()))

    async def answer(self, body: bytes, content: HeaderList = JSON) -> None:
        """Everything went well."""
        self.status = 200
        await self.wire.answer(200, content, body)

    async def refuse(self, problem: Problem) -> None:
        """It did not."""
        self.status, self.outcome = problem.status, problem.code or problem.type
        if not self.wire.started and not self.wire.gone and problem.status != 499:
            await self.wire.answer(problem.status, errors.headers(problem), errors.body(problem))

    def close(self) -> None:
        """It is over: write it down."""
        generation = self.generation
        told = Record(
            id=self.name,
            client_id=self.client_id,
            trace=self.trace[3:35],
            key=self.key,
            endpoint=self.endpoint,
            model=self.model,
            stream=self.stream,
            status=self.status,
            outcome=self.outcome,
            duration_s=round(self.frontend.now() - self.began, 6),
            attached=self.attached,
        )
        if generation is not None:
            _describe(told, generation)
        self.frontend.tell(told, self.stream)


def _describe(told: Record, generation: Generation | Batch) -> None:
    told.first_token_s = max(0.0, round(generation.first_s, 6))
    told.prompt_tokens, told.output_tokens, told.cached_tokens = generation.counts()
    choices = generation.choices
    told.choices = len(choices)
    told.attempts = generation.attempts()
    told.nodes = [f"{node:016x}" for node in generation.nodes()]
    finish = choices[0].finish if choices else None
    told.why = finish.why if finish is not None else ""
    if not told.outcome:
        outcomes = [choice.outcome for choice in choices if choice.outcome]
        told.outcome = ",".join(dict.fromkeys(outcomes)) if len(outcomes) > 1 else "".join(outcomes)
