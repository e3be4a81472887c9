"""What a Hello says, who may come in, and where to dial."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from mesh import hellos
from mesh.settings import Settings
from proto import codec, limits
from proto.errors import Reason
from proto.messages import Hello, Offer, Record, Role


def settings(**changes: Any) -> Settings:
    defaults: dict[str, Any] = {
        "node": 1,
        "name": "one",
        "mesh": "blue",
        "tag": b"12345678",
        "boot": 1,
        "host": "here",
        "role": int(Role.COMPONENT),
        "addresses": ("ipc:///one", "tcp://10.0.0.1:1"),
        "offers": (Offer("a.b.c"),),
    }
    return Settings(**(defaults | changes))


OURS = settings(node=2, addresses=("ipc:///two",))


def greeting(destination: int = 2, **changes: Any) -> Hello:
    return hellos.hello(settings(**changes), session=5, destination=destination, draining=False)


def test_one_of_our_own_is_welcome() -> None:
    assert hellos.refusal(greeting(), OURS) is None
    assert hellos.refusal(greeting(destination=0), OURS) is None, "a probe"
    assert hellos.version(greeting(), OURS) == 1


def test_it_says_who_we_are() -> None:
    hello = hellos.hello(settings(), session=5, destination=2, draining=True)
    assert hellos.record_of(hello) == settings().record()
    assert hello.record.endpoints == [], "the offers say it: no name travels twice"
    assert hello.offers == [Offer("a.b.c")]
    assert (hello.session, hello.destination, hello.draining) == (5, 2, True)
    assert codec.decode(codec.encode(1, hello)) == (1, hello)


def without_magic(hello: Hello) -> None:
    hello.magic = "HTTP"


def without_node(hello: Hello) -> None:
    hello.record = structs.replace(hello.record, node=0)


@pytest.mark.parametrize("spoil", [without_magic, without_node])
def test_what_is_no_hello_is_malformed(spoil: Callable[[Hello], None]) -> None:
    hello = greeting()
    spoil(hello)
    assert hellos.refusal(hello, OURS) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"mesh": "red"}, Reason.OTHER_MESH, "this is mesh 'blue', not 'red'"),
        ({"tag": b"other"}, Reason.OTHER_MESH, "another key"),
        ({"tag": b""}, Reason.OTHER_MESH, "another key"),
        ({"version_min": 2, "version_max": 3}, Reason.VERSION, "we speak versions 1 to 1, you 2 to 3"),
        ({"destination": 3}, Reason.WRONG_NODE, "this is node 0000000000000002, not 0000000000000003"),
    ],
)
def test_who_stays_outside_and_what_it_is_told(changes: dict[str, Any], reason: Reason, said: str) -> None:
    hello = greeting(**changes)
    assert hellos.refusal(hello, OURS) is reason
    assert said in hellos.explain(reason, hello, OURS)


def test_a_stranger_of_another_mesh_is_told_that_first() -> None:
    hello = greeting(mesh="red", version_min=9, version_max=9, destination=77)
    assert hellos.refusal(hello, OURS) is Reason.OTHER_MESH


ADDRESSES = ["tcp://10.0.0.1:1", "ipc:///one", "tcp://10.0.0.2:1"]


@pytest.mark.parametrize(
    ("host", "dialled"),
    [
        ("here", ["ipc:///one", "tcp://10.0.0.1:1", "tcp://10.0.0.2:1", "ipc:///one"]),
        ("there", ["tcp://10.0.0.1:1", "tcp://10.0.0.2:1", "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"]),
    ],
)
def test_each_turn_tries_the_next_address_and_ipc_only_at_home(host: str, dialled: list[str]) -> None:
    record = Record(1, "blue", b"", "one", 1, "here", ADDRESSES)
    assert [hellos.choose_address(record, host, turn) for turn in range(4)] == dialled


@pytest.mark.parametrize("addresses", [[], ["ipc:///one"], ["inproc://x", "pgm://1.2.3.4:5", "file:///etc"]])
def test_nowhere_to_dial(addresses: list[str]) -> None:
    assert hellos.choose_address(Record(1, "blue", b"", "one", 1, "here", addresses), "there", 0) is None


def test_a_node_of_many_endpoints_can_still_greet() -> None:
    offers = tuple(Offer(f"namespace.component.endpoint-{number:03}", True, 9) for number in range(limits.OFFERS_MAX))
    addresses = tuple(f"tcp://a-long-host-name.example.org:{number}" for number in range(limits.ADDRESSES_MAX))
    frame = codec.encode(1, hellos.hello(settings(offers=offers, addresses=addresses), 2**63, 2**63, False))
    assert len(frame) <= limits.HELLO_BYTES_MAX
