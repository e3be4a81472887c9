"""The private directory for sockets."""

import os
from pathlib import Path

import pytest

from mesh.discovery.machine import (
    SOCKET_PATH_BYTES_MAX,
    DirectoryRefused,
    make_private,
    private_umask,
    read_interfaces,
    refuse_directory,
    runtime_directory,
    socket_address,
)


def test_it_is_below_the_users_own_and_private(tmp_path: Path) -> None:
    base = Path("/tmp") / f"w{os.getpid()}"
    base.mkdir()
    try:
        with private_umask():
            directory = runtime_directory("lab", {"XDG_RUNTIME_DIR": str(base)})
        assert directory.path == f"{base}/wiremesh/lab" and directory.note == ""
        assert os.stat(directory.path).st_mode & 0o777 == 0o700
        assert os.stat(f"{base}/wiremesh").st_mode & 0o777 == 0o700
        assert runtime_directory("lab", {"XDG_RUNTIME_DIR": str(base)}) == directory
        address = socket_address(directory.path, 2**64 - 1)
        assert address == f"ipc://{directory.path}/ffffffffffffffff.ipc"
    finally:
        for path in (base / "wiremesh" / "lab", base / "wiremesh", base):
            path.rmdir()


def test_a_path_that_is_too_long_for_a_socket_is_replaced_and_said_to_be(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    found = [runtime_directory(mesh, {"XDG_RUNTIME_DIR": str(deep)}) for mesh in ("a", "b", "a")]
    assert found[0] == found[2] and found[0].path != found[1].path
    assert found[0].path.startswith(f"/tmp/wiremesh-{os.geteuid()}/")
    assert "too long" in found[0].note
    assert len(socket_address(found[0].path, 1).removeprefix("ipc://")) <= SOCKET_PATH_BYTES_MAX
    for directory in found[:2]:
        os.rmdir(directory.path)


def test_a_runtime_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    directory = runtime_directory(f"t{os.getpid()}", {"XDG_RUNTIME_DIR": str(tmp_path / "missing")})
    assert not directory.path.startswith(str(tmp_path))
    os.rmdir(directory.path)


def test_what_others_can_reach_into_is_refused(tmp_path: Path) -> None:
    make_private(tmp_path / "good")
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir(mode=0o755)
    cases = {"link": "symbolic link", "file": "not a directory", "open": "chmod 700", "a/b": "cannot"}
    for name, says in cases.items():
        with pytest.raises(DirectoryRefused, match=says):
            make_private(tmp_path / name)
    with pytest.raises(DirectoryRefused, match="belongs to user"):
        refuse_directory(tmp_path / "good", os.lstat(tmp_path / "good"), os.geteuid() + 1)


def test_the_umask_comes_back(tmp_path: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)
    with private_umask():
        (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError), private_umask():
        (tmp_path / "missing").read_text()
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0
    assert os.umask(before) == before


def test_this_machine_has_a_loopback_without_scopes() -> None:
    interfaces = read_interfaces()
    assert "127.0.0.1" in [each.address for each in interfaces]
    assert not any("%" in each.address for each in interfaces)
