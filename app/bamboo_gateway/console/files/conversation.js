/**
 * A conversation as a fold over messages and events. It knows nothing of the page; what has changed
 * is in `changed`, which the page empties when it has shown it.
 */

/** @typedef {import("./api.js").Message} Message */
/** @typedef {import("./api.js").LogEvent} LogEvent */

/** What a call has come to. @typedef {{ content: any, success: boolean, partial?: boolean }} Outcome */

const TERMINAL = new Set(["complete", "error", "cancelled"]);

export class Conversation {
  /** @type {Message[]} The current path, as far as it is loaded. */
  messages = [];
  /** @type {Map<string, Outcome>} By the id of the call. */
  outcomes = new Map();
  /** @type {Set<string>} Ids of messages that have changed. */
  changed = new Set();
  /** Whether messages came or went, so that the list is compared as a whole. */
  isReordered = true;
  /** @type {string | null} */
  activeRun = null;
  /** @type {Map<string, any>} Runs that wait, by their id. */
  queued = new Map();
  /** @type {string | null} Why the last run has failed. */
  failure = null;
  /** Up to this event the messages were loaded; the stream begins with the active run, so that
   * events before it come again. */
  loadedSeq = 0;

  /** @param {Message[]} messages Older than all that are here, oldest first. */
  prepend(messages) {
    const known = new Set(this.messages.map((message) => message.id));
    this.messages.unshift(...messages.filter((message) => !known.has(message.id)));
    for (const message of messages) this.#note(message);
    this.isReordered = true;
  }

  /** @param {string} id */
  find(id) {
    // The one that streams is the last.
    for (let index = this.messages.length - 1; index >= 0; index -= 1) {
      if (this.messages[index].id === id) return this.messages[index];
    }
    return undefined;
  }

  /**
   * Take one event.
   * @param {LogEvent} event
   * @returns {"" | "reload" | "session" | "requests"} What else the page has to look at.
   */
  apply(event) {
    const isLoaded = event.seq <= this.loadedSeq;
    switch (event.type) {
      case "message":
        if (isLoaded) this.#dropOlder(event.message.id);
        else this.#put(event.message);
        return "";
      case "token":
        this.#delta(event, "text");
        return "";
      case "thinking":
        this.#delta(event, "thinking");
        return "";
      case "tool_start":
        this.#call(event);
        return "";
      case "tool_delta":
        this.#output(event);
        return "";
      case "tool_complete":
        this.#outcome(event.tool_call_id, { content: event.result?.content, success: event.result?.success !== false });
        return "";
      case "tool_error":
        this.#outcome(event.tool_call_id, { content: event.error, success: false });
        return "";
      case "run_queued":
        this.queued.set(event.run_id ?? "", event);
        return "session";
      case "run_start":
        this.queued.delete(event.run_id ?? "");
        this.activeRun = event.run_id ?? null;
        this.failure = null;
        return "session";
      case "branch_started":
        if (isLoaded) return "";
        return this.#cut(event.from_message_id) ? "" : "reload";
      case "branch_selected":
      case "session_merged":
        return isLoaded ? "" : "reload";
      case "input_required":
      case "input_given":
      case "input_closed":
        return "requests";
      case "session_updated":
      case "state_change":
        return "session";
      default:
        return TERMINAL.has(event.type) ? this.#end(event) : "";
    }
  }

  /** @param {LogEvent} event @returns {"session" | "requests"} */
  #end(event) {
    this.queued.delete(event.run_id ?? "");
    if (this.activeRun === event.run_id) this.activeRun = null;
    for (const message of this.messages) {
      if (message.status === "streaming" && message.run_id === event.run_id) {
        message.status = "complete";
        this.changed.add(message.id);
      }
    }
    this.failure = event.type === "error" ? `${event.message ?? "The run failed."} (${event.code ?? "error"})` : null;
    return event.finish_reason === "input_required" ? "requests" : "session";
  }

  /** @param {Message} message */
  #put(message) {
    const shown = this.find(message.id);
    if (shown) {
      // `siblings` is known only where messages are read.
      this.messages[this.messages.indexOf(shown)] = { ...message, siblings: message.siblings ?? shown.siblings };
      this.changed.add(message.id);
    } else {
      this.messages.push(message);
      this.isReordered = true;
    }
    this.#note(message);
  }

  /**
   * Take away what the words of a loaded run have made of a message that is older than the first
   * one here: it comes with the older messages.
   * @param {string} id
   */
  #dropOlder(id) {
    const index = this.messages.findIndex((message) => message.id === id && message.status === "streaming");
    if (index < 0) return;
    this.messages.splice(index, 1);
    this.isReordered = true;
  }

  /** Let go of the oldest messages, which can be loaded again. @param {number} count How many stay. */
  trim(count) {
    for (const message of this.messages.splice(0, Math.max(0, this.messages.length - count))) {
      for (const call of message.tool_calls ?? []) this.outcomes.delete(call.id);
    }
    this.isReordered = true;
  }

  /** Remember the result that a message of a tool carries. @param {Message} message */
  #note(message) {
    if (message.role === "tool" && message.tool_call_id) {
      const success = !(message.metadata?.is_error || message.metadata?.error);
      const before = this.outcomes.get(message.tool_call_id);
      this.#outcome(message.tool_call_id, { content: message.content, success: before && !before.partial ? before.success : success });
    }
  }

  /** @param {LogEvent} event @returns {Message} */
  #streaming(event) {
    const id = event.message_id ?? `run ${event.run_id}`;
    const shown = this.find(id);
    if (shown) return shown;
    /** @type {Message} */
    const made = { id, role: "assistant", content: [], tool_calls: [], status: "streaming", run_id: event.run_id, created_at: event.time };
    this.messages.push(made);
    this.isReordered = true;
    return made;
  }

  /** @param {LogEvent} event @param {"text" | "thinking"} type */
  #delta(event, type) {
    const message = this.#streaming(event);
    if (message.status !== "streaming") return; // the whole message was here first
    const last = message.content[message.content.length - 1];
    if (last?.type === type) last.text += event.content;
    else message.content.push({ type, text: event.content });
    this.changed.add(message.id);
  }

  /** @param {LogEvent} event */
  #call(event) {
    const message = this.#streaming(event);
    message.tool_calls ??= [];
    if (!message.tool_calls.some((one) => one.id === event.tool_call_id)) {
      message.tool_calls.push({ id: event.tool_call_id, name: event.tool_name, arguments: event.arguments });
    }
    this.changed.add(message.id);
  }

  /** @param {LogEvent} event */
  #output(event) {
    const before = this.outcomes.get(event.tool_call_id);
    if (before && !before.partial) return;
    const text = (before?.content ?? "") + event.content;
    this.#outcome(event.tool_call_id, { content: text, success: true, partial: true });
  }

  /** @param {string} id @param {Outcome} outcome */
  #outcome(id, outcome) {
    this.outcomes.set(id, outcome);
    for (let index = this.messages.length - 1; index >= 0; index -= 1) {
      const message = this.messages[index];
      if (message.tool_calls?.some((call) => call.id === id)) {
        this.changed.add(message.id);
        return;
      }
    }
  }

  /**
   * Remove everything behind a message; null: everything.
   * @param {string | null} id
   * @returns {boolean} Whether the message is here.
   */
  #cut(id) {
    const index = id === null ? -1 : this.messages.findIndex((message) => message.id === id);
    if (id !== null && index < 0) return false;
    this.messages.length = index + 1;
    this.isReordered = true;
    return true;
  }
}
