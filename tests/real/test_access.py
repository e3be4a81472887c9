"""Several frontends on one port, HTTPS, and API keys: with real processes and the openai client."""

import asyncio
import ssl
import subprocess
from collections.abc import Iterator

import openai
import pytest

from tests.real.raw_http import CHAT, Answer, ask
from tests.real.serving import (
    AT_ONCE,
    MODEL,
    PACED,
    Frontend,
    Serving,
    chat,
    eventually,
    mesh,
    node_of,
    ready,
    says,
)

SLOW = "slow"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with mesh(tmp_path_factory.mktemp("access")) as there:
        ready(there.worker("one", *AT_ONCE), there.worker("slow", *PACED, serves=SLOW))
        yield there


def test_two_frontends_share_a_port(there: Serving) -> None:
    """Both answer; when one is killed its connections are lost, and every new one is served by the other."""
    with there.moment():
        first = there.frontend()
        second = there.frontend(port=first.port)
        asyncio.run(both_answer(first, second))


async def both_answer(first: Frontend, second: Frontend) -> None:
    seen: set[str] = set()

    async def nodes() -> set[str]:
        """Who answers now. Until a frontend knows the model it says so, and what waited for one that dies is lost."""
        asks = [ask(first.port, CHAT, chat(f"{number}")) for number in range(8)]
        answers: set[str] = set()
        for number, one in enumerate(await asyncio.gather(*asks, return_exceptions=True)):
            if isinstance(one, Answer) and one.status == 200:
                assert one.json["choices"][0]["message"]["content"] == says(f"{number}", 40)
                answers.add(one.json["id"].split("-")[1])
            else:
                assert isinstance(one, OSError | EOFError) or (isinstance(one, Answer) and one.status in (404, 503))
        return answers

    async def seen_so_far() -> set[str]:
        seen.update(await nodes())
        return seen

    await eventually(seen_so_far, lambda found: found == {node_of(first.child), node_of(second.child)})
    first.child.kill()
    await eventually(nodes, lambda found: found == {node_of(second.child)})


@pytest.fixture
def secure(there: Serving) -> Iterator[Frontend]:
    """A frontend with HTTPS and keys."""
    folder = there.folder
    certificate, key, keys = folder / "cert.pem", folder / "key.pem", folder / "keys"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run([*make.split(), "-keyout", key, "-out", certificate], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl here")
    keys.write_text("ann:sk-ann\nbob:sk-bob\n")
    keys.chmod(0o600)
    words = ("--tls-cert", certificate, "--tls-key", key, "--api-keys", keys, "--concurrency-per-key", 1)
    with there.moment():
        yield there.frontend(*words)


def test_https_and_keys(there: Serving, secure: Frontend) -> None:
    context = ssl.create_default_context(cafile=str(there.folder / "cert.pem"))
    url = secure.url.replace("http:", "https:")

    async def main() -> None:
        transport = openai.DefaultAsyncHttpxClient(verify=context)
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-ann", max_retries=0, http_client=transport) as ann:

            async def listed() -> list[str]:
                return [model.id async for model in await ann.models.list()]

            await eventually(listed, lambda found: {MODEL, SLOW} <= set(found))
            made = await ann.chat.completions.create(**chat())
            assert made.choices[0].message.content == says("hello world", 40)
            with pytest.raises(openai.AuthenticationError) as caught:
                await ann.with_options(api_key="sk-eve").chat.completions.create(**chat())
            assert caught.value.code == "invalid_api_key"
            stream = await ann.chat.completions.create(**{**chat(tokens=2000, stream=True), "model": SLOW})
            async with stream:
                await anext(aiter(stream))
                with pytest.raises(openai.RateLimitError) as limited:
                    await ann.chat.completions.create(**chat())
                assert float(limited.value.response.headers["retry-after-ms"]) > 0
                other = ann.with_options(api_key="sk-bob")
                assert (await other.chat.completions.create(**chat())).choices[0].finish_reason == "length"

    asyncio.run(main())
