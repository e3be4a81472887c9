"""Pure. Every bound of the protocol, with its unit last in its name and its reason beside it.

Relations between bounds are asserted at the end: a change that breaks one does not import.
Nothing here may depend on a role; what only one actor needs lives beside that actor.
"""

KIB = 1024
MIB = 1024 * KIB

# --- Frames ------------------------------------------------------------------------------------
FRAME_BYTES_MAX = 16 * MIB  # the inbox's MAXMSGSIZE: a 1M-token prompt, its partial state and a payload are 13 MiB
HELLO_BYTES_MAX = 16 * KIB  # all that a stranger may make us decode: 128 offers and 8 addresses fit
CHUNK_BYTES_TARGET = 256 * KIB  # a larger batch is cut here, so that a Ping never waits behind megabytes
UNKNOWN_TAG_BYTES_MAX = 64 * KIB  # an optional message that we do not know gets no more of our time

# --- Payloads ----------------------------------------------------------------------------------
PAYLOAD_BYTES_MAX = 4 * MIB  # one request of a component; larger things travel by handle
ITEM_BYTES_MAX = 1 * MIB  # one item of a stream; a window of them must fit in memory
STATE_BYTES_MAX = 1 * MIB  # a checkpoint is copied to the owner at every step that yields one
HANDLE_BYTES_MAX = 64 * KIB  # where some bytes lie: mostly 200 bytes, more if they lie in many pieces
TOKENS_MAX = 1_048_576  # the longest context in use today
TOKENS_PACKED_MIN = 32  # from here on 4-byte integers decode faster than a msgpack list
TOKEN_ID_MAX = 2**31 - 1  # packed tokens are signed 32-bit; negative ids are refused

# --- Counts ------------------------------------------------------------------------------------
PARTS_MAX = 4_096  # streams in one Chunk: more than any engine batches in a step
ITEMS_MAX = 4_096  # items of one stream in one Chunk
GRANTS_MAX = 4_096  # streams in one Credit
LEGS_MAX = 65_536  # legs of one peer pair: what one Sync can list
RECORDS_MAX = 1_024  # nodes in one Gossip: a few hundred nodes is what a mesh is built for
RECORDS_SENT_MAX = 128  # how many we put into one
OFFERS_MAX = 128  # endpoints of one node
ADDRESSES_MAX = 8  # ways to reach one node: one ipc, a few interfaces
FEATURES_MAX = 32  # names in a Hello
EXCLUDED_MAX = 64  # nodes that one Place rules out: the newest count
HANDLES_MAX = 16  # of one Submit: blocks, and what encoders made
STOPS_MAX = 8  # nodes in one itinerary: an encoder, prefill, decode, and room for what comes
METADATA_ENTRIES_MAX = 32  # headers that a request carries along its chain
POSITION_MAX = 2**32 - 1  # units of one stream; at 1 kHz that is 50 days
ATTEMPT_MAX = 2**16 - 1  # legs of one request, all its life
SEQUENCE_MAX = 2**32 - 1  # messages of one session; it is closed and reopened before that

# --- Text --------------------------------------------------------------------------------------
NAME_CHARS_MAX = 256  # a node's, a mesh's or an endpoint's name
TEXT_CHARS_MAX = 4 * KIB  # an error's words, a metadata value
TRACE_CHARS_MAX = 512  # W3C traceparent and tracestate
ADDRESS_CHARS_MAX = 256  # a host name has at most 253 characters

# --- Time --------------------------------------------------------------------------------------
BEAT_MS = 500  # a ping per peer: cheap (two messages of 40 bytes), and a third of the suspicion time
BEAT_MS_MIN = 50  # a peer that asks for more pings than that is refused
BEAT_MS_MAX = 10_000  # slower than that detects nothing
SUSPECT_S = 1.5  # three beats of silence: no new work goes there
DEAD_S = 3.0  # six beats: its sessions are void. A false alarm costs one recompute and no token
HUNG_S = 5.0  # work but no progress for that long: the loop lives, the engine does not
HANDSHAKE_S = 2.0  # a link that is not up by then is closed: the connect may have been refused silently
BACKOFF_BASE_S = 0.05  # full jitter between zero and this, doubled at each failure
BACKOFF_MAX_S = 5.0  # 500 nodes that come back spread over five seconds: no stampede
FORGET_S = 60.0  # a peer that nobody has announced or heard for that long is not dialled again
PAUSE_S = 1.0  # we were stopped for longer than this: our own clock is not evidence against others
DEADLINE_MS_MAX = 24 * 3600 * 1000  # a request that wants longer than a day is a mistake
RETRY_MS_MAX = 60_000  # nobody is told to stay away for more than a minute

# --- Strangers ---------------------------------------------------------------------------------
STRIKES_MAX = 3  # bad frames of one connection before it is muted
STRANGERS_MAX = 10_000  # connections remembered that never said a valid Hello
FENCES_MAX = 10_000  # connections remembered whose session is void
TOMBSTONES_MAX = 65_536  # legs remembered after their end, for cancels and submits that come late
TOMBSTONE_S = 60.0  # no message is under way for longer than the longest link timeout

assert TOKENS_MAX * 4 * 2 + PAYLOAD_BYTES_MAX + STATE_BYTES_MAX + HANDLE_BYTES_MAX * HANDLES_MAX < FRAME_BYTES_MAX, (
    "any Submit must fit in a frame"
)
assert RECORDS_SENT_MAX * OFFERS_MAX * NAME_CHARS_MAX * 2 < FRAME_BYTES_MAX, "so must any Gossip that we send"
assert ITEM_BYTES_MAX + STATE_BYTES_MAX + CHUNK_BYTES_TARGET < FRAME_BYTES_MAX, "so must its largest chunk"
assert BEAT_MS_MIN <= BEAT_MS <= BEAT_MS_MAX
assert SUSPECT_S * 1000 >= 3 * BEAT_MS, "two lost beats are not suspicious"
assert SUSPECT_S < DEAD_S < HUNG_S < TOMBSTONE_S
assert HANDSHAKE_S <= DEAD_S, "a half-open link must not outlive a silent one"
assert TOMBSTONES_MAX >= LEGS_MAX, "every leg of a peer may end at once"
