/** Reads Server-Sent Events (HTML standard, section 9.2) out of bytes as they arrive. */

import { ProtocolError } from "./errors.js";

export interface Frame {
  /** The last `id` up to this frame; empty when there was none. */
  id: string;
  data: string;
}

/** Longer than any frame that a gateway sends; a server that never ends a frame is no gateway. */
const FRAME_CHARS_MAX = 64 * 1024 * 1024;

/**
 * Cuts bytes into frames. Lines end in LF, CR or CRLF; a frame counts once its blank line is there,
 * so that what a cut connection leaves behind is neither handed out nor moves `lastId`.
 */
export class FrameParser {
  /** The id behind the last whole frame, also one without data. */
  lastId = "";
  /** How many milliseconds the server asks to wait before a reconnect. */
  retry: number | undefined;

  // It drops a byte order mark at the begin, and joins characters that were split.
  #decoder = new TextDecoder();
  /** The pieces of a line whose end has not come; joined once, however many there are. */
  #rest: string[] = [];
  #restChars = 0;
  #afterCr = false;
  #id = "";
  #data: string[] = [];
  #size = 0;

  push(bytes: Uint8Array): Frame[] {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    // The LF of a CRLF whose CR ended a line already.
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    if (text !== "") this.#afterCr = text.endsWith("\r");
    else this.#afterCr = false;
    const frames: Frame[] = [];
    const ending = /\r\n|\n|\r/g;
    let begin = 0;
    for (let found = ending.exec(text); found !== null; found = ending.exec(text)) {
      const end = text.slice(begin, found.index);
      this.#line(this.#rest.length === 0 ? end : this.#rest.join("") + end, frames);
      if (this.#rest.length > 0) this.#rest = [];
      begin = ending.lastIndex;
    }
    if (begin > 0) this.#restChars = 0;
    if (begin < text.length) {
      this.#rest.push(begin === 0 ? text : text.slice(begin));
      this.#restChars += text.length - begin;
    }
    if (this.#size + this.#restChars > FRAME_CHARS_MAX) {
      throw new ProtocolError("A frame of the stream has no end.");
    }
    return frames;
  }

  #line(line: string, frames: Frame[]): void {
    if (line === "") {
      this.lastId = this.#id;
      if (this.#data.length > 0) frames.push({ id: this.#id, data: this.#data.join("\n") });
      this.#data = [];
      this.#size = 0;
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "data") {
      this.#data.push(value);
      this.#size += value.length;
    } else if (field === "id") {
      if (!value.includes("\0")) this.#id = value;
    } else if (field === "retry" && /^\d+$/.test(value)) {
      this.retry = Number(value);
    }
  }
}
