// What a page imports: follow a session, and hear which sessions change.
import { Hub } from "./hub.js";

export function connect(gateway) {
  const follows = new Map(); // session -> what is told of it
  const listeners = new Set();
  const told = (message) => {
    if (message.session) follows.get(message.session)?.(message);
    else for (const listener of listeners) listener(message);
  };
  const tab = globalThis.SharedWorker ? inWorker(gateway, told) : new Hub(gateway).join(told);

  return {
    onChange: (listener) => listeners.add(listener),

    // `show` gets each event once, in order; `begin` is called before the messages are shown anew.
    follow(session, { begin, show, end }) {
      let seq = null; // of the last event shown; null while the messages are loaded
      let waiting = [];
      let loads = 0;
      const take = (event) => {
        if (event.seq <= seq) return;
        seq = event.seq;
        show(event);
      };
      async function load() {
        const number = ++loads;
        seq = null;
        waiting = [];
        const url = `${gateway}/api/v1/sessions/${session}`;
        const page = await json(`${url}/messages?order=desc&limit=100`);
        // An answer that is being made begins before `position`, so it is read from the log.
        let after = new URL(page.stream_url, gateway).searchParams.get("after");
        const events = [];
        for (let more = true; more; ) {
          const next = await json(`${url}/events?limit=1000&after=${after}`);
          events.push(...next.events);
          [after, more] = [next.next, next.has_more];
        }
        if (number !== loads) return; // a later one has begun
        begin();
        for (const message of page.messages.reverse()) show({ type: "message", message });
        seq = 0;
        events.forEach(take);
        seq = Math.max(seq, Number(after.split("-")[1]));
        waiting.forEach(take); // what came while it was loading
        waiting = [];
      }
      follows.set(session, ({ event, goodbye }) => {
        if (goodbye) return end?.(goodbye);
        // From `open` on the hub passes on every event, so nothing is missing behind the messages.
        if (event.type === "reset" || (event.type === "open" && !loads)) return load().catch(retry);
        if (event.type === "open") return;
        if (seq === null) waiting.push(event);
        else take(event);
      });
      const retry = () => setTimeout(() => load().catch(retry), 1000);
      tab.watch(session);
      return () => (follows.delete(session), tab.unwatch(session));
    },
  };
}

function inWorker(gateway, told) {
  const url = new URL("./worker.js", import.meta.url);
  url.searchParams.set("gateway", gateway);
  const { port } = new SharedWorker(url, { type: "module", name: "bamboo" });
  port.onmessage = ({ data }) => told(data);
  const lock = `bamboo-tab-${crypto.randomUUID()}`;
  navigator.locks.request(lock, () => {
    port.postMessage({ call: "join", lock });
    return new Promise(() => {}); // held until the tab goes
  });
  return {
    watch: (session) => port.postMessage({ call: "watch", session }),
    unwatch: (session) => port.postMessage({ call: "unwatch", session }),
  };
}

async function json(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status} ${url}`);
  return answer.json();
}
