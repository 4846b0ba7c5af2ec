// One person at `AbstractChat` of the AI SDK, with its own `DefaultChatTransport`.
//
// What a page does besides: it is loaded again when its connection was lost.
import { CUT, cuttingFetch } from './cutting.mjs';

const RELOADS_MAX = 20;

class State {
  status = 'ready';
  error = undefined;
  constructor(messages) { this.messages = messages; }
  pushMessage = message => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => {
    this.messages = this.messages.map((one, at) => at === index ? structuredClone(message) : one);
  };
  snapshot = value => structuredClone(value);
}

export async function makeSpeaker({ api, session }, version) {
  const sdk = await import(version);
  return new AiSdkSpeaker(sdk, api, session);
}

class AiSdkSpeaker {
  cutAfter = null;
  errors = [];
  pending = Promise.resolve();

  constructor(sdk, api, session) {
    Object.assign(this, { sdk, api, session, fetch: cuttingFetch(this) });
    this.open([], null);
  }

  open(messages, after) {
    const { api, fetch } = this;
    class Chat extends this.sdk.AbstractChat {}
    // Of this page alone: the stream of one that was left may go on.
    const errors = [];
    this.errors = errors;
    this.chat = new Chat({
      id: this.session,
      state: new State(messages),
      transport: new this.sdk.DefaultChatTransport({
        api,
        fetch,
        prepareReconnectToStreamRequest: ({ id }) => ({
          api: `${api}/${id}/stream${after ? `?after=${after}` : ''}`,
        }),
      }),
      onError: error => errors.push(error),
    });
  }

  begin(promise) {
    const { errors } = this;
    this.pending = promise.catch(error => { errors.push(error); });
  }

  say({ text, files, tools }) {
    const shown = files.map(({ media_type, url, name }) => ({
      type: 'file', mediaType: media_type, url, filename: name,
    }));
    this.tools = tools.map(name => ({ name, parameters: { type: 'object' } }));
    this.begin(this.chat.sendMessage({ text, files: shown }, this.options));
  }

  get options() { return this.tools?.length ? { body: { tools: this.tools } } : undefined; }

  async results({ results }) {
    const parts = this.chat.messages.at(-1).parts;
    for (const [toolCallId, output] of Object.entries(results)) {
      const { type } = parts.find(part => part.toolCallId === toolCallId);
      await this.chat.addToolResult({ tool: type.replace('tool-', ''), toolCallId, output });
    }
    this.begin(this.chat.sendMessage(undefined, this.options));
  }

  async approve({ answers }) {
    for (const [id, { approved, reason }] of Object.entries(answers))
      await this.chat.addToolApprovalResponse({ id, approved, reason });
    this.begin(this.chat.sendMessage(undefined, this.options));
  }

  async cancel() {
    const answer = await fetch(`${this.api}/${this.session}/stop`, { method: 'POST' });
    if (!answer.ok) throw new Error(`stop: ${answer.status} ${await answer.text()}`);
  }

  regenerate() { this.begin(this.chat.regenerate()); }

  edit({ number, text }) {
    const asked = this.chat.messages.filter(message => message.role === 'user')[number];
    this.begin(this.chat.sendMessage({ text, messageId: asked.id }));
  }

  async reload() {
    const answer = await fetch(`${this.api}/${this.session}/messages?limit=1000`);
    if (!answer.ok) throw new Error(`messages: ${answer.status} ${await answer.text()}`);
    this.open(await answer.json(), answer.headers.get('stream-after'));
    this.begin(this.chat.resumeStream());
  }

  async settle() {
    for (let round = 0; round < RELOADS_MAX; round += 1) {
      await this.pending;
      const lost = this.errors.find(error => error instanceof TypeError || error?.message === CUT);
      if (!lost) return this.errors.map(error => String(error?.message ?? error));
      await this.reload();
    }
    throw new Error(`never whole: ${this.errors}`);
  }

  cut({ after }) { this.cutAfter = after; }

  was_cut() { return this.cutAfter === null; }

  messages() { return this.chat.messages; }
}
