"""The tree of errors that the module's docstring draws."""

import re

from bamboo_gateway.domain import errors


def drawn() -> dict[str, str]:
    """Read the tree: each class, and the class that it hangs from."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        if (found := re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)) is None:
            continue
        depth, name = len(found[1]), found[2]
        above[depth] = name
        if depth:
            parents[name] = above[depth - 4]
    return parents


def test_the_drawn_tree_is_the_tree_of_the_classes() -> None:
    classes = {
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.BambooError)
    }
    real = {
        one.__name__: one.__base__.__name__
        for one in classes - {errors.BambooError}
        if one.__base__ is not None
    }
    assert len(real) > 20
    assert drawn() == real
