// A reader with `@durable-streams/client`.
import { stream } from '@durable-streams/client';

const TERMINAL = ['complete', 'error', 'cancelled'];

export async function makeSpeaker() { return new Reader(); }

class Reader {
  // Reads batches: in a live mode until the end of a run, or until one that the test cuts; else all
  // that there is. A lost connection ends it, too.
  async read({ url, offset, live, run_id, cut_after }) {
    const batches = [];
    const response = await stream({ url, offset, live });
    if (!live) return [{ items: await response.json(), offset: response.offset }];
    response.subscribeJson(({ items, offset: next }) => {
      batches.push({ items, offset: next });
      const hasEnded = items.some(event => TERMINAL.includes(event.type) && event.run_id === run_id);
      if (hasEnded || batches.length === cut_after) response.cancel();
    });
    await response.closed.catch(() => {});
    return batches;
  }
}
