"""Pure. The bodies of requests as structs: what is decoded, and what `/openapi.json` shows. No rule between fields.

Every optional field may also be null, as with OpenAI. What is known and refused has no field: see `refusals`.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from nodes.openai import limits
from proto.limits import TOKEN_ID_MAX, TOKENS_MAX

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Label = Annotated[str, Meta(max_length=limits.LABEL_CHARS_MAX)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Choices = Annotated[int, Meta(ge=1, le=limits.CHOICES_MAX)]
Count = Annotated[int, Meta(ge=1, le=TOKENS_MAX)]
TokenId = Annotated[int, Meta(ge=0, le=TOKEN_ID_MAX)]
TokenIds = Annotated[list[TokenId], Meta(max_length=TOKENS_MAX)]
Bias = Annotated[float, Meta(ge=-limits.BIAS_MAX, le=limits.BIAS_MAX)]
Biases = Annotated[dict[TokenId, Bias], Meta(max_length=limits.BIASES_MAX)]
Stops = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=limits.STOP_BYTES_MAX)]], Meta(max_length=limits.STOPS_MAX)
]
MetadataKey = Annotated[str, Meta(max_length=limits.METADATA_KEY_CHARS_MAX)]
MetadataValue = Annotated[str, Meta(max_length=limits.METADATA_VALUE_CHARS_MAX)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=limits.METADATA_ENTRIES_MAX)]
Scalar = str | int | float | bool | None
Arguments = Annotated[dict[Label, Scalar], Meta(max_length=limits.ARGUMENTS_MAX)]
Options = Annotated[list[str], Meta(min_length=1, max_length=limits.OPTIONS_MAX)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Alternatives = Annotated[int, Meta(ge=0, le=limits.LOGPROBS_MAX)]


class StreamOptions(Struct):
    """What a stream carries besides text."""

    include_usage: bool | None = None  # one chunk with empty choices and the usage, before the end
    continuous_usage_stats: bool | None = None  # the usage so far in every chunk
    include_obfuscation: Literal[False] | None = None


class TextFormat(Struct, tag_field="type", tag="text"):
    """Whatever the model says."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    """A JSON object."""


class JsonSchema(Struct):
    """A schema. It is always followed, whether `strict` or not; what cannot be followed is refused."""

    name: Name
    description: str | None = None
    schema: dict[str, Any] | None = None  # none: any object
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON of this schema."""

    json_schema: JsonSchema


class StructuredOutputs(Struct, forbid_unknown_fields=True):
    """vLLM's way to say it: one of these."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Options | None = None
    grammar: str | None = None  # Lark's or GBNF
    json_object: bool | None = None


class Common(Struct, kw_only=True):
    """What the two completion endpoints share. OpenAI's first, the usual extras second."""

    model: Name
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    max_tokens: Count | None = None
    n: Choices | None = None
    seed: Seed | None = None
    stop: Annotated[str, Meta(min_length=1, max_length=limits.STOP_BYTES_MAX)] | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    user: Label | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    best_of: Choices | None = None
    top_k: Annotated[int, Meta(ge=-1, le=TOKEN_ID_MAX)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10.0)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=TOKENS_MAX)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=limits.STOP_TOKENS_MAX)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    add_special_tokens: bool | None = None
    cache_salt: Label | None = None
    priority: Annotated[int, Meta(ge=-limits.PRIORITY_MAX, le=limits.PRIORITY_MAX)] | None = None  # lower is sooner
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None  # this and the next three: as vLLM called them before
    guided_regex: str | None = None
    guided_choice: Options | None = None
    guided_grammar: str | None = None


class TextPart(Struct, tag_field="type", tag="text"):
    """A part of a message: text."""

    text: str | None = None


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """What an assistant said instead of an answer."""

    refusal: str | None = None


class Link(Struct):
    """Where bytes are: in the URL itself (`data:`), or elsewhere if the frontend was told to fetch from there."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None  # a model has one size for all pictures


class Sound(Struct):
    """A sound in base64. Its format is told by its first bytes."""

    data: str
    format: Label | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """A picture."""

    image_url: Link | str


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """A sound, inline."""

    input_audio: Sound


class AudioLinkPart(Struct, tag_field="type", tag="audio_url"):
    """A sound by its URL."""

    audio_url: Link | str


class VideoPart(Struct, tag_field="type", tag="video_url"):
    """A clip; its frames are looked at, its sound is not heard."""

    video_url: Link | str


class EmbedsPart(Struct, tag_field="type", tag="image_embeds"):
    """A picture whose embedding was computed before: base64 of a .npy file with (rows, features) floats."""

    image_embeds: str


ContentPart = TextPart | RefusalPart | ImagePart | AudioPart | AudioLinkPart | VideoPart | EmbedsPart


class Function(Struct):
    """The function that a call names, with its arguments as JSON in a string."""

    name: str
    arguments: str = ""


class ToolCall(Struct):
    """An earlier call of the assistant."""

    function: Function
    id: str | None = None
    type: Literal["function"] = "function"


class Message(Struct):
    """One message. Fields that are not listed reach the chat template unchanged."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Declaration(Struct):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool: the chat template sees it, and the answer's text comes back as the model wrote it."""

    type: Literal["function"]
    function: Declaration


class ChatOptions(Common, kw_only=True):
    """All of a chat request but its messages and tools."""

    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Meta(max_length=1)] | None = None
    reasoning_effort: Label | None = None  # given to the chat template
    verbosity: Label | None = None  # given to the chat template
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Arguments | None = None


class ChatRequest(ChatOptions, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]
    tools: list[Tool] | None = None


class CompletionOptions(Common, kw_only=True):
    """All of a completion request but its prompt."""

    echo: bool | None = None
    logprobs: Alternatives | None = None


class CompletionRequest(CompletionOptions, kw_only=True):
    """`POST /v1/completions`. A prompt is a text, token ids, or a list of either."""

    prompt: str | list[str | TokenId | list[TokenId]]


class EmbeddingsOptions(Struct, kw_only=True):
    """All of an embeddings request but its texts."""

    model: Name
    encoding_format: Literal["float", "base64"] | None = None  # base64: of float32, little endian
    dimensions: Annotated[int, Meta(ge=1, le=limits.DIMENSIONS_MAX)] | None = None  # if the model can be cut
    user: Label | None = None
    add_special_tokens: bool | None = None
    priority: Annotated[int, Meta(ge=-limits.PRIORITY_MAX, le=limits.PRIORITY_MAX)] | None = None  # lower is sooner


class EmbeddingsRequest(EmbeddingsOptions, kw_only=True):
    """`POST /v1/embeddings`. An input is a text, token ids, or a list of either."""

    input: str | list[str | TokenId | list[TokenId]]


class TokenizeOptions(Struct, kw_only=True):
    """All of a tokenize request but its text."""

    model: Name | None = None  # may be left out where there is only one
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Arguments | None = None


class TokenizeRequest(TokenizeOptions, kw_only=True):
    """`POST /tokenize`: a prompt, or messages that go through the chat template first."""

    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1, max_length=limits.MESSAGES_MAX)] | None = None
    tools: list[Tool] | None = None


class DetokenizeOptions(Struct, kw_only=True):
    """All of a detokenize request but its tokens."""

    model: Name | None = None
    skip_special_tokens: bool | None = None


class DetokenizeRequest(DetokenizeOptions, kw_only=True):
    """`POST /detokenize`."""

    tokens: TokenIds = field(default_factory=list)
