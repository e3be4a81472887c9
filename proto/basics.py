"""Pure. What all messages are made of: bounded numbers and texts, their parent, and the name of a leg."""

from typing import Annotated

from msgspec import Meta, Struct

from proto import limits

U16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Meta(ge=0)]  # msgpack cannot hold more than 64 bits
Position = Annotated[int, Meta(ge=0, le=limits.POSITION_MAX)]
Attempt = Annotated[int, Meta(ge=1, le=limits.ATTEMPT_MAX)]
Millis = Annotated[int, Meta(ge=0, le=limits.DEADLINE_MS_MAX)]
Name = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
Trace = Annotated[str, Meta(max_length=limits.TRACE_CHARS_MAX)]
Address = Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)]
Addresses = Annotated[list[Address], Meta(max_length=limits.ADDRESSES_MAX)]
State = Annotated[bytes, Meta(max_length=limits.STATE_BYTES_MAX)]
Payload = Annotated[bytes, Meta(max_length=limits.PAYLOAD_BYTES_MAX)]
Item = Annotated[bytes, Meta(max_length=limits.ITEM_BYTES_MAX)]
Items = Annotated[list[Item], Meta(max_length=limits.ITEMS_MAX)]
TokenList = Annotated[list[Annotated[int, Meta(ge=0, le=limits.TOKEN_ID_MAX)]], Meta(max_length=limits.TOKENS_MAX)]
PackedTokens = Annotated[bytes, Meta(max_length=limits.TOKENS_MAX * 4)]
Tokens = TokenList | PackedTokens  # a list when short, little-endian int32 when long: see codec.pack
Metadata = Annotated[dict[Name, Text], Meta(max_length=limits.METADATA_ENTRIES_MAX)]
Handle = Annotated[bytes, Meta(max_length=limits.HANDLE_BYTES_MAX)]  # opaque here: see nodes.transfer.handle
Handles = Annotated[list[Handle], Meta(max_length=limits.HANDLES_MAX)]
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class Message(Struct, array_like=True, gc=False, forbid_unknown_fields=False):
    """The parent of all messages: an array whose first element is the number."""


class LegName(Struct, array_like=True, frozen=True, order=True, gc=False):
    """A leg, as Sync lists it."""

    request: U64
    attempt: Attempt
