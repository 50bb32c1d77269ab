"""Registry of token mixers by letter.

A new mixer is a folder here (a spec without torch, a module with it) and a line below.
"""

from __future__ import annotations

from surgery.mixers.base import MixerSpec
from surgery.mixers.full import FullSpec
from surgery.mixers.gaussian import GaussianSpec
from surgery.mixers.gdn import GatedDeltaSpec
from surgery.mixers.hgrn2 import HGRN2Spec
from surgery.mixers.kda import KimiDeltaSpec
from surgery.mixers.mamba2 import Mamba2Spec
from surgery.mixers.none import NoneSpec
from surgery.mixers.nsa import NativeSparseSpec
from surgery.mixers.retnet import RetNetSpec
from surgery.mixers.sparse import SparseSpec
from surgery.mixers.window import WindowSpec

_ALL: tuple[MixerSpec, ...] = (
    FullSpec(),
    GatedDeltaSpec(),
    KimiDeltaSpec(),
    WindowSpec(),
    SparseSpec(),
    GaussianSpec(),
    NativeSparseSpec(),
    RetNetSpec(),
    Mamba2Spec(),
    HGRN2Spec(),
    NoneSpec(),
)

MIXERS: dict[str, MixerSpec] = {spec.letter: spec for spec in _ALL}
MIXER_WORDS = {spec.letter: spec.word for spec in _ALL}  # as search spaces name them
