"""Pure. Every bound of the data plane, with its unit last in its name and its reason beside it."""

from proto.limits import KIB, MIB

# --- Bytes -------------------------------------------------------------------------------------
CHUNK_BYTES = 256 * KIB  # one frame on the bulk link
PIECE_BYTES = 4 * CHUNK_BYTES  # one message: 0.2 ms of an event loop, so that a token never waits for more
STEP_BYTES = 8 * MIB  # one go of the copying thread while several moves take turns: a millisecond or two
STEP_ALONE_BYTES = 256 * MIB  # while there is one: the C library copies faster in one go; a cancel waits for 30 ms
WINDOW_BYTES = 16 * MIB  # under way for one pull: 8 ms of a fast link, so that a busy machine does not starve it
WINDOWS_BYTES = 128 * MIB  # under way for all pulls: what may wait in our memory, shared by those that run
CONTROL_BYTES_MAX = 4 * KIB  # any message of the bulk link without its payload
MEMORY_BYTES_MAX = 2**44  # one memory: 16 TiB is more than a host has

# --- Counts ------------------------------------------------------------------------------------
PIECES_MAX = 65_536  # of one handle: a million tokens in blocks of 16, and 1 MiB of a message
PULLS_RUNNING_MAX = 32  # at once; most of them wait for an owner that still computes, and must hold up nobody
PULLS_WAITING_MAX = 4_096  # the next one is refused: who has that many needs another node
SERVES_MAX = 4_096  # pulls that one plane answers at once
EXPORTS_MAX = 8_192  # slots of the ledger: 64 KiB of shared memory
MEMORIES_MAX = 256  # registered by one plane; a cache is one, staging buffers are a few
TRIES_MAX = 3  # broken links in a row without a byte between
PIECES_PER_TURN = 4  # sent or taken before the event loop gets its turn, and no more than a whole one in bytes
RECEIVE_FRAMES_MAX = 1_000  # on a connection: all windows fit, so that a hung puller keeps no frame of ours
TEXT_CHARS_MAX = 256  # why a pull was refused
NAME_BYTES_MAX = 4 * KIB  # what NIXL says of an agent: 300 bytes and some for each registered memory

# --- Time --------------------------------------------------------------------------------------
LEASE_S = 30.0  # what an offer gets if nobody says more: a placement takes milliseconds, a queue seconds
LEASE_S_MAX = 3_600.0  # an offer that nobody needs for an hour is a leak
RENEW_S = 5.0  # a pull that moves keeps its lease for so much longer
STRETCH = 10  # ... but not beyond this many times the lease: who trickles must not pin memory for ever
PULSE_S = 1.0  # a puller says that often that it lives, and is answered
STALL_S = 5.0  # five of those unanswered, and no byte: the other end is frozen or gone
BACKOFF_S = 0.05  # before a new link, doubled each time
LINK_IDLE_S = 60.0  # a link without a pull is closed, and what was mapped of its memory is given back

assert PIECE_BYTES * 4 <= WINDOW_BYTES, "credit must be on its way back before the window is used up"
assert WINDOWS_BYTES // PULLS_RUNNING_MAX >= 4 * PIECE_BYTES
assert WINDOWS_BYTES // PIECE_BYTES * 4 < RECEIVE_FRAMES_MAX
assert 3 * PULSE_S < STALL_S <= RENEW_S < LEASE_S < LEASE_S_MAX
