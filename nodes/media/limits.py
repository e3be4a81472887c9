"""Pure. Every bound on media, with its unit last in its name and its reason beside it. Decoding comes after."""

from proto.limits import KIB, MIB

PART_BYTES_DEFAULT = 20 * MIB  # one picture, sound or clip: what the large services take
PART_BYTES_MAX = 512 * MIB  # what --media-bytes-max may say
PARCEL_BYTES_MAX = 1024 * MIB  # all parts of one request
PIXELS_MAX = 64_000_000  # a picture: larger than any camera's in a telephone, and 192 MB decoded
FRAME_PIXELS_MAX = 9_000_000  # a frame of a clip: 4K
FRAMES_MAX = 7_200  # of a clip: two minutes at 60 frames per second; all up to the last sampled one must be decoded
CLIP_PIXELS_MAX = 4_000_000_000  # of all frames: a minute of full HD, and about what ten seconds can decode
FRAMES_TAKEN_MAX = 256  # of them that a model sees
SECONDS_MAX = 1_800.0  # of a sound, where the model says nothing less
SIDE_MAX = 8_192  # pixels, of the picture that a model sees
RATE_MAX = 768_000  # samples per second: more is no sound
CHANNELS_MAX = 32
ROWS_MAX = 1_000_000  # of embeddings in one part
FEATURES_MAX = 65_536  # numbers in one row

# --- The process that decodes ------------------------------------------------------------------
MEMORY_BYTES_MAX = 2_048 * MIB  # of addresses, its libraries included: the largest picture takes 500 MB on its way
DECODE_CPU_S = 10  # of its processor, for one part
DECODE_S = 30.0  # of the clock, for one part: the machine may be busy
QUEUE_MAX = 256  # parts that wait for it
HEADER_BYTES_MAX = 64 * KIB  # of a message to or from it, without the bytes that follow

# --- Fetching ----------------------------------------------------------------------------------
FETCH_S = 10.0  # in all
CONNECT_S = 5.0
REDIRECTS_MAX = 3
URL_CHARS_MAX = 4_096  # signed links are long
FETCHES_MAX = 32  # at once

# --- What a frontend lays out ------------------------------------------------------------------
GROUND_BYTES = 512 * MIB  # a hundred photographs at once; taken from the system as it is used
PAGE_BYTES = 4 * KIB

# --- The cache of embeddings -------------------------------------------------------------------
CACHE_BYTES_DEFAULT = 256 * MIB  # some hundred pictures of a usual model
CACHE_BLOCK_BYTES = 64 * KIB  # in such steps: little is wasted, and a handle names few pieces
HANDED_BYTES = 128 * MIB  # what a worker lays out for those that go on; taken from the system as it is used
HANDED_LEASE_S = 30.0  # as long as engines keep the cache that goes with it
LEASE_S = 120.0  # embeddings wait that long for the prefill that was promised: a queue, not a placement
