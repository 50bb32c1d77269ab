"""Tokenizers by spec: `bpe:4096` is trained on the corpus, anything else is a Hugging Face name or folder.

Either way the prepared folder gets a tokenizer that `AutoTokenizer.from_pretrained` loads, so that exported
models carry it; this module itself needs only the `tokenizers` library to read it back.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.text import SMALLEST_BPE
from studies.data.long_words import ShortWords
from studies.files.json_file import read_json, write_json
from surgery.config.json_source import read_object
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.config.quantities import parse_count

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
TRAINING = "training.json"  # next to the tokenizer: the words cut for its training, if any
TRAINING_BYTES = 50_000_000  # of text a BPE is trained on


class TextTokenizer:
    """A tokenizer that also returns the bytes of text of each token."""

    def __init__(self, backend: Tokenizer, eos_token: str) -> None:
        from tokenizers import Tokenizer

        self.eos_token = eos_token
        eos_id = backend.token_to_id(eos_token)
        assert eos_id is not None, "the end of text must be a token"
        self.eos_id: int = eos_id
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        serialized = json.loads(backend.to_str())
        serialized.update(truncation=None, padding=None)
        canonical = json.dumps([serialized, eos_token], sort_keys=True)
        self.hash = hashlib.sha256(canonical.encode()).hexdigest()
        self._backend = Tokenizer.from_str(json.dumps(serialized))
        # A text that spells "<|endoftext|>" must not end its document.
        self._backend.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the token ids of every text, without special tokens."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def encode_with_bytes(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return (ids, bytes) of every text; the bytes of its tokens add up exactly to its UTF-8 length.

        A token has the bytes by which it advances the end of the covered text: if several tokens share a
        character, the first has all its bytes, and dropped spaces count for the token after them.
        """
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(encoding.ids, dtype=np.int64), _token_bytes(text, encoding.offsets))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    @classmethod
    def open(cls, folder: Path) -> TextTokenizer:
        """Open a tokenizer that `save_pretrained` or this module wrote.

        Raises:
            UserError: missing or damaged files.
        """
        from tokenizers import Tokenizer

        try:
            backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = read_object(folder / "tokenizer_config.json")
            eos = config["eos_token"]
            token = str(eos["content"] if isinstance(eos, dict) else eos)
            if backend.token_to_id(token) is None:
                raise ValueError(f"the end-of-text token {token!r} is not in it")
            return cls(backend, token)
        except Exception as error:  # the library raises bare Exception for every fault
            hint = "prepare the data again in another folder"
            problem = Problem("tokenizer", str(folder), f"can't be read: {error}", hint)
            raise UserError("The tokenizer of the prepared data is damaged", [problem]) from error


def _token_bytes(text: str, offsets: list[tuple[int, int]]) -> NDArray[np.int64]:
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    position = np.concatenate([[0], np.cumsum(widths)])  # of character i in bytes
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    ends = np.array([end for _, end in offsets], dtype=np.int64).clip(0, len(points))
    covered = position[np.maximum.accumulate(ends)]
    covered[-1] = position[-1]
    return np.diff(covered, prepend=0)


def parse_bpe(spec: str) -> int | None:
    """Return the vocabulary size of `bpe:SIZE`; None for any other tokenizer.

    Raises:
        UserError: the size is impossible for a byte-level BPE.
    """
    head, _, size = spec.partition(":")
    if head != "bpe":
        return None
    try:
        vocab_size = parse_count(size or "4096")
    except ValueError as error:
        raise _refused(spec, str(error), "for example bpe:4096") from error
    if not SMALLEST_BPE <= vocab_size <= 1_000_000:
        raise _refused(spec, f"must have {SMALLEST_BPE} to 1,000,000 tokens", "for example bpe:4096")
    return vocab_size


def located_tokenizer(spec: str) -> str:
    """Return the spec independent of the working folder: the path of a folder becomes absolute."""
    folder = expand(spec)
    return str(folder.resolve()) if os.path.isdir(folder) else spec


def canonical_spec(spec: str) -> str:
    """Return one spelling for each tokenizer; a folder is identified by its path and content."""
    vocab_size = parse_bpe(spec)
    if vocab_size is not None:
        return f"bpe:{vocab_size}"
    folder = expand(spec)
    if not os.path.isdir(folder):
        return spec
    digest = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    return f"{folder.resolve()}#{digest.hexdigest()[:16]}"


def write_bpe(vocab_size: int, texts: Iterable[str], folder: Path) -> None:
    """Train a byte-level BPE on the first 50 MB of `texts` and write it to `folder`. Deterministic.

    Merges end early if the text has no more pairs: the vocabulary is then smaller than requested. Words of
    more than `MAX_WORD` characters are cut first; their number is stored in the folder, for `cut_words`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    short = ShortWords(_first_bytes(texts, TRAINING_BYTES))
    backend.train_from_iterator(short, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END_OF_TEXT),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if short.cut:
        write_json(folder / TRAINING, {"cut_words": short.cut, "longest": short.longest})


def cut_words(folder: Path) -> tuple[int, int]:
    """Return the number of words cut to train the BPE in `folder`, and the length of the longest.

    Raises:
        UserError: that record is damaged.
    """
    record = read_json(folder / TRAINING) or {}
    return record.get("cut_words", 0), record.get("longest", 0)


def write_pretrained(spec: str, folder: Path) -> None:
    """Copy a Hugging Face tokenizer (a Hub name or a folder) to `folder`. Runs no remote code.

    Raises:
        UserError: not found, no fast tokenizer, or without an end-of-text token.
    """
    from studies.data.hub import require_hub

    local = expand(spec)
    hint = "a tokenizer is bpe:SIZE, a Hub name (HuggingFaceTB/SmolLM2-135M) or a folder with tokenizer.json"
    from surgery.hf.tokenizer import load_tokenizer

    if os.path.isdir(local):
        tokenizer = load_tokenizer(local)
    else:
        try:
            tokenizer = load_tokenizer(spec)
        except (OSError, ValueError):  # not in the cache
            require_hub("tokenizer", spec, "--tokenizer bpe:4096 needs no network")
            tokenizer = load_tokenizer(spec, local=False)
    if not getattr(tokenizer, "is_fast", False):
        raise _refused(spec, "is not a fast tokenizer (no tokenizer.json), so bytes can't be counted", hint)
    if tokenizer.eos_token is None:
        raise _refused(spec, "has no end-of-text token, so documents can't be separated", hint)
    tokenizer.save_pretrained(str(folder))


def _first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    size = 0
    for text in texts:
        yield text
        size += len(text.encode())
        if size >= limit:
            return


def _refused(spec: str, rule: str, hint: str) -> UserError:
    return UserError("This tokenizer can't be used", [Problem("tokenizer", spec, rule, hint)])
