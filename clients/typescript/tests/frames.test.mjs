import assert from "node:assert/strict";
import { test } from "node:test";
import { FrameParser, ProtocolError } from "../dist/index.js";

const encoder = new TextEncoder();

/** What a text is cut into, when its bytes arrive in these pieces. */
function framesOf(text, ...cuts) {
  const bytes = encoder.encode(text);
  const parser = new FrameParser();
  const frames = [];
  let begin = 0;
  for (const end of [...cuts, bytes.length]) {
    frames.push(...parser.push(bytes.subarray(begin, end)));
    begin = end;
  }
  return { frames, lastId: parser.lastId, retry: parser.retry };
}

const STREAM =
  "\uFEFFid: 1-7\nretry: 250\ndata: {\"type\":\"open\"}\n\n: ping\n" +
  "id: 1-8\r\ndata: Café 京都\r\ndata: 👍\r\n\r\n" +
  "data:no space\rid:1-9\r\rid: 1-10\n\nevent: other\nnothing\ndata\n\n" +
  "id: 1-\0\nretry: soon\ndata: x\n\nid: 1-11\ndata: never whole";

const FRAMES = [
  { id: "1-7", data: '{"type":"open"}' },
  { id: "1-8", data: "Café 京都\n👍" },
  { id: "1-9", data: "no space" },
  { id: "1-10", data: "" },
  { id: "1-10", data: "x" },
];

test("a stream is cut into the frames of the standard, whatever its line ends", () => {
  assert.deepEqual(framesOf(STREAM), { frames: FRAMES, lastId: "1-10", retry: 250 });
});

test("where the bytes are split makes no difference, also inside a character or a CRLF", () => {
  const whole = framesOf(STREAM);
  const { length } = encoder.encode(STREAM);
  for (let cut = 0; cut <= length; cut += 1) {
    assert.deepEqual(framesOf(STREAM, cut), whole, `split at ${cut}`);
  }
  const each = Array.from({ length }, (_, at) => at);
  assert.deepEqual(framesOf(STREAM, ...each), whole);
});

test("a frame whose blank line never came moves nothing", () => {
  const { frames, lastId } = framesOf("id: 1-1\ndata: a\n\nid: 1-2\ndata: b\n");
  assert.deepEqual(frames, [{ id: "1-1", data: "a" }]);
  assert.equal(lastId, "1-1");
});

test("a frame of many pieces is searched once, and one without an end is given up", () => {
  const parser = new FrameParser();
  const piece = encoder.encode("x".repeat(4096));
  parser.push(encoder.encode("data: "));
  // 32 MiB in pieces: looked through again with each piece they would be 128 GiB.
  for (let at = 0; at < 8192; at += 1) assert.deepEqual(parser.push(piece), []);
  const [{ data }] = parser.push(encoder.encode("\n\n"));
  assert.equal(data.length, 8192 * 4096);
  assert.throws(() => {
    for (let at = 0; at < 17; at += 1) parser.push(encoder.encode("x".repeat(4 * 1024 * 1024)));
  }, ProtocolError);
});
