"""Recognition and cleaning of paragraphs of English prose."""

from __future__ import annotations

import re

MIN_CHARACTERS = 80
MIN_WORDS = 12

_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u00a0", "''\"\" ", "\u200b")
# Credits and tracker numbers: "(Contributed by A in bpo-123.)", "See bpo-123.", "PEP 123" stays.
_INSIDE = r"(?:[^()]|\([^()]*\))*"  # of a pair of parentheses, one level of nesting
_CREDIT = re.compile(
    r"\s*\((?:(?:[Cc]ontributed|[Pp]atch(?:es)?|[Ss]uggested|[Rr]eported|[Ii]mplemented|[Ww]ritten|[Pp]roposed|"
    rf"[Rr]equested|[Ff]ixed|[Oo]riginal patch|[Ii]dea) (?:by|from|in) {_INSIDE}|"
    rf"{_INSIDE}?(?:[Cc]ontributed by|[Pp]atch by|bpo-\d|gh-\d|SF patch|issue ?\d){_INSIDE})\)\.?"
)
_CREDIT_SENTENCE = re.compile(
    r"(?:(?<=[.!?]) |^)(?:Contributed by|Patch by|Patches by|See bpo-|See also bpo-|Original patch|"
    r"Written by|Implemented by|Raises an auditing event)(?:[^.]|\.(?=\S)|(?<=\b[A-Z])\.)*\.(?= |$)"
)
_TRACKER = re.compile(r"\s*\b(?:in |See )?(?:bpo-\d+|gh-\d+)\b")
_SENTENCE_END = re.compile(r'(?<=[.!?])["\')\]]*\s+(?=[A-Z"\'(`])')
_CODE_CHARACTERS = re.compile(r"[_=<>{}\[\]|\\/*#@~^$%&+`]")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_COMMON = frozenset({
    "the", "a", "an", "of", "to", "in", "is", "are", "was", "be", "that", "this", "it", "for", "on",
    "with", "as", "by", "from", "or", "and", "can", "will", "not", "you", "if", "which", "when", "has",
    "have", "at", "its", "there", "use", "used",
})  # fmt: skip


def clean(text: str) -> str:
    """Return a text as one line with straight quotes, without credits, tracker numbers and spaces before
    punctuation."""
    text = re.sub(r"\s+", " ", text.translate(_QUOTES)).strip()
    text = re.sub(r"(?<!\S)_([A-Za-z]+)_(?!\S)", r"\1", text)  # emphasis left in plain text
    text = _CREDIT.sub(lambda m: "." if m[0].endswith(".") and not m[0].endswith("..") else "", text)
    text = _CREDIT_SENTENCE.sub("", text)
    text = _TRACKER.sub("", text)
    text = re.sub(r"\.{2}(?!\.)(?<!\.\.\.)", ".", text)
    text = re.sub(r" ([,.;:!?)])(?= |$)", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("( ", "(")).strip()


def trim_lead_in(text: str) -> str:
    """Return a text without its last sentence, which ends in a colon and introduced something dropped."""
    sentences = _SENTENCE_END.split(text)
    return " ".join(sentences[:-1]).strip() if len(sentences) > 1 else ""


def is_prose(text: str) -> bool:
    """Return whether a text is one or more whole English sentences, mostly words rather than identifiers."""
    if len(text) < MIN_CHARACTERS or text[-1] not in '.!?:)"' or not (text[0].isupper() or text[0] in "\"'("):
        return False
    words = _WORD.findall(text)
    if len(words) < MIN_WORDS:
        return False
    common = sum(word.lower() in _COMMON for word in words)
    letters = sum(character.isalpha() or character == " " for character in text)
    longest = max(len(part) for part in text.split())
    return (
        common >= 0.22 * len(words)
        and letters >= 0.90 * len(text)
        and len(_CODE_CHARACTERS.findall(text)) <= 0.015 * len(text)
        and longest <= 60
    )
