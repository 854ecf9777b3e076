"""What is likely to be regretted once it is paid for, told by what was measured of the inputs."""

import math
from collections.abc import Iterator
from decimal import Decimal

from avatar.media.voice_alone import BREATH_AFTER, BREATH_BEFORE
from avatar.models import InputWarning, Portrait, Quote, Speech, Voice

__all__ = ["warn_of_portrait", "warn_of_speech", "warn_of_voice"]

#: dBFS in one channel under which a voice is called very quiet. Speech is usually recorded at -30 to -15.
QUIET_DBFS = -42.0
#: A sound that is this lively (dB) and this long loud enough (seconds) may be speech.
LIVELY_DB, ENOUGH_SECONDS = 2.0, 0.8
#: Seconds of silence at both ends together that are worth a word.
LONG_SILENCE = 2.0
#: Pixels of a portrait's shorter side, and of a face's height, under which the video is likely to be poor.
SMALL_SIDE, SMALL_FACE = 512, 64
#: Share of the picture's height that a face may fill, and how near to an edge it may come.
TIGHT, EDGE = 0.8, 0.0


def warn_of_portrait(portrait: Portrait) -> Iterator[InputWarning]:
    """Warnings about a portrait: its size, and the face in it, where one was looked for."""
    size = f"{portrait.width}×{portrait.height} px"
    if min(portrait.width, portrait.height) < SMALL_SIDE:
        yield InputWarning(
            about="portrait",
            kind="small",
            text=f"The portrait is small ({size}): the video will be as blurred as it is.",
            hint=f"Give one of {SMALL_SIDE} px or more on each side.",
        )
    if portrait.searched and portrait.face is None:
        yield InputWarning(
            about="portrait",
            kind="no-face",
            text="No face was found in the portrait.",
            hint="A person should look into the camera; animals and drawings may work all the same.",
        )
    if portrait.face is not None:
        yield from _warn_of_face(portrait, portrait.face)


def _warn_of_face(portrait: Portrait, face: tuple[float, float, float, float]) -> Iterator[InputWarning]:
    left, top, width, height = face
    pixels = round(height * portrait.height)
    if pixels < SMALL_FACE:
        yield InputWarning(
            about="portrait",
            kind="face-small",
            text=f"The face in the portrait is only {pixels} px high.",
            hint="Crop the picture to head and shoulders, or take a larger one.",
        )
    beyond = min(left, top) < EDGE or max(left + width, top + height) > 1 - EDGE
    if height > TIGHT or beyond:
        yield InputWarning(
            about="portrait",
            kind="face-cut",
            text="The face fills the portrait to its edges, or is cut off by them.",
            hint="Leave room around head and shoulders: the head moves.",
        )


def warn_of_voice(voice: Voice, quote: Quote) -> Iterator[InputWarning]:
    """Warnings about a voice, measured on what is sent. A plan of an earlier version has no measures."""
    if voice.speech is not None:
        yield from warn_of_speech(voice.speech, voice.seconds, quote, clipped=voice.clipped)


def warn_of_speech(speech: Speech, seconds: float, quote: Quote, *, clipped: bool) -> Iterator[InputWarning]:
    """Warnings about what is heard in one channel of a voice, and what its silence costs."""
    if speech.loudness < QUIET_DBFS:
        yield InputWarning(
            about="voice",
            kind="quiet",
            text=f"The voice is very quiet: {speech.loudness:.0f} dBFS in one channel.",
            hint="Raise its level: speech is usually at -30 to -15 dBFS.",
        )
    elif speech.liveliness < LIVELY_DB or speech.loud < ENOUGH_SECONDS:
        yield InputWarning(
            about="voice",
            kind="no-speech",
            text="The voice does not sound like speech: it is a steady sound, or hardly any.",
            hint="Listen to it before it is paid for.",
        )
    if clipped:
        yield InputWarning(
            about="voice",
            kind="clipped",
            text="The voice was recorded too loud: its loudest parts are cut off.",
            hint="Record it at a lower level.",
        )
    if speech.head + speech.tail >= LONG_SILENCE:
        yield _warn_of_silence(seconds, speech, quote)


def _warn_of_silence(seconds: float, speech: Speech, quote: Quote) -> InputWarning:
    idle = max(0.0, speech.head - BREATH_BEFORE) + max(0.0, speech.tail - BREATH_AFTER)
    saved = (math.ceil(seconds) - math.ceil(seconds - idle)) * quote.price_per_second
    cost = min(saved.quantize(Decimal("0.01")), quote.amount)
    price = f" They cost ${cost:.2f} of ${quote.amount:.2f}." if cost else ""
    return InputWarning(
        about="voice",
        kind="silence",
        text=f"The voice is silent for its first {speech.head:.1f} s and its last {speech.tail:.1f} s.{price}",
        hint="`--trim` (the job's `trim`) leaves them out.",
        cost=cost,
    )
