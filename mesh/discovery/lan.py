"""Shell. Discovery on the local network: mDNS, service `_wiremesh._tcp`.

An instance is named by the node id; what it says is read by `text` and sifted by `sightings.Sieve`. Presence is never
taken from mDNS: a removed service is a hint, an announced one an address to try. Anybody on the LAN can announce
anything; the mesh key decides who is let in.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from zeroconf import BadTypeInNameException, Error, IPVersion, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from mesh.core import Found, Lost, Remark
from mesh.discovery import text
from mesh.discovery.interfaces import Choice, choose
from mesh.discovery.machine import read_interfaces, watched
from mesh.discovery.sightings import Outcome, Sieve
from proto import limits
from proto.messages import Record
from proto.version import VERSION, VERSION_MIN, negotiate

TTL_S = 60  # what a dead node leaves behind lives no longer in anybody's cache
RESCAN_S = 5.0  # cables, VPNs and docks come and go
TURN_S = 0.1  # changes of one node are taken together
TURN_INSTANCES_MAX = 32  # so that a flood costs at most 320 lookups a second
PENDING_MAX = 2 * limits.RECORDS_MAX
LOOKUPS_MAX = 16  # questions under way at once
LOOKUP_MS = 3_000
ECHO_S = 3.0  # our own announcement comes back by then, if multicast works
STOP_S = 1.0
PORT = 9  # SRV needs one; ours are in the TXT entry


class Lan:
    """mDNS on chosen interfaces."""

    def __init__(self, tags: Sequence[bytes], wanted: Sequence[str] = ()) -> None:
        self._tags = tags
        self._wanted = wanted
        self._choice = Choice(())
        self._pending: dict[str, None] = {}
        self._lookups: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard_ourselves = False

    async def start(
        self,
        record: Record,
        found: Callable[[Record], None],
        lost: Callable[[int], None],
        seed: Callable[[str], None],
        remark: Callable[[str, str], None],
    ) -> None:
        """Announce and browse. Raises OSError if there is no multicast here."""
        self._record = record
        self._sieve = Sieve(record.node, record.mesh, self._tags)
        self._found, self._lost, self._remark = found, lost, remark
        self._now = asyncio.get_running_loop().time
        self._choice = choose(read_interfaces(), self._wanted)
        self._zeroconf = self._open()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, text.SERVICE, handlers=[self._changed])
        await self._zeroconf.async_register_service(self._info(), cooperating_responders=True)
        self._task = watched(asyncio.create_task(self._go_on(), name="discovery lan"))

    async def publish(self, record: Record) -> None:
        """Announce the changed record."""
        self._record = record
        if self._zeroconf is not None:
            await self._zeroconf.async_update_service(self._info())

    async def stop(self) -> None:
        """Say goodbye, as well as it goes within STOP_S."""
        if self._zeroconf is None:
            return
        opened, self._zeroconf = self._zeroconf, None
        for task in (self._task, *self._lookups):
            if task is not None:
                task.cancel()
        with contextlib.suppress(TimeoutError, OSError, Error):
            async with asyncio.timeout(STOP_S):
                await (await opened.async_unregister_service(self._info()))
        with contextlib.suppress(TimeoutError, OSError, Error):
            async with asyncio.timeout(STOP_S):
                if self._browser is not None:
                    await self._browser.async_cancel()
                await opened.async_close()

    def describe(self) -> str:
        """The interfaces, and how many nodes were seen there."""
        return f"LAN (mDNS) on {self._choice.describe()} ({len(self._sieve)} other nodes)"

    def _open(self) -> AsyncZeroconf:
        """Zeroconf on the chosen addresses; on those of IPv4 alone where the others do not work."""
        addresses = [interface.address for interface in self._choice.chosen]
        four = [address for address in addresses if ":" not in address]
        try:
            return _zeroconf(addresses)
        except (OSError, RuntimeError) as error:
            if not four or four == addresses:
                raise OSError(f"no multicast on {self._choice.describe()}: {error}") from error
            self._remark("discovery.interfaces", f"no multicast over IPv6 ({error}): IPv4 only")
            return _zeroconf(four)

    def _info(self) -> ServiceInfo:
        node = self._record.node
        hosts = [interface.address for interface in self._choice.chosen]
        return ServiceInfo(
            text.SERVICE,
            text.instance_of(node),
            port=PORT,
            addresses=[_packed(host) for host in hosts],
            server=f"{node:016x}.local.",
            properties=text.encode(self._record, (VERSION_MIN, VERSION)),
            host_ttl=TTL_S,
            other_ttl=TTL_S,
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Called by zeroconf on our loop."""
        node = text.node_of(name)
        if node is None:
            self._sieve.junk()
        elif node == self._record.node:
            self._heard_ourselves = True
        elif state_change is ServiceStateChange.Removed:
            self._pending.pop(name, None)
            self._tell(self._sieve.lose(node))
        elif len(self._pending) < PENDING_MAX:
            self._pending[name] = None
            self._wake.set()

    async def _go_on(self) -> None:
        """Take what has changed, a few at a time; now and then repeat what is known and look at the interfaces."""
        rescan_at = self._now() + RESCAN_S
        echo_at = self._now() + ECHO_S
        while self._zeroconf is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESCAN_S / 5):
                    await self._wake.wait()
            self._take_pending(self._zeroconf.zeroconf)
            if self._now() >= rescan_at:
                rescan_at = self._now() + RESCAN_S
                self._tell(self._sieve.repeat(self._now()))
                await self._rescan()
            if self._now() >= echo_at and not self._heard_ourselves:
                echo_at = self._now() + 60 * ECHO_S
                self._tell(self._sieve.once("discovery.echo", self._complaint()))
            await asyncio.sleep(TURN_S)

    def _take_pending(self, zeroconf: Zeroconf) -> None:
        self._wake.clear()
        for name in list(self._pending)[:TURN_INSTANCES_MAX]:
            info = AsyncServiceInfo(text.SERVICE, name)
            if info.load_from_cache(zeroconf):
                del self._pending[name]
                self._take(name, info)
            elif len(self._lookups) < LOOKUPS_MAX:
                del self._pending[name]
                task = watched(asyncio.create_task(self._look_up(zeroconf, name, info), name="discovery lookup"))
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)
        if self._pending:
            self._wake.set()

    async def _look_up(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        with contextlib.suppress(Error):
            if await info.async_request(zeroconf, LOOKUP_MS):
                self._take(name, info)

    def _take(self, name: str, info: ServiceInfo) -> None:
        sighting = text.decode(name, _decoded(info))
        if sighting is None:
            self._sieve.junk()
        elif negotiate((VERSION_MIN, VERSION), sighting.versions) is None:
            lowest, highest = sighting.versions
            words = (
                f"saw a node that speaks protocol versions {lowest} to {highest}; we speak {VERSION_MIN} to {VERSION}"
            )
            self._tell(self._sieve.once("discovery.version", words))
        else:
            self._tell(self._sieve.see(sighting.record, self._now()))

    async def _rescan(self) -> None:
        """Follow the machine's interfaces. Our own addresses stay: sockets are bound to them."""
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            choice = choose(read_interfaces(), self._wanted)
            if self._zeroconf is None or choice.chosen == self._choice.chosen:
                return
            self._choice = choice
            follow = getattr(self._zeroconf, "async_update_interfaces", None)  # Older versions cannot.
            advice = "following" if follow else "restart this node to use them"
            self._remark("discovery.interfaces", f"the interfaces have changed to {choice.describe()}: {advice}")
            if follow:
                await follow([interface.address for interface in choice.chosen])
                await self._zeroconf.async_update_service(self._info())

    def _complaint(self) -> str:
        return (
            f"our own announcement did not come back on {self._choice.describe()}: multicast is blocked here "
            "(firewall, UDP port 5353?); name a node instead: --join tcp://HOST:PORT"
        )

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Found(record):
                    self._found(record)
                case Lost(node):
                    self._lost(node)
                case Remark(topic, words):
                    self._remark(topic, words)


def _zeroconf(addresses: list[str]) -> AsyncZeroconf:
    six = any(":" in address for address in addresses)
    four = any(":" not in address for address in addresses)
    version = IPVersion.All if six and four else IPVersion.V6Only if six else IPVersion.V4Only
    return AsyncZeroconf(interfaces=list(addresses), ip_version=version)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _decoded(info: ServiceInfo) -> dict[bytes, bytes | None]:
    """The TXT entries; what zeroconf cannot read is nothing."""
    try:
        return dict(info.properties)
    except (BadTypeInNameException, ValueError, UnicodeError):
        return {}
