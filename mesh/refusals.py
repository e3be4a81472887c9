"""Pure. Why a holder does not take a leg. Nothing of it was started then: its owner asks somebody else."""

from mesh.core import Leg as LegName
from mesh.slots import Slots
from mesh.tombstones import Tombstones
from proto.errors import Reason
from proto.messages import Offer, Submit

BUSY_RETRY_MS = 100  # when all room is taken; engines that know better will say so


def refusal_of(
    message: Submit, name: LegName, offers: dict[str, Offer], tombstones: Tombstones, leaving: bool, slots: Slots
) -> tuple[Reason, int, str] | None:
    """Why we do not take this leg, or None."""
    endpoint = message.endpoint
    if tombstones.newest(name.owner, name.request) >= name.attempt:
        return Reason.STALE, 0, "cancelled before it came"
    if endpoint not in offers:
        return Reason.NO_ENDPOINT, 0, f"{endpoint} is not served here"
    if leaving:
        return Reason.DRAINING, 0, "leaving"
    if message.resume is not None and message.resume.state and not offers[endpoint].resumable:
        return Reason.INVALID, 0, f"{endpoint} cannot resume"
    if slots.isolated(endpoint):
        return Reason.BUSY, BUSY_RETRY_MS, "a suspect runs alone here"
    if slots.full(endpoint):
        return Reason.BUSY, BUSY_RETRY_MS, f"{slots.running} running, {slots.waiting} waiting"
    return None
