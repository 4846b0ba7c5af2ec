"""The client's preferred media type."""

from starlette.requests import Request


def prefers(request: Request, media_type: str) -> bool:
    """Return whether `Accept` prefers a media type to JSON.

    The header has to name the type: `*/*`, which every client sends, means JSON. When it also names
    JSON, the greater `q` wins, and the first of two equal ones (RFC 9110, 12.5.1).
    """
    best: tuple[float, bool] = (0.0, False)
    for part in request.headers.get("accept", "").split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        if name not in {media_type, "application/json"}:
            continue
        quality = _quality(parameters)
        if quality > best[0]:
            best = (quality, name == media_type)
    return best[1]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
