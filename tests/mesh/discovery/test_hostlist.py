"""Slurm host lists: what Slurm writes is read, and junk of any kind is refused quickly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.hostlist import HOSTS_MAX, expand


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("login", ("login",)),
        ("a,b", ("a", "b")),
        ("n[001-004,007]", ("n001", "n002", "n003", "n004", "n007")),
        ("gpu-[1-2]x[3-4]", ("gpu-1x3", "gpu-1x4", "gpu-2x3", "gpu-2x4")),
        ("n[9-11].cluster,m[1]", ("n9.cluster", "n10.cluster", "n11.cluster", "m1")),
        ("n[1-2],n2", ("n1", "n2")),
    ],
)
def test_expands(text: str, hosts: tuple[str, ...]) -> None:
    assert expand(text) == hosts


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "n[",
        "n]",
        "n[1-2",
        "n[a-b]",
        "n[3-1]",
        "n[[1]]",
        "n[]",
        "n[1-999999999]",
        "n[1-9999]x[1-9999]",
        "a b",
        "é",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|range|backwards"):
        expand(text)


def test_the_largest_list_is_allowed() -> None:
    assert len(expand(f"n[1-{HOSTS_MAX}]")) == HOSTS_MAX
    with pytest.raises(ValueError, match="more than"):
        expand(f"n[0-{HOSTS_MAX}]")


@given(st.text(alphabet="n01-9[],. x", max_size=40))
def test_any_text_gives_hosts_or_a_value_error(text: str) -> None:
    try:
        hosts = expand(text)
    except ValueError:
        return
    assert 0 < len(hosts) <= HOSTS_MAX
    assert all(host and not set("[], ") & set(host) for host in hosts)
