"""Shell. From a plan to what a process does: its key, where it listens, how it finds others.

`auto` climbs as far as it may: without a key it stays on this host, in a private directory, with no TCP and no
multicast; with the mesh's key it also goes to the Slurm job's directory, or else to the LAN.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mesh.discovery import Discovery, Plan
from mesh.discovery.folder import Folder
from mesh.discovery.interfaces import advertise, bind_address, choose
from mesh.discovery.machine import DirectoryRefused, read_interfaces, runtime_directory, socket_address
from mesh.discovery.plan import DEFAULT_MESH, Reach, Way
from mesh.discovery.several import Seeds, Several
from mesh.discovery.slurm import Slurm
from mesh.process import host_identity
from mesh.security import Key, KeyRefused, default_key_path, load_key, refuse_listen, rename_key

__all__ = ["Arrangement", "DirectoryRefused", "addresses_of", "arrange", "runtime_directory"]


@dataclass(frozen=True)
class Arrangement:
    """What a process does to be in the mesh."""

    mesh: str  # the name that counts: a Slurm job has its own
    key: Key | None
    host: str  # for Settings.host
    listen: tuple[str, ...]  # addresses to bind; port 0: the kernel chooses
    discovery: Discovery
    remarks: tuple[str, ...]  # worth a line at start

    @property
    def tag(self) -> bytes:
        """For Settings.tag."""
        return self.key.tag if self.key else b""


def arrange(
    plan: Plan,
    node: int,
    key_path: str | None = None,
    listen: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Arrangement:
    """Follow a plan. Raises KeyRefused, DirectoryRefused, and JoinRefused for an interface that is not there."""
    key = _find_key(plan, key_path, environment)
    for address in listen:
        refuse_listen(address, key)
    if key is None and plan.listen is Reach.NETWORK:
        raise KeyRefused(_need_key(plan))
    private, host, remarks = _private(plan, key, environment)
    addresses = [socket_address(private, node)] if private else []
    addresses += listen or (_network(plan) if key else ())
    if key is None and plan.way in (Way.FOLDER, Way.SLURM):
        remarks.append(f"no key for mesh {plan.mesh!r}: only nodes on this host can be reached (see 'wiremesh keygen')")
    return Arrangement(plan.mesh, key, host, tuple(addresses), _discovery(plan, key, private), tuple(remarks))


def addresses_of(bound: Iterable[str]) -> tuple[str, ...]:
    """What to publish for what was bound: wildcards become the addresses behind them."""
    wild = ("tcp://0.0.0.0:", "tcp://*:", "tcp://[::]:")
    published: list[str] = []
    for address in bound:
        published += advertise(address, read_interfaces()) if address.startswith(wild) else [address]
    return tuple(dict.fromkeys(published))


def _find_key(plan: Plan, path: str | None, environment: Mapping[str, str]) -> Key | None:
    """The key that was named, or else the mesh's own if it exists. A key that exists but is refused is an error."""
    by_job = plan.is_named_by_job  # nobody makes a key for each job
    if path is not None:
        return rename_key(load_key(path), plan.mesh, by_job)
    names = (plan.mesh, DEFAULT_MESH) if by_job else (plan.mesh,)
    for name in names:
        default = default_key_path(name, environment)
        if os.path.lexists(default):
            return rename_key(load_key(default), plan.mesh, by_job)
    return None


def _need_key(plan: Plan) -> str:
    return (
        f"--join {plan.way} reaches other hosts, and mesh {plan.mesh!r} has no key: make one with 'wiremesh keygen "
        f"--mesh {plan.mesh}' and copy it to every host, or name one with --key"
    )


def _private(plan: Plan, key: Key | None, environment: Mapping[str, str]) -> tuple[str, str, list[str]]:
    """The private directory (empty if there is none and we can do without), this host's identity, remarks."""
    try:
        runtime = runtime_directory(plan.mesh, environment)
    except DirectoryRefused as error:
        if key is None or plan.way is Way.AUTO:
            raise
        return "", host_identity(), [f"no private sockets on this host, TCP only: {error}"]
    return runtime.path, host_identity(runtime.path), [runtime.note] if runtime.note else []


def _network(plan: Plan) -> tuple[str, ...]:
    return tuple(bind_address(interface) for interface in choose(read_interfaces(), plan.interfaces).chosen)


def _discovery(plan: Plan, key: Key | None, private: str) -> Discovery:
    tags = key.tags if key else (b"",)
    match plan.way:
        case Way.LAN:
            return _lan(plan, tags)
        case Way.FOLDER:
            return Folder(plan.path, tags)
        case Way.SEEDS:
            return Seeds(plan.seeds)
        case Way.SLURM:
            return Slurm(plan, tags)
    here = Folder(private, tags, local=True, sockets=True)
    if key is None:
        return here
    return Several([Slurm(plan, tags) if plan.job else _lan(plan, tags), here])


def _lan(plan: Plan, tags: Sequence[bytes]) -> Discovery:
    from mesh.discovery.lan import Lan  # Zeroconf takes its time to load.

    return Lan(tags, plan.interfaces)
