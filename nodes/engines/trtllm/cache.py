"""Pure. What TensorRT-LLM says of its cache, in the words of this mesh.

Its events are maps, numbered per rank. Blocks are named by hashes of its own; ours come from the tokens, which events
carry. It also tells of blocks that are filled in part, and of caches of layers with a smaller window: those are left
out. So are blocks with pictures in them. It cannot be asked for what was lost: after a gap nothing is known any more.
A salt is not in its events: prompts with one are shown as if they had none, which costs a router's guess, no more.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from nodes.contract.blocks import Digest, link
from nodes.contract.engine import BlockEvent

ROOT = 0  # the parent of a first block


class Cache:
    """Of all ranks."""

    def __init__(self, digest: Digest, block_tokens: int) -> None:
        self.gaps = 0
        self.left_out = 0
        self._digest = digest
        self._block_tokens = block_tokens
        self._ours: dict[int, dict[Any, int]] = {}  # by rank: their names to ours
        self._held: dict[int, dict[int, int]] = {}  # by rank: how many of theirs have one name of ours
        self._next: dict[int, int] = {}  # by rank: the number that is to come
        self._windows: dict[int, int] = {}  # by rank: the largest

    def heard(self, found: Any) -> list[BlockEvent]:
        """One event, several, or the JSON of one. What makes no sense is left out, and counted."""
        if isinstance(found, list):
            return [event for one in found for event in self.heard(one)]
        try:
            event = msgspec.json.decode(found) if isinstance(found, str | bytes) else found
            return self._event(event)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
            self.left_out += 1
            return []

    def _event(self, event: Mapping[str, Any]) -> list[BlockEvent]:
        data, rank = event["data"], int(event.get("attention_dp_rank") or 0)
        told = self._numbered(rank, event.get("event_id"))
        window = event.get("window_size")
        if isinstance(window, int):
            if data["type"] == "created":
                self._windows[rank] = max(window, self._windows.get(rank, 0))
            if window < self._windows.get(rank, window):
                return told
        match data["type"]:
            case "stored":
                return told + self._stored(data, rank)
            case "removed":
                return told + self._removed(data, rank)
        return told

    def _numbered(self, rank: int, number: Any) -> list[BlockEvent]:
        """Nothing, or that all is void: events are missing. With the first one nothing was known."""
        if not isinstance(number, int):
            return []
        wanted, self._next[rank] = self._next.get(rank, 0), number + 1
        if number == wanted:
            return []
        self.gaps += 1
        self._held.pop(rank, None)
        known = self._ours.pop(rank, None)
        return [BlockEvent("cleared", rank=rank)] if known else []

    def _stored(self, data: Mapping[str, Any], rank: int) -> list[BlockEvent]:
        ours, held = self._ours.setdefault(rank, {}), self._held.setdefault(rank, {})
        theirs = data["parent_hash"]
        parent = ROOT if theirs is None else ours.get(theirs)
        if parent is None:  # what follows a block that we left out
            self.left_out += 1
            return []
        event = BlockEvent("stored", parent=parent, rank=rank)
        for block in data["blocks"]:
            tokens = [int(token["token_id"]) for token in block["tokens"]]
            if len(tokens) != self._block_tokens or any(token.get("token_extra_id") for token in block["tokens"]):
                break  # filled in part, or a picture; what follows cannot be named
            parent = link(tokens, parent, self._digest)
            if block["block_hash"] not in ours:
                held[parent] = held.get(parent, 0) + 1
            ours[block["block_hash"]] = parent
            event.hashes.append(parent)
            event.tokens += tokens
        return [event] if event.hashes else []

    def _removed(self, data: Mapping[str, Any], rank: int) -> list[BlockEvent]:
        ours, held = self._ours.get(rank, {}), self._held.get(rank, {})
        hashes = []
        for theirs in data["block_hashes"]:
            name = ours.pop(theirs, None)
            if name is None:
                continue
            held[name] -= 1
            if not held[name]:  # the same tokens with another salt are another block there
                del held[name]
                hashes.append(name)
        return [BlockEvent("removed", hashes, rank=rank)] if hashes else []
