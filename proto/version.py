"""Pure. The signature, the versions that we speak, and how two nodes agree on one. See README.md, "Negotiation"."""

MAGIC = "MESH"
VERSION = 1  # MESH/1
VERSION_MIN = 1  # we serve N and N-1; there is no MESH/0

FEATURES: tuple[str, ...] = ("gossip", "resume")


def negotiate(ours: tuple[int, int], theirs: tuple[int, int]) -> int | None:
    """The highest version that both ranges hold, or None. Each range is (lowest, highest)."""
    highest = min(ours[1], theirs[1])
    return highest if highest >= max(ours[0], theirs[0]) else None
