"""Pure. What `--join` says: how a node finds others, and where it has to listen for that."""

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from mesh.discovery import hostlist

DEFAULT_MESH = "default"
SEEDS_MAX = 64  # one contact is enough; more are for the case that it is down
FORMS = (
    "auto (this host; with a key also the LAN or the Slurm job)",
    "lan (mDNS) or lan:INTERFACE,...",
    "dir:PATH (a directory that all nodes can reach)",
    "tcp://HOST:PORT,... (nodes that are known to run)",
    "slurm (inside a job)",
)

_MESH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_INTERFACE = re.compile(r"[A-Za-z0-9._:*?-]{1,64}")
_PORT_MAX = 65_535


class JoinRefused(ValueError):
    """`--join` cannot be followed. The text says why, and what would do."""


class Way(StrEnum):
    """The ways to find others."""

    AUTO = "auto"
    LAN = "lan"
    FOLDER = "dir"
    SEEDS = "tcp"
    SLURM = "slurm"


class Reach(StrEnum):
    """Where a node listens."""

    HOST = "host"  # ipc in the private runtime directory, nothing else
    KEYED = "keyed"  # that, and tcp if there is a key
    NETWORK = "network"  # that, and tcp: without a key it is refused


class Plan(Struct, frozen=True):
    """`--join`, understood. `interfaces` are names, globs or addresses for tcp; empty: the suitable ones."""

    way: Way
    mesh: str
    listen: Reach
    interfaces: tuple[str, ...] = ()
    path: str = ""  # of the shared directory
    seeds: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()  # of the Slurm job
    job: str = ""

    @property
    def is_named_by_job(self) -> bool:
        """Whether the mesh's name is only that of its Slurm job."""
        return bool(self.job) and self.mesh == _job_mesh(self.job)


def parse_join(text: str, mesh: str, environment: Mapping[str, str]) -> Plan:
    """Understand `--join`. Raises JoinRefused."""
    mesh = mesh_name(mesh or DEFAULT_MESH)
    way, _, rest = text.strip().partition(":")
    if text.strip() == Way.AUTO:
        return _auto(mesh, environment)
    if text.strip() == Way.SLURM:
        return slurm_plan(mesh, environment)
    if way == Way.LAN:
        return Plan(Way.LAN, mesh, Reach.NETWORK, interfaces=_interfaces(rest, text))
    if way == Way.FOLDER and rest:
        return Plan(Way.FOLDER, mesh, Reach.KEYED, path=_path(rest, environment))
    if way == Way.SEEDS:
        seeds = tuple(dict.fromkeys(_seed(part.strip()) for part in text.strip().split(",")))
        _require(
            len(seeds) <= SEEDS_MAX, f"--join names {len(seeds)} seeds; {SEEDS_MAX} is the most, and one is enough"
        )
        return Plan(Way.SEEDS, mesh, Reach.NETWORK, interfaces=_towards(seeds), seeds=seeds)
    raise JoinRefused(f"--join {text!r} is none of: {'; '.join(FORMS)}")


def mesh_name(text: str) -> str:
    """The name, if it can be one: it names files and sockets. Raises JoinRefused."""
    _require(_MESH.fullmatch(text), f"mesh name {text!r}: 1 to 64 letters, digits, '.', '_' or '-', no leading dot")
    return text


def slurm_plan(mesh: str, environment: Mapping[str, str]) -> Plan:
    """The plan inside a Slurm job: its node list, and a directory of its own. Raises JoinRefused outside of one."""
    job = environment.get("SLURM_JOB_ID", "")
    _require(job, "--join slurm: SLURM_JOB_ID is not set; start this inside a job (srun, sbatch), or use dir:PATH")
    _require(_MESH.fullmatch(job), f"--join slurm: SLURM_JOB_ID is {job!r}, which is no job id")
    hosts = _hosts(environment)
    root = environment.get("SLURM_SUBMIT_DIR", "")
    path = environment.get("WIREMESH_DIR", "") or (f"{root}/.wiremesh/{job}" if root else "")
    _require(path, "--join slurm: neither WIREMESH_DIR nor SLURM_SUBMIT_DIR is set; name a shared directory with one")
    reach = Reach.NETWORK if len(hosts) > 1 else Reach.KEYED
    name = _job_mesh(job) if mesh == DEFAULT_MESH else mesh  # two jobs of one user must not merge
    return Plan(Way.SLURM, name, reach, path=_path(path, environment), hosts=hosts, job=job)


def _job_mesh(job: str) -> str:
    return f"job-{job}"


def _auto(mesh: str, environment: Mapping[str, str]) -> Plan:
    """Inside a job it is the job's plan, as far as a key allows; elsewhere the LAN's, as far as a key allows."""
    if environment.get("SLURM_JOB_ID"):
        return replace(slurm_plan(mesh, environment), way=Way.AUTO, listen=Reach.KEYED)
    return Plan(Way.AUTO, mesh, Reach.KEYED)


def _hosts(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The job's hosts; a heterogeneous job has one list for each of its groups."""
    groups = sorted(name for name in environment if name.startswith("SLURM_JOB_NODELIST_HET_GROUP_"))
    names = groups or ["SLURM_JOB_NODELIST"]
    text = ",".join(environment[name] for name in names if environment.get(name))
    text = text or environment.get("SLURM_STEP_NODELIST", "")
    _require(text, "--join slurm: neither SLURM_JOB_NODELIST nor SLURM_STEP_NODELIST is set")
    try:
        return hostlist.expand(text)
    except ValueError as error:
        raise JoinRefused(f"--join slurm: the node list cannot be read: {error}") from None


def _path(text: str, environment: Mapping[str, str]) -> str:
    if text == "~" or text.startswith("~/"):
        text = environment.get("HOME", "") + text[1:]
    _require(
        text.startswith("/"), f"--join: the directory {text!r} must begin with '/', so that all nodes mean the same"
    )
    _require(text.isprintable(), f"--join: the directory {text!r} has unprintable characters")
    return text


def _interfaces(text: str, whole: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        _require(_INTERFACE.fullmatch(name), f"--join {whole!r}: {name!r} is no interface name, glob or address")
    return names


def _seed(text: str) -> str:
    """One contact, as ZeroMQ writes it."""
    bare = text.removeprefix("tcp://")
    _require("://" not in bare and "/" not in bare, f"--join: {text!r} is no seed; write tcp://HOST:PORT")
    host, colon, port = bare.rpartition(":")
    _require(colon and port.isascii() and port.isdigit(), f"--join: seed {text!r} has no port; write tcp://HOST:PORT")
    _require(0 < len(port) <= 5 and 0 < int(port) <= _PORT_MAX, f"--join: seed {text!r}: ports are 1 to {_PORT_MAX}")
    if host.startswith("[") and host.endswith("]"):
        return f"tcp://[{_six(host[1:-1], text)}]:{int(port)}"
    _require(":" not in host, f"--join: seed {text!r}: write an IPv6 address in brackets, tcp://[ADDRESS]:PORT")
    _require(_HOST.fullmatch(host), f"--join: seed {text!r}: {host!r} is no host name or address")
    return f"tcp://{host}:{int(port)}"


def _six(text: str, seed: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise JoinRefused(f"--join: seed {seed!r}: {text!r} is no IPv6 address") from None


def _towards(seeds: tuple[str, ...]) -> tuple[str, ...]:
    """Where to listen when these are all that we know: on loopback if all of them are there."""
    local = all(seed.startswith(("tcp://127.", "tcp://[::1]:", "tcp://localhost:")) for seed in seeds)
    return ("127.0.0.1",) if local else ()


def _require(holds: object, text: str) -> None:
    if not holds:
        raise JoinRefused(text)
