"""What a client is told about a field that its body must not have: the nearest one it may have."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, Tag

from bamboo_gateway.domain.suggestions import nearest_name

_NAME_CHARS_MAX: Final = 64
"""How much of a client's name is compared: no field is longer, and comparing takes time."""

Place = Sequence[str | int]


def no_such_field(schema: Any, place: Place) -> str:
    """Return the message for an unknown field, with the nearest one that the schema has there.

    Args:
        schema: The annotation of the body.
        place: Where pydantic found the field in the body: names, indexes and the tags of unions;
            the last is the field's own name.
    """
    *path, name = place
    nearest = nearest_name(str(name)[:_NAME_CHARS_MAX], _fields(schema, path))
    return f"no such field; did you mean `{nearest}`?" if nearest else "no such field"


def _fields(schema: Any, path: Place) -> frozenset[str]:
    """Return the fields of the object at `path`; none where there is no object with fields."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        if not path:
            return frozenset(schema.model_fields)
        field = schema.model_fields.get(str(path[0]))
        return _fields(field.annotation, path[1:]) if field else frozenset()
    origin, parts = get_origin(schema), get_args(schema)
    tags = [part.tag for part in parts if isinstance(part, Tag)] if origin is Annotated else []
    if tags or origin is list:
        is_on_path = path and (path[0] in tags if tags else isinstance(path[0], int))
        if not is_on_path:
            return frozenset()
        path = path[1:]
    return frozenset().union(*(_fields(part, path) for part in parts))
