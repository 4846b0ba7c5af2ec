// `fetch` for the speakers: the connection of one stream is cut behind its Nth frame.

export const CUT = 'cut by the test';

// `state.cutAfter`: behind which frame the next stream is cut that has so many; null: never.
export function cuttingFetch(state) {
  return async (url, init) => {
    const response = await fetch(url, init);
    const type = response.headers.get('content-type') ?? '';
    if (state.cutAfter == null || !response.body || !type.startsWith('text/event-stream')) return response;
    return new Response(cut(response.body, state), {
      status: response.status,
      headers: response.headers,
    });
  };
}

function cut(body, state) {
  const reader = body.getReader();
  let frames = 0;
  let over = false;
  let rest = new Uint8Array();
  return new ReadableStream({
    async pull(controller) {
      if (over) {
        await reader.cancel();
        controller.error(new TypeError(CUT));
        return;
      }
      for (;;) {
        const end = state.cutAfter == null ? rest.length : frameEnd(rest);
        if (end > 0) {
          controller.enqueue(rest.slice(0, end));
          rest = rest.slice(end);
          frames += 1;
          if (state.cutAfter === frames) {
            state.cutAfter = null;
            over = true;
          }
          return;
        }
        const { done, value } = await reader.read();
        if (done) {
          controller.close();
          return;
        }
        const joined = new Uint8Array(rest.length + value.length);
        joined.set(rest);
        joined.set(value, rest.length);
        rest = joined;
      }
    },
    cancel: reason => reader.cancel(reason),
  });
}

// The end of the first frame: behind an empty line, with either kind of line ends; 0: there is none.
function frameEnd(bytes) {
  for (let at = 1; at < bytes.length; at += 1) {
    if (bytes[at] !== 10) continue;
    if (bytes[at - 1] === 10) return at + 1;
    if (at >= 3 && bytes[at - 1] === 13 && bytes[at - 2] === 10) return at + 1;
  }
  return 0;
}
