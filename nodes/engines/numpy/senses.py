"""Pure. What a model's files say about its eyes and its ears, and what that means for a prompt.

Read are, in `config.json`, `vision_config` (CLIP or SigLIP, as LLaVA has them) and `audio_config` (Whisper's encoder,
as Qwen2-Audio has it), and in `preprocessor_config.json` (or parts of `processor_config.json`) how pictures and sounds
are prepared. A model may have both. Whatever else a file asks for is refused by name.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from msgspec import Struct

from nodes.contract.engine import MediaCard
from nodes.engines.numpy.config import Unsupported, number, text_of
from nodes.media.limits import FRAMES_TAKEN_MAX, SIDE_MAX

CLIP, SIGLIP, WHISPER = "clip_vision_model", "siglip_vision_model", "qwen2_audio_encoder"
ACTIVATIONS = ("gelu", "quick_gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu")
MEANS = {CLIP: ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)), SIGLIP: ((0.5,) * 3,) * 2}
ACTIVATION = {CLIP: "quick_gelu", SIGLIP: "gelu_pytorch_tanh"}
EPSILON = {CLIP: 1e-5, SIGLIP: 1e-6}
FRAMES = 8  # of a clip, where the files say that there are clips, and not how many frames
HALVINGS = 4  # frames of a spectrogram in one row: the second convolution halves them, and the pool again
TOKENS = {"image": 32_000, "audio": 151_646}  # where `config.json` leaves them out
RATE, HOP, WINDOW = 16_000, 160, 400  # Whisper's: a frame is 25 ms long, and begins 10 ms after the one before
MODEL_ROWS_MAX = 100_000  # of one picture or sound: no model has more, and a table of them stays small
Triple = tuple[float, float, float]


class Stack(Struct, frozen=True):
    """The shape of an encoder's layers."""

    width: int
    inner: int
    heads: int
    layers: int  # that are computed
    activation: str
    epsilon: float


class Eye(Struct, frozen=True):
    """Patches of a picture become rows."""

    stack: Stack
    family: str
    side: int  # pixels
    patch: int  # pixels of a side
    keeps_class: bool  # the row of the whole picture goes to the model too
    projector: str  # its activation
    scale: float  # of a pixel; before mean and deviation
    mean: Triple
    deviation: Triple
    card: MediaCard
    clip: MediaCard | None  # of clips: None if the model takes none

    @property
    def across(self) -> int:
        """Patches along a side."""
        return self.side // self.patch


class Ear(Struct, frozen=True):
    """Frames of a spectrogram become rows."""

    stack: Stack
    bins: int
    positions: int  # after the convolutions
    rate: int
    hop: int
    window: int
    card: MediaCard


def eye_of(raw: Mapping[str, Any], prepared: Mapping[str, Any]) -> Eye | None:
    """None: the model is blind. Raises Unsupported."""
    given = part(raw, "vision_config")
    if given is None:
        return None
    family = given.get("model_type", CLIP)
    if family not in (CLIP, SIGLIP):
        raise Unsupported(f"vision_config has model_type {family!r}, which is none of {CLIP}, {SIGLIP}")
    side, patch = number(given, "image_size"), number(given, "patch_size")
    colours = given.get("num_channels", 3)
    if patch > side or side > SIDE_MAX or colours != 3:
        raise Unsupported(f"a picture of {side} pixels and {colours} colours in patches of {patch} cannot be")
    keeps_class = family == CLIP and raw.get("vision_feature_select_strategy", "default") == "full"
    if family == SIGLIP and raw.get("vision_feature_select_strategy", "default") != "full":
        raise Unsupported("vision_feature_select_strategy must be 'full' where there is no row of the whole picture")
    usual_mean, usual_deviation = MEANS[family]
    mean = triple(prepared, "image_mean", usual_mean, (0.0,) * 3)
    deviation = triple(prepared, "image_std", usual_deviation, (1.0,) * 3)
    scale = float(prepared.get("rescale_factor", 1 / 255)) if prepared.get("do_rescale", True) else 1.0
    if not all(deviation) or not all(map(isfinite, (scale, *mean, *deviation))):
        raise Unsupported(f"pictures cannot be prepared with {scale}, {mean} and {deviation}")
    card = MediaCard(
        token=token_of(raw, "image"),
        features=number(text_of(raw), "hidden_size"),
        tokens=(side // patch) ** 2 + keeps_class,
        height=side,
        width=side,
        crop=bool(prepared.get("do_center_crop", False)),
    )
    if card.tokens > MODEL_ROWS_MAX:
        raise Unsupported(f"a picture of {card.tokens} patches is too large")
    return Eye(
        stack=stack_of(
            width=number(given, "hidden_size"),
            inner=number(given, "intermediate_size"),
            heads=number(given, "num_attention_heads"),
            layers=depth_of(raw, number(given, "num_hidden_layers")),
            activation=activation_of(given, "hidden_act", ACTIVATION[family]),
            epsilon=float(given.get("layer_norm_eps", EPSILON[family])),
        ),
        family=family,
        side=side,
        patch=patch,
        keeps_class=keeps_class,
        projector=activation_of(raw, "projector_hidden_act", "gelu"),
        scale=scale,
        mean=mean,
        deviation=deviation,
        card=card,
        clip=clip_of(raw, prepared, card),
    )


def ear_of(raw: Mapping[str, Any], prepared: Mapping[str, Any]) -> Ear | None:
    """None: the model is deaf. Raises Unsupported."""
    given = part(raw, "audio_config")
    if given is None:
        return None
    if given.get("model_type", WHISPER) != WHISPER:
        raise Unsupported(f"audio_config has model_type {given['model_type']!r}, not {WHISPER}")
    rate, hop = prepared.get("sampling_rate", RATE), prepared.get("hop_length", HOP)
    if rate != RATE or hop != HOP or prepared.get("n_fft", WINDOW) != WINDOW:
        raise Unsupported(f"a sound is prepared at {rate} samples per second in steps of {hop}: only Whisper's way is")
    bins, positions = number(given, "num_mel_bins"), number(given, "max_source_positions")
    if prepared.get("feature_size", bins) != bins or prepared.get("do_normalize"):
        raise Unsupported(f"a sound is prepared in another way than the audio tower with {bins} bands takes it")
    if positions > MODEL_ROWS_MAX:
        raise Unsupported(f"a sound of {positions} positions is too long")
    return Ear(
        stack=stack_of(
            width=number(given, "d_model"),
            inner=number(given, "encoder_ffn_dim"),
            heads=number(given, "encoder_attention_heads"),
            layers=number(given, "encoder_layers"),
            activation=activation_of(given, "activation_function", "gelu"),
            epsilon=1e-5,
        ),
        bins=bins,
        positions=positions,
        rate=RATE,
        hop=HOP,
        window=WINDOW,
        card=MediaCard(
            token=token_of(raw, "audio"),
            features=number(text_of(raw), "hidden_size"),
            rate=RATE,
            samples_per_token=HALVINGS * HOP,
            seconds_max=2 * positions * HOP / RATE,
        ),
    )


def stack_of(width: int, inner: int, heads: int, layers: int, activation: str, epsilon: float) -> Stack:
    if width % heads:
        raise Unsupported(f"a width of {width} cannot be shared by {heads} heads")
    return Stack(width, inner, heads, layers, activation, epsilon)


def cards_of(eye: Eye | None, ear: Ear | None) -> dict[str, MediaCard]:
    """By kind."""
    found = {}
    if eye is not None:
        found["image"] = eye.card
        if eye.clip is not None:
            found["video"] = eye.clip
    if ear is not None:
        found["audio"] = ear.card
    return found


def prepared_of(named: Mapping[str, Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """How a kind is prepared: of the files by name, the part of the new one, else the old one."""
    inside = part(named.get("processor_config.json", {}), kind)
    return named.get("preprocessor_config.json", {}) if inside is None else inside


def part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found = raw.get(name)
    if found is not None and not isinstance(found, Mapping):
        raise Unsupported(f"{name} is no object")
    return found


def clip_of(raw: Mapping[str, Any], prepared: Mapping[str, Any], card: MediaCard) -> MediaCard | None:
    """A clip is some of its frames, each a picture: where the files name its placeholder, or how many frames."""
    token = raw.get("video_token_index", raw.get("video_token_id"))
    frames = prepared.get("num_frames", FRAMES if token is not None else None)
    if frames is None:
        return None
    token = card.token if token is None else token_of(raw, "video")
    if not isinstance(frames, int) or not 1 <= frames <= FRAMES_TAKEN_MAX:
        raise Unsupported(f"num_frames is {frames!r}: it must be between 1 and {FRAMES_TAKEN_MAX}")
    return MediaCard(token, card.features, card.tokens, card.height, card.width, card.crop, frames)


def token_of(raw: Mapping[str, Any], kind: str) -> int:
    """The placeholder of a kind."""
    token = raw.get(f"{kind}_token_index", raw.get(f"{kind}_token_id", TOKENS.get(kind)))
    vocabulary = number(text_of(raw), "vocab_size")
    if not isinstance(token, int) or not 0 <= token < vocabulary:
        raise Unsupported(f"config.json says {kind}_token_index = {token!r}, which is no token of {vocabulary}")
    return token


def depth_of(raw: Mapping[str, Any], layers: int) -> int:
    """How many layers are computed for the rows that the model gets: counted from the end, as 0 is before the first."""
    layer = raw.get("vision_feature_layer", -2)
    if not isinstance(layer, int) or not -layers - 1 <= layer <= layers:
        raise Unsupported(f"vision_feature_layer {layer!r} is not one of {layers} layers")
    return layer if layer >= 0 else layers + 1 + layer


def activation_of(raw: Mapping[str, Any], name: str, usual: str) -> str:
    found = raw.get(name, usual)
    if found not in ACTIVATIONS:
        raise Unsupported(f"{name} {found!r} is none of {', '.join(ACTIVATIONS)}")
    return str(found)


def triple(prepared: Mapping[str, Any], name: str, usual: Triple, none: Triple) -> Triple:
    """A number per colour."""
    if not prepared.get("do_normalize", True):
        return none
    found = prepared.get(name, usual)
    if len(found) != 3:
        raise Unsupported(f"{name} is {found!r}: it must be one number for each of three colours")
    return (float(found[0]), float(found[1]), float(found[2]))
