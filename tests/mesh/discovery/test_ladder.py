"""From a plan to what a process does."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.discovery import JoinRefused, ladder, parse_join
from mesh.discovery.folder import Folder
from mesh.discovery.interfaces import Interface
from mesh.discovery.ladder import Arrangement, addresses_of, arrange
from mesh.discovery.lan import Lan
from mesh.discovery.machine import DirectoryRefused
from mesh.discovery.several import Seeds, Several
from mesh.discovery.slurm import Slurm
from mesh.security import KeyRefused, create_key, default_key_path
from proto.messages import Record

NODE = 0xABC


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A user with an empty configuration, on a machine with one interface."""
    monkeypatch.setattr(ladder, "read_interfaces", lambda: (Interface("lo", "127.0.0.1"), Interface("e", "192.0.2.2")))
    home = Path(f"/tmp/w{os.getpid()}")  # short: sockets are in it
    home.mkdir(mode=0o700)
    yield {"XDG_RUNTIME_DIR": str(home), "XDG_CONFIG_HOME": str(home), "HOME": str(home)}
    shutil.rmtree(home)


def made(join: str, environment: dict[str, str], mesh: str = "lab", **more: object) -> Arrangement:
    return arrange(parse_join(join, mesh, environment), NODE, environment=environment, **more)  # type: ignore[arg-type]


def test_without_a_key_auto_stays_on_this_host(environment: dict[str, str]) -> None:
    arrangement = made("auto", environment)
    assert arrangement.listen == (f"ipc://{environment['XDG_RUNTIME_DIR']}/wiremesh/lab/0000000000000abc.ipc",)
    assert isinstance(arrangement.discovery, Folder)
    assert (arrangement.key, arrangement.tag, arrangement.remarks) == (None, b"", ())


def test_with_the_meshs_key_auto_goes_to_the_lan_too(environment: dict[str, str]) -> None:
    key = create_key(default_key_path("lab", environment), "lab")
    arrangement = made("auto", environment)
    assert arrangement.key == key and arrangement.tag == key.tag
    assert [address.split(":")[0] for address in arrangement.listen] == ["ipc", "tcp"]
    assert arrangement.listen[1] == "tcp://192.0.2.2:0"
    assert isinstance(arrangement.discovery, Several)
    assert [type(way) for way in arrangement.discovery._ways] == [Lan, Folder]
    assert made("auto", environment, mesh="other").key is None


def test_with_a_key_auto_in_a_job_uses_its_directory(environment: dict[str, str]) -> None:
    create_key(default_key_path("default", environment), "default")
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": "/shared"}
    arrangement = made("auto", environment | job, mesh="default")
    other = made("auto", environment | job | {"SLURM_JOB_ID": "8"}, mesh="default")
    assert arrangement.mesh == "job-7" and arrangement.tag != other.tag, "two jobs never merge"
    assert isinstance(arrangement.discovery, Several)
    assert [type(way) for way in arrangement.discovery._ways] == [Slurm, Folder]
    assert isinstance(made("auto", environment | job, mesh="none").discovery, Folder)


@pytest.mark.parametrize("join", ["lan", "tcp://10.0.0.1:5", "slurm"])
def test_what_reaches_other_hosts_needs_a_key(environment: dict[str, str], join: str) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": "/shared"}
    with pytest.raises(KeyRefused, match="wiremesh keygen"):
        made(join, environment | job)


def test_a_key_that_exists_but_is_refused_is_an_error_and_not_no_key(environment: dict[str, str]) -> None:
    path = default_key_path("lab", environment)
    create_key(path, "lab")
    path.chmod(0o644)
    with pytest.raises(KeyRefused, match="chmod 600"):
        made("auto", environment)


def test_a_key_of_another_mesh_is_a_mistake(environment: dict[str, str], tmp_path: Path) -> None:
    create_key(tmp_path / "key", "lab")
    with pytest.raises(KeyRefused, match="--mesh lab"):
        made("auto", environment, mesh="other", key_path=str(tmp_path / "key"))
    with pytest.raises(KeyRefused, match="no key file"):
        made("auto", environment, key_path=str(tmp_path / "missing"))


def test_listen_replaces_the_network_and_is_checked(environment: dict[str, str]) -> None:
    with pytest.raises(KeyRefused, match="without a key"):
        made("auto", environment, listen=("tcp://127.0.0.1:5",))
    create_key(default_key_path("lab", environment), "lab")
    assert made("auto", environment, listen=("tcp://127.0.0.1:5",)).listen[1:] == ("tcp://127.0.0.1:5",)


def test_directories_seeds_and_the_lan(environment: dict[str, str], tmp_path: Path) -> None:
    arrangement = made(f"dir:{tmp_path}", environment)
    assert isinstance(arrangement.discovery, Folder) and len(arrangement.listen) == 1
    assert "only nodes on this host" in arrangement.remarks[0]
    create_key(default_key_path("lab", environment), "lab")
    arrangement = made("tcp://127.0.0.1:5", environment)
    assert isinstance(arrangement.discovery, Seeds) and arrangement.listen[1] == "tcp://127.0.0.1:0"
    assert isinstance(made("lan", environment).discovery, Lan)
    with pytest.raises(JoinRefused, match="no interface is called 'hsn0'"):
        made("lan:hsn0", environment)


def test_without_a_private_directory_a_keyed_node_uses_tcp_alone(environment: dict[str, str], tmp_path: Path) -> None:
    (Path(environment["XDG_RUNTIME_DIR"]) / "wiremesh").symlink_to(tmp_path)
    with pytest.raises(DirectoryRefused, match="symbolic link"):
        made("auto", environment)
    key = create_key(tmp_path / "key", "lab")
    arrangement = made("lan", environment, key_path=str(tmp_path / "key"))
    assert arrangement.listen == ("tcp://192.0.2.2:0",) and arrangement.key == key
    assert "TCP only" in arrangement.remarks[0]


def test_wildcards_are_published_as_addresses(environment: dict[str, str]) -> None:
    assert addresses_of(["ipc:///x", "tcp://0.0.0.0:5", "tcp://192.0.2.2:5"]) == ("ipc:///x", "tcp://192.0.2.2:5")


# --- Several ways at once ----------------------------------------------------------------------------------


class Way:
    """A way that a test plays."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.log: list[str] = []

    async def start(
        self,
        record: Record,
        found: Callable[[Record], None],
        lost: Callable[[int], None],
        seed: Callable[[str], None],
        remark: Callable[[str, str], None],
    ) -> None:
        if self.error:
            raise self.error
        self.found, self.lost = found, lost

    async def publish(self, record: Record) -> None:
        self.log.append("publish")

    async def stop(self) -> None:
        self.log.append("stop")

    def describe(self) -> str:
        return "way"


RECORD = Record(1, "lab", b"", "n", 1, "h", ["tcp://192.0.2.2:5"])


def test_a_node_is_lost_when_no_way_sees_it() -> None:
    async def scenario() -> None:
        ways, found, lost = [Way(), Way()], [], []
        several = Several(ways)
        await several.start(RECORD, found.append, lost.append, print, print)
        ways[0].found(RECORD)
        ways[1].found(RECORD)
        ways[0].lost(1)
        assert lost == []
        ways[1].lost(1)
        assert lost == [1] and found == [RECORD, RECORD]
        await several.publish(RECORD)
        await several.stop()
        assert [way.log for way in ways] == [["publish", "stop"]] * 2
        assert several.describe() == "way; way"

    asyncio.run(scenario())


def test_a_way_that_does_not_work_is_left_out_and_none_is_an_error() -> None:
    async def scenario() -> None:
        remarks: list[str] = []
        several = Several([Way(OSError("no multicast")), Way()])
        await several.start(RECORD, print, print, print, lambda _, text: remarks.append(text))
        assert several.describe() == "way" and "no multicast" in remarks[0]
        with pytest.raises(OSError, match="no multicast"):
            await Several([Way(OSError("no multicast"))]).start(RECORD, print, print, print, lambda _, text: None)

    asyncio.run(scenario())


def test_seeds_are_named_once() -> None:
    async def scenario() -> None:
        seeds, named = Seeds(("tcp://a:1", "tcp://b:2")), []
        await seeds.start(RECORD, print, print, named.append, print)
        await seeds.publish(RECORD)
        await seeds.stop()
        assert named == ["tcp://a:1", "tcp://b:2"]
        assert seeds.describe() == "seeds tcp://a:1, tcp://b:2"

    asyncio.run(scenario())
