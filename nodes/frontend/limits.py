"""Pure. Every bound of the HTTP frontend, with its unit last in its name and its reason beside it."""

from proto.limits import KIB, MIB

# --- Reading a request -------------------------------------------------------------------------
BODY_BYTES_DEFAULT = 32 * MIB  # images in base64 have 25 MB and more
BODY_BYTES_MAX = 1024 * MIB  # what --body-bytes-max may say
DISCARD_FACTOR = 4  # of a body that is too large so many limits are read, so that the client gets to read the answer
HEADER_BYTES_MAX = 64 * KIB  # cookies of a careless proxy fit
HEADERS_MAX = 256
READ_S = 30.0  # for a head, or for a body that does not move: mobile links stall for ten seconds
SWEEP_S = 5.0  # how often connections that read too slowly are looked for
ENCODE_BYTES_MAX = 32 * KIB  # of a body; a longer one is tokenized in a thread, or streams wait for it
HASH_BYTES_MAX = 512 * KIB  # of a picture; a longer one is hashed in a thread: half a millisecond is enough here
SPELLED_TOKENS_MAX = 262_144  # of one /tokenize or /detokenize: twice the longest usual context
SPELLED_AT_ONCE_MAX = 16_384  # tokens that are spelled in the loop: a millisecond or two
INFLATE_BYTES_MAX = 256 * KIB  # of a compressed body, inflated at once; more is done in a thread
PARSE_BYTES_MAX = 512 * KIB  # of a body that is read in the loop; what a larger one says is found in a thread
KEEP_ALIVE_S = 75  # longer than the pools of most clients keep an idle connection: they close first, never we
BACKLOG = 4_096  # connections that wait to be accepted: 2,000 clients may start at once

# --- Names -------------------------------------------------------------------------------------
CLIENT_ID_CHARS_MAX = 128  # of x-request-id
SESSION_BYTES_MAX = 512  # of a session header or an Idempotency-Key
KEYS_MAX = 100_000  # API keys in one file
KEY_CHARS_MAX = 512
KEY_FILE_BYTES_MAX = 64 * MIB

# --- Answering ---------------------------------------------------------------------------------
HOLD_S = 2.0  # a 200 is held back that long, so that a refusal can still have a status
PING_S = 10.0  # half of the shortest watchdog that a client has
WINDOW_TOKENS = 256  # on their way to a slow reader
WRITE_BYTES_MAX = 64 * KIB  # in a connection's buffer before we wait for its reader
TIMEOUT_S_DEFAULT = 600.0  # what OpenAI's clients wait
TIMEOUT_S_MAX = 24 * 3600.0  # proto.limits.DEADLINE_MS_MAX
STREAMS_DEFAULT = 8_192  # sequences in flight in one frontend

# --- Keeping streams ---------------------------------------------------------------------------
GRACE_S_DEFAULT = 10.0  # for a client to come back: it retries within a few seconds
KEPT_BYTES_DEFAULT = 256 * MIB  # events of all kept streams together
LOG_BYTES_MAX = 16 * MIB  # events of one kept stream: 60,000 tokens

# --- The mesh ----------------------------------------------------------------------------------
PATIENCE_S = 2.0  # how long a request waits for a first worker
SCRAPE_S = 0.5  # for all nodes' metrics: a scraper waits for ten seconds
CARD_S = 5.0  # to fetch a model's card
FILES_S = 60.0  # to fetch its files: the largest tokenizers have 30 MB
FILE_BYTES_MAX = 256 * MIB  # of one file of a card
RETRY_BASE_S = 0.25  # after a card that did not come, doubled at each failure
RETRY_MAX_S = 10.0
MODELS_MAX = 1_000  # names that metrics and memory may hold

assert READ_S > SWEEP_S
