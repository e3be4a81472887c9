"""A record as mDNS text: what fits comes back, what does not is said, and junk is nothing."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.text import ENTRY_BYTES_MAX, TEXT_BYTES_MAX, Sighting, decode, encode, instance_of, node_of
from proto import limits
from proto.messages import Record

NODE = 0x00AB_CDEF_0123_4567
RECORD = Record(
    node=NODE,
    mesh="lab",
    tag=b"12345678",
    name="Jürgen's box",
    boot=1_700_000_000_000_000_000,
    host="0123456789abcdef",
    addresses=["ipc:///run/user/1/wiremesh/lab/00abcdef01234567.ipc", "tcp://192.0.2.2:5", "tcp://[fd00::2]:6"],
    endpoints=["demo.hello.generate", "demo.hello.count"],
)


def test_there_and_back() -> None:
    assert decode(instance_of(NODE), dict(encode(RECORD, (1, 2)))) == Sighting(RECORD, (1, 2))


def test_the_name_is_the_node() -> None:
    assert instance_of(NODE) == "00abcdef01234567._wiremesh._tcp.local."
    assert node_of(instance_of(NODE)) == NODE
    for name in (
        "x._wiremesh._tcp.local.",
        instance_of(0),
        instance_of(NODE) + "x",
        "00abcdef01234567-2._wiremesh._tcp.local.",
    ):
        assert node_of(name) is None


def test_endpoints_that_do_not_fit_are_left_out_and_said_to_be() -> None:
    names = [f"department.component{index:03}.{'generate' * 5}" for index in range(limits.OFFERS_MAX)]
    record = Record(NODE, "lab", b"", "n", 1, "h", ["tcp://192.0.2.2:5"], [*names, "x" * limits.NAME_CHARS_MAX])
    entries = encode(record, (1, 1))
    assert sum(len(key) + len(value) + 2 for key, value in entries.items()) <= TEXT_BYTES_MAX + 4
    assert all(len(key) + 1 + len(value) <= ENTRY_BYTES_MAX for key, value in entries.items())
    sighting = decode(instance_of(NODE), dict(entries))
    assert sighting is not None and sighting.record.partial
    assert 10 < len(sighting.record.endpoints) < len(names)
    assert sighting.record.endpoints == names[: len(sighting.record.endpoints)]


def test_an_endpoint_that_is_too_long_for_an_entry() -> None:
    record = Record(NODE, "lab", b"", "n", 1, "h", ["tcp://192.0.2.2:5"], ["a.b.c", "x" * limits.NAME_CHARS_MAX])
    sighting = decode(instance_of(NODE), dict(encode(record, (1, 1))))
    assert sighting is not None and sighting.record.partial and sighting.record.endpoints == ["a.b.c"]


def test_what_people_call_a_node_is_cut_between_characters_and_cannot_move_a_cursor() -> None:
    record = Record(NODE, "lab", b"", "é" * 100 + "\x1b[2J", 1, "h", ["tcp://192.0.2.2:5"])
    sighting = decode(instance_of(NODE), dict(encode(record, (1, 1))))
    assert sighting is not None and sighting.record.name == "é" * 31
    sighting = decode(instance_of(NODE), dict(encode(RECORD, (1, 1))) | {b"n": b"\x1b[2Jevil\n"})
    assert sighting is not None and sighting.record.name == "[2Jevil"


def test_too_much_is_nothing() -> None:
    entries: dict[bytes, bytes | None] = dict(encode(RECORD, (1, 1)))
    assert decode(instance_of(NODE), entries | {b"x%d" % index: b"" for index in range(80)}) is None
    assert decode(instance_of(NODE), entries | {b"x%d" % index: bytes(200) for index in range(50)}) is None
    assert decode("junk", entries) is None


@given(
    st.dictionaries(
        st.sampled_from([b"v", b"m", b"t", b"n", b"b", b"h", b"p", b"a0", b"a1", b"e0", b"e1", b"\xff", b""])
        | st.binary(max_size=4),
        st.none() | st.binary(max_size=60) | st.sampled_from([b"1-1", b"99999-0", b"ff", b"tcp://a:1"]),
        max_size=20,
    )
)
def test_any_text_is_a_sighting_or_nothing(entries: dict[bytes, bytes | None]) -> None:
    sighting = decode(instance_of(NODE), entries)
    assert sighting is None or sighting.record.node == NODE
