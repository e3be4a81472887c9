"""Components as their authors write them: names, signatures, what is refused at once, and how quickly it all loads."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import mesh
from mesh import Component, Context
from mesh.endpoint import define
from mesh.options import Options
from mesh.schema import Undefined
from proto import limits
from proto.messages import Offer


async def plain(request: int) -> None: ...


async def with_context(request: int, context: Context) -> None: ...


async def resumable(request: int, context: Context, resume: Any = None) -> None: ...


async def keyword_resume(request: int, *, resume: Any) -> None: ...


async def with_default(request: int, context: Context | None = None) -> None: ...


class Owner:
    async def method(self, request: int, context: Context) -> None: ...


@pytest.mark.parametrize(
    ("handler", "takes_context", "can_resume"),
    [
        (plain, False, False),
        (with_context, True, False),
        (resumable, True, True),
        (keyword_resume, False, True),
        (with_default, True, False),
        (Owner().method, True, False),
        (lambda request: None, False, False),
    ],
)
def test_the_signature_says_what_a_handler_takes(
    handler: Callable[..., Any], takes_context: bool, can_resume: bool
) -> None:
    endpoint = define("a.b.c", handler)
    assert (endpoint.takes_context, endpoint.resumable) == (takes_context, can_resume)


async def nothing() -> None: ...


async def three(request: int, context: Context, more: int) -> None: ...


async def needs(request: int, *, more: int) -> None: ...


@pytest.mark.parametrize("handler", [nothing, three, needs])
def test_other_signatures_are_refused_with_what_would_do(handler: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"a\.b\.c: a handler takes \(request\), \(request, context\), and perhaps"):
        define("a.b.c", handler)


def test_a_request_type_that_cannot_be_checked_is_refused_when_it_is_defined() -> None:
    async def handler(request: Owner) -> None: ...

    with pytest.raises(Undefined, match="Owner is an ordinary class"):
        Component("a.b").endpoint(handler)


@pytest.mark.parametrize("name", ["a", "a.b.c", "", ".b", "a.", "a.b c", "a.1b", "a./b", "a.b\n", "ä.b"])
def test_names_of_components_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=r"must have 2 parts|must be letters"):
        Component(name)


def test_endpoints_are_named_after_their_functions_or_as_told() -> None:
    component = Component("demo.hello")

    @component.endpoint
    async def generate(request: int) -> None: ...

    @component.endpoint(name="other-name", slots=3)
    async def second(request: int, resume: Any = None) -> None: ...

    assert [endpoint.offer() for endpoint in component.endpoints.values()] == [
        Offer("demo.hello.generate", False, 0),
        Offer("demo.hello.other-name", True, 3),
    ]
    assert generate.__name__ == "generate" and second.__name__ == "second", "the functions stay as they are"


def test_what_cannot_be_an_endpoint_is_refused_at_once() -> None:
    component = Component("demo.hello")
    component.endpoint(plain)
    with pytest.raises(ValueError, match=r"demo\.hello\.plain is defined twice"):
        component.endpoint(plain)
    with pytest.raises(ValueError, match="must be letters"):
        component.endpoint(lambda request: None)
    with pytest.raises(ValueError, match="slots=-1"):
        component.endpoint(slots=-1)(with_context)
    with pytest.raises(ValueError, match="too long"):
        component.endpoint(name="x" * limits.NAME_CHARS_MAX)(with_context)
    with pytest.raises(ValueError, match="has no endpoint"):
        Component("demo.empty").serving(options=Options())
    with pytest.raises(RuntimeError, match="does not serve yet"):
        component.client("demo.other.endpoint")
    with pytest.raises(TypeError, match="no such option: port"):
        component.serving(port=1)


def test_an_endpoint_reads_its_requests() -> None:
    class Greeting(msgspec.Struct):
        names: list[str]

    def greet(request: Greeting) -> Greeting:
        return request

    endpoint = define("a.b.c", greet)
    request = endpoint.read(msgspec.msgpack.encode({"names": ["Ada"]}))
    assert endpoint.call(request, Context(), None) == Greeting(["Ada"])


# --- The package ------------------------------------------------------------------------------------------


def test_the_public_names_are_there() -> None:
    assert all(getattr(mesh, name) is not None for name in mesh.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mesh.nothing


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import mesh", {"msgspec", "asyncio", "zmq", "zeroconf", "uvloop", "numpy", "logging"}),
        ("from mesh import Component, Context, Checkpoint", {"asyncio", "zmq", "zeroconf", "uvloop", "numpy"}),
        ("from mesh import connect, failures", {"zeroconf", "uvloop", "numpy", "pydantic"}),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(statement: str, absent: set[str]) -> None:
    program = f"{statement}\nimport sys\nprint(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
