"""The streams of responses: every number resumes, and the end is what the messages say."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.events import DELTA_TYPES
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.wires.folded_streams import Folded, FoldMemo
from bamboo_gateway.wires.openai.response_fold import ResponseFold
from bamboo_gateway.wires.openai.response_state import FRAMES_PER_EVENT, ResponsePlace, RunState
from bamboo_gateway.wires.places import Place
from tests.api.serving import Served, serving
from tests.wires.openai_agent import URL
from tests.wires.openai_frames import Shown, frames_of, shown

TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    }
]
WORDS = ("Hello there, you", "tools", "whole", "fail", "long", "weather")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(agents={"default": URL}) as running:
        yield running


@pytest.fixture(scope="module")
def api(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def create(api: httpx.Client, words: str, **more: Any) -> httpx.Response:
    tools = {"tools": TOOLS} if words == "weather" else {}
    body = {"model": "default", "input": words, **tools, **more}
    return api.post("/openai/v1/responses", json=body)


@pytest.mark.parametrize("words", WORDS)
def test_r2_a_stream_that_begins_behind_any_number_has_the_rest(
    api: httpx.Client, words: str
) -> None:
    created = create(api, words, stream=True)
    assert created.headers["content-type"].startswith("text/event-stream")
    frames = frames_of(created.text)
    response = shown(frames).check_end()
    url = f"/openai/v1/responses/{response['id']}?stream=true"
    assert frames_of(api.get(url).text) == frames
    for place, frame in enumerate(frames):
        again = api.get(f"{url}&starting_after={frame['sequence_number']}")
        assert frames_of(again.text) == frames[place + 1 :]
    numbers = [frame["sequence_number"] for frame in frames]
    assert [api.get(f"{url}&starting_after={numbers[-1] + 1}").text] == [""]


@pytest.mark.parametrize("words", WORDS)
def test_the_end_of_a_stream_is_what_a_retrieval_answers(api: httpx.Client, words: str) -> None:
    streamed = shown(frames_of(create(api, words, stream=True).text)).check_end()
    retrieved = api.get(f"/openai/v1/responses/{streamed['id']}").json()
    # An item that came between two others may stand elsewhere in what is made of messages.
    by_id = {item["id"]: item for item in retrieved.pop("output")}
    assert by_id == {item["id"]: item for item in streamed.pop("output")}
    assert retrieved == streamed


def test_the_numbers_are_those_of_the_log(served: Served, api: httpx.Client) -> None:
    frames = frames_of(create(api, "one two three", stream=True).text)
    session_id = frames[0]["response"]["conversation"]["id"].removeprefix("conv_")
    log = api.get(f"/sessions/{session_id}/events?limit=1000").json()["events"]
    by_seq = {event["seq"]: event["type"] for event in log}
    seqs = [frame["sequence_number"] // FRAMES_PER_EVENT for frame in frames]
    kinds = {by_seq[seq] for seq in seqs}
    assert kinds == {"run_start", "token", "message", "complete"}
    assert (
        sorted(set(seqs))
        == sorted(seq for seq, kind in by_seq.items() if kind in kinds)[
            len(
                [
                    1
                    for event in log
                    if event["type"] == "message" and event["message"]["role"] == "user"
                ]
            ) :
        ]
    )


class Replayed:
    """A finished run, to be translated from parts of its log."""

    def __init__(self, api: httpx.Client, words: str) -> None:
        text = create(api, words, stream=True).text
        self.frames = frames_of(text)
        self.response = self.frames[-1]["response"]
        session_id = self.response["conversation"]["id"].removeprefix("conv_")
        [run] = api.get(f"/sessions/{session_id}/runs").json()["runs"]
        answer = api.get(f"/ds/{session_id}?offset=-1").content
        self.lines = [encode(event) for event in decode(answer)]
        said = [event["message"] for event in decode(answer) if event["type"] == "message"]
        given = [message for message in said if message["id"] in run["message_ids"]]
        self.record = RunRecord(run, given, [one for one in said if one not in given])
        self.fold = ResponseFold(0, self.record)

    def made(self, lines: list[bytes], after: int = -1, size: int = 1000) -> list[dict[str, Any]]:
        """Return the frames of lines that come in pieces."""
        text, _ = made(self.fold, lines, self.record, after, size)
        return frames_of(text.decode())


def made(
    fold: ResponseFold, lines: list[bytes], record: RunRecord, after: int = -1, size: int = 1000
) -> Folded[ResponsePlace]:
    """Fold lines in pieces, up to the run's end."""
    place, found = Place(RunState(), after), b""
    for at in range(0, len(lines), size):
        piece = b"".join(b"%b\n" % line for line in lines[at : at + size])
        frames, place = fold.feed(place, piece)
        found += frames
        if fold.waits(place):
            frames, place = fold.ended(place, record)
            found += frames
    return Folded(found, place)


@pytest.mark.parametrize("words", WORDS)
def test_r2_after_compaction_a_part_has_one_delta_and_a_reader_inside_of_it_gets_its_end(
    api: httpx.Client, words: str
) -> None:
    run = Replayed(api, words)
    whole = run.made(run.lines)
    assert whole == run.frames
    assert run.made(run.lines, size=1) == run.made(run.lines, size=3) == whole
    kept = [line for line in run.lines if decode(line)["type"] not in DELTA_TYPES]
    assert len(kept) < len(run.lines) or words == "whole"
    compacted = run.made(kept)
    seen = shown(compacted)
    by_id = {item["id"]: item for item in seen.done.values()}
    assert by_id == {item["id"]: item for item in run.response["output"]}
    deltas = [frame for frame in compacted if frame["type"].endswith("text.delta")]
    texts = [one for one in by_id.values() if one["type"] in {"message", "reasoning"}]
    assert len(deltas) == len(texts)
    for place, frame in enumerate(whole):
        after = frame["sequence_number"]
        rest = run.made(kept, after)
        assert [one["sequence_number"] for one in rest] == sorted(
            {one["sequence_number"] for one in rest}
        )
        assert all(one["sequence_number"] > after for one in rest)
        # Nothing begins again that the reader has seen begin.
        begun = {
            one["item"]["id"] for one in whole[: place + 1] if one["type"].endswith("item.added")
        }
        again = {one["item"]["id"] for one in rest if one["type"].endswith("item.added")}
        assert not begun & again
        # And everything that had not ended ends.
        ended = {
            one["item"]["id"] for one in whole[: place + 1] if one["type"].endswith("item.done")
        }
        ends = [one["item"]["id"] for one in rest if one["type"].endswith("item.done")]
        assert set(ends) >= set(by_id) - ended
        assert len(ends) == len(set(ends))


def test_a_message_with_more_items_than_an_event_has_numbers_still_ends() -> None:
    calls = [{"id": f"c{n}", "name": "t", "arguments": {}} for n in range(3000)]
    message = {"id": "m", "role": "assistant", "content": "x", "tool_calls": calls, "run_id": "r"}
    view: Any = {
        "run_id": "r",
        "session_id": "s",
        "agent": "a",
        "status": "completed",
        "finish_reason": "stop",
        "created_at": "2026-01-01T00:00:00.000Z",
        "ended_at": "2026-01-01T00:00:00.000Z",
        "error": None,
        "usage": None,
    }
    asked = {"role": "user", "metadata": {"openai": {"tools": [{"name": "t"}]}}}
    record = RunRecord(view, [asked], [])
    lines = [
        encode({"type": "message", "seq": 1, "run_id": "r", "message": message}),
        encode({"type": "complete", "seq": 2, "run_id": "r"}),
    ]
    frames = frames_of(made(ResponseFold(0, record), lines, record).frames.decode())
    assert max(one["sequence_number"] for one in frames[:-1]) == 2 * FRAMES_PER_EVENT - 1
    assert frames[-1]["sequence_number"] == 2 * FRAMES_PER_EVENT
    assert len(frames) > FRAMES_PER_EVENT


@pytest.mark.parametrize("words", WORDS)
def test_readers_share_what_was_made_wherever_they_began(api: httpx.Client, words: str) -> None:
    run = Replayed(api, words)
    seqs = [frame["sequence_number"] for frame in run.frames]
    memo = FoldMemo(run.fold)
    memo.readers = 2
    for place in range(len(run.lines) - 1):
        one = made(run.fold, run.lines[:place], run.record, size=1).state
        # A reader who came back, and has read the begin at once.
        other = made(run.fold, run.lines[:place], run.record, seqs[0]).state
        line = b"%b\n" % run.lines[place]
        if place and decode(run.lines[place - 1])["seq"] * FRAMES_PER_EVENT > seqs[1]:
            assert memo.feed(one, line) is memo.feed(other, line)
        # Whoever has not read the same has places of its own.
        if place:
            assert made(run.fold, run.lines[1 : place + 1], run.record).state != one


def test_a_reader_who_takes_frames_one_by_one_fits_each_to_the_ones_before(
    api: httpx.Client,
) -> None:
    seen = Shown()
    for frame in frames_of(create(api, "tools", stream=True).text):
        seen.take(frame)
    response = seen.check_end()
    kinds = [item["type"] for item in response["output"]]
    assert kinds.count("mcp_call") == 2
    by_name = {item["name"]: item for item in response["output"] if item["type"] == "mcp_call"}
    assert by_name["one"]["output"] == "it broke"
    assert by_name["two"]["output"] == '{"found":[2]}'
