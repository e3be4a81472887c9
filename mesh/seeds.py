"""Pure. Addresses that somebody gave us without saying whose they are.

A seed is asked "who are you?" by a probe: a Hello with destination 0 on a session of its own. The node there answers by
dialling us like any peer and welcoming the probe, which then closes. A seed is probed again for as long as the node
that it led to is not live: nodes restart under the same address with another id.
"""

from collections.abc import Callable
from random import Random

from mesh.backoff import backoff_s
from mesh.timers import Timers
from proto import limits


class Seed:
    """One address."""

    __slots__ = ("address", "failures", "node", "session")

    def __init__(self, address: str) -> None:
        self.address = address
        self.node = 0  # whose it is; 0: not known
        self.session = 0  # of the open probe; 0: none
        self.failures = 0


class Seeds:
    """All seeds. `probe` opens a session to an address and returns it; `close` ends one."""

    def __init__(self, random: Random, probe: Callable[[str], int], close: Callable[[int], None]) -> None:
        self._random = random
        self._probe = probe
        self._close = close
        self._seeds: dict[str, Seed] = {}
        self._sessions: dict[int, Seed] = {}
        self._timers: Timers[str] = Timers()
        self.deadline = self._timers.deadline
        self.forgive = self._timers.forgive

    def add(self, address: str, now: float) -> None:
        """Know one more address; told twice is told once."""
        if address not in self._seeds and len(self._seeds) < limits.RECORDS_MAX:
            self._seeds[address] = Seed(address)
            self._timers.set(address, now)

    def tick(self, now: float) -> None:
        """Probe what is due, and give up probes that nobody answered."""
        for address in self._timers.due(now):
            seed = self._seeds[address]
            if seed.session:
                self._fail(seed, now)
            else:
                seed.session = self._probe(address)
                self._sessions[seed.session] = seed
                self._timers.set(address, now + limits.HANDSHAKE_S)

    def welcomed(self, session: int, node: int) -> bool:
        """A welcome for `session` came from `node`: whether it was a probe's."""
        seed = self._sessions.get(session)
        if seed is None:
            return False
        self._end(seed)
        self._timers.clear(seed.address)
        seed.node, seed.failures = node, 0
        return True

    def link_down(self, session: int, now: float) -> bool:
        """A session is dead: whether it was a probe's."""
        seed = self._sessions.get(session)
        if seed is None:
            return False
        self._fail(seed, now)
        return True

    def peer_lost(self, node: int, now: float) -> None:
        """The node that a seed led to is gone: ask the address again."""
        for seed in self._seeds.values():
            if seed.node == node:
                seed.node = 0
                self._timers.set(seed.address, now + backoff_s(seed.failures, self._random))

    def forget(self, address: str) -> None:
        """This address is our own."""
        seed = self._seeds.pop(address, None)
        if seed is not None:
            self._end(seed)
            self._timers.clear(address)

    def address_of(self, session: int) -> str:
        """Which address a probe asks; empty if the session is no probe's."""
        seed = self._sessions.get(session)
        return seed.address if seed else ""

    def addresses(self) -> dict[str, int]:
        """Each seed and the node that it led to, 0 if none yet."""
        return {seed.address: seed.node for seed in self._seeds.values()}

    def _fail(self, seed: Seed, now: float) -> None:
        self._end(seed)
        seed.failures += 1
        self._timers.set(seed.address, now + backoff_s(seed.failures, self._random))

    def _end(self, seed: Seed) -> None:
        if seed.session:
            self._close(seed.session)
            del self._sessions[seed.session]
            seed.session = 0

    def check(self) -> None:
        """Assert that each open probe is known by its session, and nothing else is."""
        assert {seed.session for seed in self._seeds.values() if seed.session} == set(self._sessions)
