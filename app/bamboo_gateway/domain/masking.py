"""Mask what looks like a secret in a bug report.

Strangers read bug reports, so in doubt a value is masked. Masking cannot be complete, so the
report asks its sender to read it first.
"""

import re
from collections import Counter
from typing import Any, Final

MASK: Final = "[masked]"

_NAMES: Final = re.compile(
    r"(?i)(api[-_ ]?key|secret|passw(or)?d|passphrase|token$|credential|authorization|cookie|"
    r"private[-_]?key|access[-_]?key|bearer)"
)
# Counts of tokens are no secrets.
_COUNTS: Final = re.compile(r"(?i)(prompt|completion|total|max|input|output)_tokens?$")
_PATTERNS: Final = (
    (
        "private key",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
                   re.DOTALL),
    ),
    (
        "authorization header",
        re.compile(r"(?i)\b(?:bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{8,}"),
    ),
    ("json web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    (
        "api key",
        re.compile(
            r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{12,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
            r"|\bgithub_pat_[A-Za-z0-9_]{20,}|\bxox[a-z]-[A-Za-z0-9-]{10,}"
            r"|\bA(?:KIA|SIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30,}|\bglpat-[A-Za-z0-9_-]{16,}"
            r"|\bhf_[A-Za-z0-9]{20,}|\bnpm_[A-Za-z0-9]{30,}"
        ),
    ),
    ("password in a URL", re.compile(r"(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,200}(?=@)")),
    (
        "named secret",
        re.compile(
            r"(?i)\b[A-Z0-9_.-]{0,40}(?:api[-_]?key|secret|passw(?:or)?d|passphrase|token|credential)"
            r"[A-Z0-9_]{0,20}[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"',;}]{4,}"
        ),
    ),
)  # fmt: skip


class Masker:
    """Masks values, and counts by kind what it masked."""

    def __init__(self) -> None:
        self.masked: Counter[str] = Counter()

    def value(self, value: Any) -> Any:
        """Return a JSON value with values of suspicious names, and secrets in text, masked."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(name): self._member(name, inner) for name, inner in value.items()}
            case list():
                return [self.value(inner) for inner in value]
            case _:
                return value

    def text(self, text: str) -> str:
        """Return `text` with everything masked that looks like a secret."""
        for kind, pattern in _PATTERNS:
            text, count = pattern.subn(MASK, text)
            if count:
                self.masked[kind] += count
        return text

    def _member(self, name: str, value: Any) -> Any:
        is_secret = _NAMES.search(name) and not _COUNTS.search(name)
        if is_secret and isinstance(value, str | int | float) and not isinstance(value, bool):
            self.masked["value of a name like a secret's"] += 1
            return MASK
        return self.value(value)
