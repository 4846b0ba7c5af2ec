"""What the tokens of a session were used for: by the agent that answered, and by the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bamboo_gateway.domain.events import Usage, UsageCounts

PARTS_MAX: Final = 50
"""The most agents, and the most models, that are counted apart. An agent's code names its model, so
the names have no other bound."""

OTHER: Final = "other"
"""Counts what has no place of its own any more."""

UNKNOWN: Final = "unknown"
"""Counts what nobody has named an agent or a model for."""


@dataclass(frozen=True, slots=True)
class UsageParts:
    """Usage by agent and by model. Each adds up to the part of the total that was named."""

    by_agent: dict[str, Usage] = field(default_factory=dict)
    by_model: dict[str, Usage] = field(default_factory=dict)

    def plus(self, usage: Usage, agent: str | None, model: str | None) -> "UsageParts":
        """Return the parts with one more run."""
        return self + UsageParts(
            {agent: usage} if agent else {},
            {model: usage} if model else {},
        )

    def __add__(self, other: "UsageParts") -> "UsageParts":
        return UsageParts(
            _added(self.by_agent, other.by_agent),
            _added(self.by_model, other.by_model),
        )

    def __sub__(self, other: "UsageParts") -> "UsageParts":
        return UsageParts(
            _taken(self.by_agent, other.by_agent),
            _taken(self.by_model, other.by_model),
        )

    def shown(self, total: Usage) -> tuple[dict[str, UsageCounts], dict[str, UsageCounts]]:
        """Return both as clients see them; with `unknown` each adds up to `total`."""
        return _whole(self.by_agent, total), _whole(self.by_model, total)

    def to_json(self) -> dict[str, dict[str, UsageCounts]]:
        """Return the form in events and documents."""
        return {
            "by_agent": {name: usage.to_json() for name, usage in self.by_agent.items()},
            "by_model": {name: usage.to_json() for name, usage in self.by_model.items()},
        }

    @staticmethod
    def of(value: Any) -> "UsageParts":
        """Read the stored form; anything else has no parts."""
        if not isinstance(value, dict):
            return UsageParts()
        return UsageParts(_read(value.get("by_agent")), _read(value.get("by_model")))


def _read(value: Any) -> dict[str, Usage]:
    if not isinstance(value, dict):
        return {}
    return _added({}, {str(name): Usage.of(one) for name, one in value.items()})


def _added(ours: Mapping[str, Usage], theirs: Mapping[str, Usage]) -> dict[str, Usage]:
    found = dict(ours)
    for name, usage in theirs.items():
        key = name if name in found or len(found) < PARTS_MAX else OTHER
        found[key] = found.get(key, Usage()) + usage
    return found


def _taken(ours: Mapping[str, Usage], theirs: Mapping[str, Usage]) -> dict[str, Usage]:
    left = {name: usage - theirs.get(name, Usage()) for name, usage in ours.items()}
    return {name: usage for name, usage in left.items() if usage != Usage()}


def _whole(parts: Mapping[str, Usage], total: Usage) -> dict[str, UsageCounts]:
    named = Usage()
    for usage in parts.values():
        named += usage
    rest = total - named
    if rest != Usage():
        parts = {**parts, UNKNOWN: parts.get(UNKNOWN, Usage()) + rest}
    return {name: parts[name].to_json() for name in sorted(parts)}
