"""Frontends as processes, over a mesh with simulated workers: what a client sees, and what survives."""

import http.client
import json
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import openai
import pytest

from tests.nodes.text.tiny import CONFIG, byte_level
from tests.real.processes import PATIENCE_S, Child
from tests.real.serving import says

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello world"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's directory, without weights."""
    (tmp_path / "tokenizer.json").write_text(byte_level()._library.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    return tmp_path


class Mesh:
    """Processes of one mesh."""

    def __init__(self, stack: ExitStack, join: str, folder: Path) -> None:
        self._stack = stack
        self._join = ("--join", f"dir:{join}")
        self._folder = folder
        self.children: list[Child] = []

    def start(self, command: str, *words: object) -> Child:
        child = self._stack.enter_context(Child("-m", "launch.cli", command, *self._join, *words))
        self.children.append(child)
        return child

    def worker(self, *words: object) -> Child:
        return self.start("worker", "--model", self._folder, "--name-as", "org/tiny", "--engine", "sim", *words)

    def frontend(self, *words: object) -> tuple[Child, int]:
        child = self.start("frontend", "--port", 0, *words)
        found = re.search(r"https?://127\.0\.0\.1:(\d+)", child.line("is ready"))
        assert found is not None
        return child, int(found.group(1))


@contextmanager
def mesh(runtime: str, folder: Path) -> Iterator[Mesh]:
    with ExitStack() as stack:
        yield Mesh(stack, runtime, folder)


def get(port: int, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), named)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def until(port: int, status: int, path: str = "/health") -> bytes:
    """Ask until this is the status."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            found, body = get(port, path)
        except OSError:
            found, body = 0, b""
        if found == status:
            return body
        assert time.monotonic() < end, (found, body)
        Event().wait(0.02)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "org/tiny", "messages": HELLO, "max_tokens": 40, "temperature": 0, **more}


def test_the_openai_client(runtime: str, folder: Path) -> None:
    with mesh(runtime, folder) as there:
        _, port = there.frontend()
        assert get(port, "/health")[0] == 503
        assert get(port, CHAT, "POST", chat())[0] == 404
        there.worker("--speedup", 0)
        until(port, 200)
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["org/tiny"]
            assert client.models.retrieve("org/tiny").owned_by == "wiremesh"
            whole = client.chat.completions.create(**chat())
            text = whole.choices[0].message.content
            assert text and whole.usage and whole.usage.completion_tokens == 40
            assert whole.choices[0].finish_reason == "length"
            with client.chat.completions.create(**chat(stream=True)) as stream:
                assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
            two = client.chat.completions.create(**chat(n=2, logprobs=True, top_logprobs=2))
            assert [choice.message.content for choice in two.choices] == [text, text]
            assert two.choices[1].logprobs and len(two.choices[1].logprobs.content or ()) == 40
            stopped = client.chat.completions.create(**chat(stop=[text[5:7]]))
            assert stopped.choices[0].message.content == text[: text.index(text[5:7])]
            done = client.completions.create(model="org/tiny", prompt=["hello", "world"], max_tokens=3)
            assert len(done.choices) == 2
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(**chat(max_tokens=5000))
            assert refused.value.code == "context_length_exceeded"
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(**chat(model="nobody"))


def test_a_stream_survives_the_death_of_its_worker(runtime: str, folder: Path) -> None:
    with mesh(runtime, folder) as there:
        _, port = there.frontend()
        workers = [there.worker("--decode-ms", "0:5", "--prefill-ms", "0:1") for _ in range(2)]
        until(port, 200)
        for worker in workers:
            worker.line("is ready")
        with (
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
            client.chat.completions.create(**chat(max_tokens=600, stream=True)) as stream,
        ):
            parts: list[str] = []
            for chunk in stream:
                parts.append(chunk.choices[0].delta.content or "")
                if len(parts) == 50:
                    running = next(one for one in workers * 50 if _runs_something(port, one))
                    running.signal(signal.SIGKILL)
        assert "".join(parts) == says("hello world", 600)
        assert b"wiremesh_frontend_migrations_total" in get(port, "/metrics")[1]


def _runs_something(port: int, worker: Child) -> bool:
    found = re.search(r"node ([0-9a-f]{16})", worker.line("is ready"))
    assert found is not None
    for line in get(port, "/metrics")[1].decode().splitlines():
        if line.startswith("wiremesh_node_legs{") and found.group(1) in line:
            return float(line.rsplit(" ", 1)[1]) >= 2  # its answer to this very question is one
    return False


def test_another_frontend_continues_a_stream(runtime: str, folder: Path) -> None:
    with mesh(runtime, folder) as there:
        _, first = there.frontend()
        _, second = there.frontend()
        there.worker("--decode-ms", "0:5", "--prefill-ms", "0:1")
        until(first, 200)
        until(second, 200)
        connection = http.client.HTTPConnection("127.0.0.1", first, timeout=PATIENCE_S)
        body = json.dumps(chat(stream=True, max_tokens=100))
        connection.request("POST", CHAT, body, {"Idempotency-Key": "k"})
        answer = connection.getresponse()
        name = answer.headers["x-wiremesh-stream"]
        seen = answer.read1(2000)
        connection.close()
        status, whole = get(second, f"/v1/streams/{name}")
        assert status == 200 and whole.endswith(b"data: [DONE]\n\n") and whole.startswith(seen[: seen.rindex(b"\n\n")])
        status, rest = get(second, f"/v1/streams/{name}", last_event_id="20")
        assert rest == whole[whole.index(b"id: 21\n") :]
        assert get(second, f"/v1/streams/{name[:17]}{'0' * 16}")[0] == 404
        assert get(second, f"/v1/streams/{'0' * 16}-{'0' * 16}")[0] == 404


def test_a_drain_finishes_what_runs(runtime: str, folder: Path) -> None:
    with mesh(runtime, folder) as there:
        child, port = there.frontend()
        there.worker("--decode-ms", "0:10", "--prefill-ms", "0:1")
        until(port, 200)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("POST", CHAT, json.dumps(chat(stream=True, max_tokens=80)))
        answer = connection.getresponse()
        answer.read(10)
        child.signal(signal.SIGTERM)
        assert answer.read().endswith(b"data: [DONE]\n\n")
        connection.close()
        assert child.wait() == 0


def test_keys_are_read_again(runtime: str, folder: Path) -> None:
    keys = folder / "keys"
    keys.write_text("ann:sk-1\n")
    keys.chmod(0o600)
    with mesh(runtime, folder) as there:
        child, port = there.frontend("--api-keys", keys, "--log-format", "json")
        assert get(port, "/v1/models")[0] == 401
        assert get(port, "/v1/models", authorization="Bearer sk-1")[0] == 200
        keys.write_text("bob:sk-2\n")
        child.signal(signal.SIGHUP)
        child.line("1 API keys are in force")
        assert get(port, "/v1/models", authorization="Bearer sk-1")[0] == 401
        assert get(port, "/v1/models", x_api_key="sk-2")[0] == 200
        assert get(port, CHAT, "POST", chat())[0] == 401
        line = json.loads(child.line('"wiremesh.request"'))
        assert line["status"] == 401 and line["outcome"] == "invalid_api_key"


def test_mistakes_are_one_sentence(runtime: str, folder: Path) -> None:
    keys = folder / "keys"
    keys.write_text("ann:sk-1\n")
    with mesh(runtime, folder) as there:
        _, port = there.frontend()
        for words, text in (
            (("--api-keys", keys), "chmod 600"),
            (("--api-keys", folder / "none"), "cannot be opened"),
            (("--tls-cert", keys, "--tls-key", keys), "--tls-cert"),
            (("--host", "203.0.113.1"), "--host"),
        ):
            child = there.start("frontend", "--port", 0, *words)
            assert child.wait() == 78
            assert text in child.text and "Traceback" not in child.text, child.text
        assert get(port, "/live")[0] == 200


def test_https(runtime: str, folder: Path) -> None:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            *names,
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("no openssl here")
    with mesh(runtime, folder) as there:
        _, port = there.frontend("--tls-cert", certificate, "--tls-key", key)
        there.worker("--speedup", 0)
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context)
        end = time.monotonic() + PATIENCE_S
        while True:
            connection.request("POST", CHAT, json.dumps(chat(stream=True)))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                break
            assert time.monotonic() < end
            Event().wait(0.02)
        assert body.endswith(b"data: [DONE]\n\n")
        connection.close()
