"""Bodies that could cost far more than their size: JSON, NDJSON, YAML and compressed ones."""

import gzip
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from bamboo_gateway.api import limits
from tests.api.serving import check_answer, refused
from tests.processes import FreshGateway, Gateway

MiB = 1024 * 1024
ROOM = 15 * MiB
"""Just below `max_body_bytes`."""
GROWTH_MAX = 200 * MiB
"""The body itself, joined, and its copy without strings, are 48; parsed it would be 700 to 1900."""

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def repeated(start: bytes, piece: bytes, end: bytes) -> bytes:
    return start + piece * (ROOM // len(piece)) + end


@pytest.fixture(scope="module")
def hostile() -> dict[str, bytes]:
    """Return bodies of many parts; made here, since all of them are 120 MB."""
    return {
        "lists": repeated(b'{"metadata":{"a":[', b"[],", b"[]]}}"),
        "objects": repeated(b"[", b"{},", b"{}]"),
        "members": b"{" + b",".join(b'"%x":0' % number for number in range(1_300_000)) + b"}",
        "messages": repeated(b'{"message":[', b'{"role":"user"},', b"{}]}"),
        "nested": repeated(b"[", b"[[[[[[[[]]]]]]]],", b"[]]"),
        "open": b"[" * ROOM,
        "open objects": repeated(b"", b'{"a":', b""),
        "keys that end in a backslash": repeated(b"{", b'"\\\\":0,', b'"a":0}'),
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with FreshGateway(tmp_path_factory.mktemp("gateway")) as running:
        running.http.event_hooks = {"response": [check_answer]}
        running.call("POST", "/sessions", json={"id": "s"})
        yield running


def peak(gateway: Gateway) -> int:
    """Return the most memory the process has had, in bytes."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells the peak of another process")
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize(
    "path", ["/sessions", "/chat", "/sessions/s/messages", "/sessions/s/events"]
)
def test_json_with_too_many_parts_is_refused_before_it_is_parsed(
    gateway: Gateway, hostile: dict[str, bytes], path: str
) -> None:
    before = peak(gateway)
    for name, body in hostile.items():
        answer = gateway.http.post(path, content=body, headers=JSON)
        assert answer.status_code in {400, 413}, name
        assert peak(gateway) - before < GROWTH_MAX, name


@pytest.mark.parametrize(
    "name", ["lists", "objects", "open", "lines", "empty lines", "lists in messages"]
)
def test_an_import_with_too_many_parts_is_refused_before_it_is_parsed(
    gateway: Gateway, hostile: dict[str, bytes], name: str
) -> None:
    message = b'{"id":"m","role":"user","content":"x","metadata":{"a":[%b[]]}},' % (b"[]," * 40)
    lines = {
        "lines": b"{}\n" * (ROOM // 3),
        "empty lines": b"\n" * ROOM,
        "lists in messages": b'{"bamboo_export":1,"messages":[' + message * (ROOM // len(message)),
    }
    before = peak(gateway)
    answer = gateway.http.post("/import", content=(hostile | lines)[name], headers=JSON)
    refused(answer, 413, "too-large")
    assert peak(gateway) - before < GROWTH_MAX


def test_parts_are_counted_to_their_bound_and_not_within_strings(gateway: Gateway) -> None:
    def post(values: list[Any]) -> httpx.Response:
        events = [{"type": "custom", "name": "n", "value": value} for value in values]
        return gateway.http.post("/sessions/s/events", json=events)

    # An event is an object of three members, and the list is one part.
    parts = limits.JSON_NODES_MAX - 1 - 4 * 2
    assert post([[[]] * (parts // 2 - 1), [[]] * (parts // 2 - 1)]).status_code == 201
    refused(post([[[]] * (parts // 2), [[]] * (parts // 2)]), 413, "too-large")
    for text in ("{[:" * 200_000, '"{\\":' * 110_000, ':\\"' * 204_000, ":\\" * 220_000):
        assert post([text]).status_code == 201


def test_many_unknown_members_are_one_error(gateway: Gateway) -> None:
    many = {f"m{number}": 0 for number in range(limits.MEMBERS_MAX + 1)}
    messages = [{"role": "user", "content": "x"} | many] * 2
    for path, body, count in (("/sessions", many, 1), ("/sessions/s/messages", messages, 2)):
        problem = refused(gateway.http.post(path, json=body), 422, "invalid")
        assert len(problem["errors"]) == count


@pytest.mark.parametrize("depth", [101, 300, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_line_nested_too_deeply_is_refused_and_those_before_it_are_kept(
    gateway: Gateway, depth: int, opening: str, closing: str
) -> None:
    deep = opening * depth + "1" + closing * depth
    lines = [f'{{"type":"custom","name":"n","value":{value}}}' for value in ("1", deep)]
    before = gateway.call("GET", "/sessions/s")["position"]
    answer = gateway.http.post("/sessions/s/events", content="\n".join(lines), headers=NDJSON)
    if depth > 250:  # what the encoder refuses; the contract bounds a line by its bytes
        parses = depth < 1024
        refused(answer, *((422, "invalid-event") if parses else (400, "malformed")))
    events = gateway.call("GET", f"/sessions/s/events?after={before}")["events"]
    assert len(events) == (1 if depth > 250 else 2)


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "0x10",
        "01",
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '{"\\ud800":1}',
        '"\x00"',
        "'a'",
        "[1,]",
        "1 2",
        "undefined",
    ],
)
def test_json_that_only_lenient_parsers_accept_is_refused(gateway: Gateway, value: str) -> None:
    whole = f'{{"metadata":{{"a":{value}}}}}'.encode()
    refused(gateway.http.post("/sessions", content=whole, headers=JSON), 400, "malformed")
    line = f'{{"type":"custom","name":"n","value":{value}}}'.encode()
    answer = gateway.http.post("/sessions/s/events", content=line, headers=NDJSON)
    refused(answer, 400, "malformed")


def test_the_last_of_duplicate_members_counts_everywhere(gateway: Gateway) -> None:
    """What was checked is what is stored: there is one parser, and it is asked once."""
    body = b'{"id":"../victim","id":"twice","title":"a","title":"b"}'
    made = gateway.http.post("/sessions", content=body, headers=JSON).json()
    assert (made["id"], made["title"]) == ("twice", "b")
    body = b'{"id":"twice-2","id":"../victim"}'
    refused(gateway.http.post("/sessions", content=body, headers=JSON), 422, "invalid")


def test_a_very_long_integer_is_malformed(gateway: Gateway) -> None:
    body = b'{"metadata":{"a":' + b"9" * 300 + b"}}"
    assert gateway.http.post("/sessions", content=body, headers=JSON).status_code == 201
    body = b'{"metadata":{"a":' + b"9" * ROOM + b"}}"
    refused(gateway.http.post("/sessions", content=body, headers=JSON), 400, "malformed")


def packed(kind: str) -> bytes:
    """Return a small document that unpacks to 200 MiB."""
    plain = b" " * (200 * MiB)
    if kind == "gzip":
        return gzip.compress(plain)
    if kind == "zstd":
        return zstandard.compress(plain)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", plain)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "zip"])
def test_compressed_bodies_are_not_decompressed(gateway: Gateway, kind: str) -> None:
    body = packed(kind)
    before = peak(gateway)
    for content_type in ("application/json", "application/zip", "application/octet-stream"):
        headers = {"Content-Type": content_type, "Content-Encoding": kind}
        refused(gateway.http.post("/import", content=body, headers=headers), 422, "invalid")
    headers = JSON | {"Content-Encoding": kind}
    refused(gateway.http.post("/chat", content=body, headers=headers), 400, "malformed")
    assert peak(gateway) - before < 64 * MiB


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(LAUGHS, id="billion laughs"),
        pytest.param("a: " + "[" * 100_000, id="depth"),
        pytest.param("a: " + "{a: " * 30_000, id="depth of mappings"),
        pytest.param("a:\n" + "".join(" " * n + "- \n" for n in range(1, 2_000)), id="indents"),
        pytest.param("a: &a [*a]\n", id="an anchor in itself"),
        pytest.param("a: !!python/object/apply:os.system ['exit 1']\n", id="a call"),
        pytest.param("a: !!binary aGVsbG8=\n", id="a tag"),
        pytest.param("<<: [&a {b: 1}, *a]\n", id="merge keys"),
        pytest.param("? [a, b]\n: c\n", id="a key that is none"),
        pytest.param("--- 1\n--- 2\n", id="two documents"),
        pytest.param("a: " + "9" * 100_000 + "\n", id="a long integer"),
    ],
)
def test_harmful_yaml_is_refused(gateway: Gateway, document: str) -> None:
    before = peak(gateway)
    headers = {"Content-Type": "application/yaml"}
    answer = gateway.http.post("/import", content=f"bamboo_export: 1\n{document}", headers=headers)
    refused(answer, 422, "invalid")
    assert "Traceback" not in json.dumps(answer.json())
    assert peak(gateway) - before < 64 * MiB
