// One stream of many sessions, and one of changes, for any number of tabs.
//
// It runs in a SharedWorker (worker.js), or in the page itself where there is none. Each tab joins
// with a function that it is told things by:
//   {session, event}     an event of a session that the tab watches, also `open` and `reset`
//   {session, goodbye}   nothing more comes of this session
//   {change}             a session of the user has changed
//   {changes: "reset"}   list the sessions again
const SESSIONS_MAX = 32; // of one stream
const RETRY_MS = 1000;

export class Hub {
  constructor(gateway) {
    this.api = `${gateway}/api/v1`;
    this.tabs = new Map(); // function -> the sessions that it watches
    this.positions = new Map(); // session -> the position behind its last event
    this.opened = new Set(); // the sessions whose part of the stream is open
    this.sources = [];
    this.timer = null;
  }

  join(tell) {
    this.tabs.set(tell, new Set());
    if (!this.changes) this.openChanges();
    return {
      watch: (session) => {
        this.tabs.get(tell)?.add(session);
        // Another tab may have it already: then nothing is opened again.
        if (this.opened.has(session)) tell({ session, event: { type: "open" } });
        else this.later();
      },
      unwatch: (session) => {
        this.tabs.get(tell)?.delete(session);
        this.later();
      },
      leave: () => {
        this.tabs.delete(tell);
        this.later();
        if (!this.tabs.size) this.changes.close(), (this.changes = null);
      },
    };
  }

  // Tabs come and go in groups: open the stream again once, with the sessions of all.
  later(milliseconds = 50) {
    this.timer ??= setTimeout(() => ((this.timer = null), this.open()), milliseconds);
  }

  open() {
    const watched = [...new Set([...this.tabs.values()].flatMap((sessions) => [...sessions]))].sort();
    const lists = [];
    while (watched.length) lists.push(watched.splice(0, SESSIONS_MAX));
    const wanted = lists.map((list) => list.join());
    if (wanted.join(";") === this.sources.map((source) => source.list).join(";")) return;
    this.close();
    for (const session of this.positions.keys()) {
      if (!lists.flat().includes(session)) this.positions.delete(session);
    }
    this.sources = lists.map((list) => this.openStream(list));
  }

  close() {
    for (const source of this.sources) source.close();
    this.sources = [];
    this.opened.clear();
  }

  openStream(sessions) {
    // A cursor belongs to one list of sessions. With another list, each begins at its own position.
    const at = (session) => (this.positions.has(session) ? `@${this.positions.get(session)}` : "");
    const query = sessions.map((session) => `session_id=${session}${at(session)}`).join("&");
    const source = new EventSource(`${this.api}/stream?${query}`);
    source.list = sessions.join();
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      const session = event.session_id;
      if (event.type === "goodbye") return this.left(session, event);
      // Not `open`, where a position is known: a `reset` may follow, and must not be missed.
      if (event.type === "reset" || !this.positions.has(session)) this.positions.set(session, event.position);
      if (event.seq) {
        const [epoch] = this.positions.get(session).split("-");
        this.positions.set(session, `${epoch}-${event.seq}`);
      }
      if (event.type === "open") this.opened.add(session);
      this.tell(session, { session, event });
    };
    // It comes back by itself, unless the gateway refused it.
    source.onerror = () => source.readyState === EventSource.CLOSED && this.again();
    return source;
  }

  left(session, goodbye) {
    this.opened.delete(session);
    if (goodbye.retry) return this.again();
    this.tell(session, { session, goodbye: goodbye.reason });
    for (const sessions of this.tabs.values()) sessions.delete(session);
    this.positions.delete(session);
    this.later();
  }

  // Open everything again, each session behind its last event.
  again() {
    clearTimeout(this.timer);
    this.timer = null;
    this.close();
    this.later(RETRY_MS);
  }

  openChanges() {
    const source = (this.changes = new EventSource(`${this.api}/changes`));
    source.onmessage = ({ data }) => {
      const change = JSON.parse(data);
      if (change.type === "reset") this.tellAll({ changes: "reset" });
      else if (change.type.startsWith("session_")) this.tellAll({ change });
    };
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED || this.changes !== source) return;
      setTimeout(() => this.changes === source && this.openChanges(), RETRY_MS);
    };
  }

  tell(session, message) {
    for (const [tell, sessions] of this.tabs) if (sessions.has(session)) tell(message);
  }

  tellAll(message) {
    for (const tell of this.tabs.keys()) tell(message);
  }
}
