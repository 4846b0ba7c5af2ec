"""YAML is data here: bounded, without objects, and what YAML 1.2 says it is."""

import pytest

from bamboo_gateway.domain.errors import InvalidInput, TooLarge
from bamboo_gateway.exporters import safe_yaml
from bamboo_gateway.exporters.safe_yaml import load_yaml


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(10),
        "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 100) + "]",
        "a: &a [*a]",
        "a: *missing",
        "[" * 300 + "]" * 300,
        "[" * 100_000,
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system x",
        "a: !!binary aGk=",
        "a: !!set {x}",
        "a: !custom x",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "a: &x [1]\n*x : 2",
        "a: 1\na: 2",
        "a: 123456789012345678901234567890",
        "a: 1e999",
        'a: "\\ud800"',
        "a: 1\n---\nb: 2",
        "a: [",
        "a: \x00",
        "\t- a",
    ],
    ids=lambda text: text[:30],
)
def test_yaml_that_is_not_plain_bounded_data_is_refused(text: str):
    with pytest.raises(InvalidInput) as caught:
        load_yaml(text)
    assert len(caught.value.detail) < 300


def test_a_large_document_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(safe_yaml, "YAML_BYTES_MAX", 10)
    with pytest.raises(TooLarge):
        load_yaml("a: " + "x" * 10)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: no", {"a": "no"}),
        ("a: 2026-11-20", {"a": "2026-11-20"}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("a: 1e3", {"a": 1000.0}),
        ("a: .5", {"a": 0.5}),
        ("a: -7", {"a": -7}),
        ("a: '7'", {"a": "7"}),
        ("a: !!str 7", {"a": "7"}),
        ("a: true", {"a": True}),
        ("1: x", {"1": "x"}),
        ("null: x", {"null": "x"}),
        ("<<: x", {"<<": "x"}),
        ("a: .inf", {"a": ".inf"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: &x k\n*x : v", {"a": "k", "k": "v"}),
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
    ],
)
def test_plain_data_means_what_the_core_schema_says(text: str, value):
    assert load_yaml(text) == value


def test_both_parsers_of_the_library_give_the_same(monkeypatch: pytest.MonkeyPatch):
    import yaml

    text = "a: &x [1, 'two', \"thr\\u0065e\"]\nb: |\n  c\nd: *x\n"
    fast = load_yaml(text)
    monkeypatch.setattr(safe_yaml, "_LOADER", yaml.SafeLoader)
    assert load_yaml(text) == fast
