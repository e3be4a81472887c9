"""Shell. Ears: two convolutions, an encoder and a projector hear a sound by its spectrogram, as Whisper does.

| tensors below `audio_tower.` and `multi_modal_projector.` | |
|---|---|
| `conv1`, `conv2` | over three frames each; the second takes every other one |
| `embed_positions` | one row per position |
| `layers.N.{self_attn_layer_norm, self_attn, final_layer_norm, fc1, fc2}` | the encoder |
| `layer_norm` | after each two rows became their mean |
| `linear` | the projector |

Models hear a fixed time, of which a shorter sound fills the beginning, and the rest is masked. Here the rest is not
computed: what is heard does not depend on it, but for two frames at the border.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from nodes.engines.numpy.encoder import (
    AUDIO,
    ONE_THREAD_PRODUCT,
    TILE_MIN,
    Dense,
    dense_of,
    encoded,
    encoder_of,
    gelu,
    norm_of,
    normed,
)
from nodes.engines.numpy.safetensors import Tensors
from nodes.engines.numpy.senses import Ear

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
TOWER, PROJECTOR = "audio_tower.", "multi_modal_projector."
KERNEL = 3  # frames that a convolution sees
BORDER = 2  # frames after a sound's last that its end is heard in, or its convolutions see
FLOOR = 1e-10  # of a band's power, before its logarithm
RANGE = 8.0  # powers of ten below the loudest that are told apart
# Slaney's scale: even steps up to a kilohertz, and 27 to a factor of 6.4 above it.
STEP_HZ, EVEN_HZ, STEP_LOG = 200.0 / 3, 1000.0, np.log(6.4) / 27


class Audio:
    """The weights of a model's ears. Raises ValueError if they have other shapes than the configuration says."""

    def __init__(self, ear: Ear, tensors: Tensors, exact: bool) -> None:
        self._ear = ear
        stack = ear.stack
        self._first = convolution_of(tensors, TOWER + "conv1", ear.bins, stack.width, exact)
        self._second = convolution_of(tensors, TOWER + "conv2", stack.width, stack.width, exact)
        self._positions = tensors[TOWER + "embed_positions.weight"]
        if self._positions.shape != (ear.positions, stack.width):
            raise ValueError(f"{self._positions.shape} of positions instead of {ear.positions} x {stack.width}")
        self._encoder = encoder_of(tensors, stack, TOWER + "layers.", AUDIO, exact)
        self._norm = norm_of(tensors, TOWER + "layer_norm", stack)
        self._project = dense_of(tensors, PROJECTOR + "linear", stack.width, ear.card.features, exact)

    def sound(self, samples: Floats) -> Floats:
        """Samples to (rows, features). More than the model hears is cut off."""
        ear = self._ear
        frames_max = 2 * ear.positions
        samples = samples[: frames_max * ear.hop]
        frames = max(1, -(-len(samples) // ear.hop))
        mel = spectrogram(samples, min(frames + BORDER, frames_max), ear)
        rows = gelu(self._first.times(neighbours(mel, 1)))
        rows = gelu(self._second.times(neighbours(rows, 2)))
        heard = (frames + 1) // 2  # the rows of this sound: what follows is silence, and masked
        rows = encoded(self._encoder, rows[:heard] + self._positions[:heard])
        return self._project.times(normed(self._norm, pooled(rows)))


def convolution_of(tensors: Tensors, name: str, inputs: int, outputs: int, exact: bool) -> Dense:
    """As a product with three neighbouring rows side by side."""
    weight, bias = tensors[name + ".weight"], tensors[name + ".bias"]
    if weight.shape != (outputs, inputs, KERNEL) or bias.shape != (outputs,):
        raise ValueError(f"{name} is {weight.shape} instead of {(outputs, inputs, KERNEL)}")
    return Dense(weight.transpose(0, 2, 1).reshape(outputs, -1), bias, exact)


def neighbours(rows: Floats, stride: int) -> Floats:
    """(n, width) to (n / stride, 3 * width): each row between the one before and the one after; zeros at both ends."""
    edge = np.zeros((1, rows.shape[1]), np.float32)
    padded = np.concatenate([edge, rows, edge])
    return np.concatenate([padded[at : at + len(rows) : stride] for at in range(KERNEL)], axis=1)


def pooled(rows: Floats) -> Floats:
    """Each two rows become their mean; one alone stays, and one at the end is dropped."""
    if len(rows) == 1:
        return rows
    whole = len(rows) // 2 * 2
    return (rows[0:whole:2] + rows[1:whole:2]) * np.float32(0.5)


# --- The spectrogram ------------------------------------------------------------------------------------


def spectrogram(samples: Floats, frames: int, ear: Ear) -> Floats:
    """(frames, bins): logarithms of the power in each band, from the loudest down, around zero.

    A frame is centred at its time; before the first sample the sound is mirrored, and after the last all is silent, or
    mirrored where the model's time ends.
    """
    half, whole = ear.window // 2, 2 * ear.positions * ear.hop
    silent = np.zeros(max(0, min(whole, frames * ear.hop + half) - len(samples)), np.float64)
    sound = np.concatenate([samples.astype(np.float64), silent])
    padded = np.pad(sound, (half, half), mode="reflect")
    starts = np.arange(frames)[:, None] * ear.hop
    pieces = padded[starts + np.arange(ear.window)] * hann(ear.window)
    powers = np.abs(np.fft.rfft(pieces, axis=1)) ** 2
    weights = bands(ear.bins, ear.window, ear.rate)
    some = max(TILE_MIN, ONE_THREAD_PRODUCT // weights.size)  # frames: their sums do not depend on threads
    heard = np.concatenate([powers[at : at + some] @ weights for at in range(0, frames, some)])
    loud = np.log10(np.maximum(heard, FLOOR))
    found: Floats = ((np.maximum(loud, loud.max() - RANGE) + 4.0) / 4.0).astype(np.float32)
    return found


@cache
def hann(window: int) -> Doubles:
    found: Doubles = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return found


@cache
def bands(bins: int, window: int, rate: int) -> Doubles:
    """(frequencies, bins): triangles that overlap by half, each of the same area."""
    frequencies = np.linspace(0, rate / 2, window // 2 + 1)
    edges = hertz_of(np.linspace(0.0, slaney_of(rate / 2), bins + 2))
    slopes = edges[None, :] - frequencies[:, None]
    widths = np.diff(edges)
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    found: Doubles = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))
    return found


def slaney_of(hertz: float) -> float:
    if hertz < EVEN_HZ:
        return hertz / STEP_HZ
    return float(EVEN_HZ / STEP_HZ + np.log(hertz / EVEN_HZ) / STEP_LOG)


def hertz_of(slaney: Doubles) -> Doubles:
    even = EVEN_HZ / STEP_HZ
    return np.where(slaney < even, slaney * STEP_HZ, EVEN_HZ * np.exp(STEP_LOG * (slaney - even)))
