"""The key file: what is written, and each thing that makes it refused. Sockets are in `tests/real/test_curve.py`."""

import os
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from mesh.security import (
    KIND,
    KeyRefused,
    create_key,
    default_key_path,
    load_key,
    parse_key,
    refuse_listen,
    refuse_status,
    rename_key,
    tag_of,
)


def test_what_is_made_can_be_loaded_by_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "lab.key"
    before = os.umask(0)
    try:
        key = create_key(path, "lab")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.read_text().startswith(KIND + "\n")
    assert load_key(path) == key
    assert key.accept == (key.public,) and key.tags == (key.tag,)
    assert zmq.curve_public(key.secret) == key.public
    assert key.secret.decode() not in repr(key)


def test_a_key_is_not_overwritten_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "lab.key"
    key = create_key(path, "lab")
    with pytest.raises(KeyRefused, match="--force"):
        create_key(path, "lab")
    assert load_key(path) == key
    assert create_key(path, "lab", force=True) == load_key(path) != key
    assert os.listdir(tmp_path) == ["lab.key"]


def test_the_tag_tells_keys_and_meshes_apart_and_no_key() -> None:
    public = b"x" * 40
    assert len({tag_of(public, "a"), tag_of(public, "b"), tag_of(b"y" * 40, "a")}) == 3
    assert len(tag_of(public, "a")) == 8


def test_where_keys_lie() -> None:
    assert default_key_path("lab", {"XDG_CONFIG_HOME": "/c"}) == Path("/c/wiremesh/lab.key")
    assert default_key_path("lab", {"HOME": "/h"}) == Path("/h/.config/wiremesh/lab.key")
    assert default_key_path("lab", {"HOME": "/h", "XDG_CONFIG_HOME": "rel"}) == Path("/h/.config/wiremesh/lab.key")
    with pytest.raises(ValueError, match="mesh name"):
        default_key_path("../../etc/x", {"HOME": "/h"})


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o004, 0o002, 0o010, 0o001])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, bits: int) -> None:
    create_key(tmp_path / "key", "lab")
    (tmp_path / "key").chmod(0o600 | bits)
    with pytest.raises(KeyRefused, match="chmod 600"):
        load_key(tmp_path / "key")


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path / "key", "lab")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, says in (("link", "symbolic link"), ("pipe", "not a regular file"), (".", "regular"), ("none", "keygen")):
        with pytest.raises(KeyRefused, match=says):
            load_key(tmp_path / name)
    with pytest.raises(KeyRefused, match="belongs to user"):
        refuse_status("key", os.stat(tmp_path / "key"), os.geteuid() + 1)


def damaged(content: str, name: str, value: str) -> str:
    """The content with one entry replaced."""
    lines = [f"{name} {value}" if line.startswith(name + " ") else line for line in content.splitlines()]
    return "\n".join(lines)


def test_each_kind_of_damage_has_its_own_words(tmp_path: Path) -> None:
    create_key(tmp_path / "key", "lab")
    good = (tmp_path / "key").read_text()
    other = zmq.curve_keypair()[0].decode()
    cases = {
        "is empty": "",
        "an SSH or TLS key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb\n",
        "no key file of a mesh": "hello\n",
        "another version": good.replace("key 1", "key 2"),
        "cut short": good[: good.index("secret")],
        "its secret key is damaged": good[: good.index("secret") + 20],
        "its public key is damaged": damaged(good, "public", "'" * 40),
        "does not belong": damaged(good, "public", other),
        "mesh name": damaged(good, "mesh", "../x"),
        "too large": good + "#" * 5000,
        "accepts 4 more": good + f"accept {other}\n" * 4,
        "its accept key is damaged": good + "accept short\n",
    }
    for says, content in cases.items():
        with pytest.raises(KeyRefused, match=says) as refused:
            parse_key(content.encode(), "FILE")
        assert str(refused.value).startswith("FILE")
        assert good.split("secret ")[1].strip() not in str(refused.value)


def test_two_keys_during_a_rotation(tmp_path: Path) -> None:
    create_key(tmp_path / "key", "lab")
    other = zmq.curve_keypair()[0]
    content = (tmp_path / "key").read_bytes() + b"accept " + other + b"\n"
    key = parse_key(content, "FILE")
    assert key.accept == (key.public, other)
    assert key.tags == (key.tag, tag_of(other, "lab"))
    assert key.public_of(key.tags[1]) == other and key.public_of(b"unknown") == key.public


def test_only_a_job_may_rename_a_key(tmp_path: Path) -> None:
    key = create_key(tmp_path / "key", "lab")
    assert rename_key(key, "lab") == key
    with pytest.raises(KeyRefused, match="--mesh lab"):
        rename_key(key, "other")
    renamed = rename_key(key, "job-1", by_job=True)
    assert (renamed.mesh, renamed.tag) == ("job-1", tag_of(key.public, "job-1"))


def test_nothing_listens_without_a_key(tmp_path: Path) -> None:
    key = create_key(tmp_path / "key", "lab")
    for address in ("tcp://127.0.0.1:0", "tcp://*:5", "tcp://0.0.0.0:5", "tcp://[::]:5", "tcp://eth0:5"):
        with pytest.raises(KeyRefused, match="wiremesh keygen"):
            refuse_listen(address, None)
        refuse_listen(address, key)
    refuse_listen("ipc:///run/x", None)
    for address in ("ipc://@abstract", "inproc://x", "udp://1.2.3.4:5", "ws://*:80", "nonsense"):
        with pytest.raises(KeyRefused, match="cannot listen"):
            refuse_listen(address, key)


@given(st.binary(max_size=300))
def test_any_content_is_a_key_or_refused(content: bytes) -> None:
    for start in (b"", KIND.encode() + b"\n", KIND.encode() + b"\nmesh m\ncreated c\npublic p\nsecret "):
        with pytest.raises(KeyRefused):
            parse_key(start + content, "FILE")
