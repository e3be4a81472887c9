"""Pure. Every bound of the HTTP interface, with its unit last in its name and its reason beside it."""

from proto.limits import KIB, MIB, TOKENS_MAX

BODY_BYTES_MAX = 10 * MIB  # twice the text of the longest context in use
COMMAS_MAX = 1_100_000  # more values than the longest prompt has tokens: not even read
FIELD_BYTES_MAX = 64 * KIB  # any field but the prompt, the messages and the tools; 16 stop strings fit, all escaped
TOOLS_BYTES_MAX = 256 * KIB  # descriptions of some hundred tools
EXTRA_BYTES_MAX = 256 * KIB  # all the fields together that we do not know and pass on
DEPTH_MAX = 64  # no tool's schema is nested deeper, and every reader after us may recurse
VALUES_MAX = 200_000  # of messages and tools: what a template walks
CENSUS_BYTES_MIN = 512 * KIB  # a smaller body cannot hold enough values to matter
MESSAGES_MAX = 10_000  # a conversation of a week
PROMPTS_MAX = 512  # of one batch
INPUTS_MAX = 2_048  # texts of one embeddings request, as with OpenAI
INPUT_TOKENS_MAX = TOKENS_MAX  # of all of them: no more than of the longest prompt
DIMENSIONS_MAX = 65_536  # numbers of an embedding: some times the widest model
SEQUENCES_MAX = 1_024  # prompts times candidates: what one HTTP request may start
CHOICES_MAX = 16  # n and best_of
STOPS_MAX = 16  # OpenAI takes 4; each costs time at every character
STOP_BYTES_MAX = 256
STOP_TOKENS_MAX = 128
BIASES_MAX = 1_024
BIAS_MAX = 100.0
LOGPROBS_MAX = 20  # alternatives per position
METADATA_ENTRIES_MAX = 16  # OpenAI's own three
METADATA_KEY_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512
NAME_CHARS_MAX = 256  # a model's name
LABEL_CHARS_MAX = 512  # user, cache keys and the like
OPTIONS_MAX = 4_096  # texts that an answer may be one of
ARGUMENTS_MAX = 64  # chat_template_kwargs
PRIORITY_MAX = 1_000_000
REASON_CHARS_MAX = 300  # of an error's message: nobody's prompt comes back in it

assert COMMAS_MAX > TOKENS_MAX
