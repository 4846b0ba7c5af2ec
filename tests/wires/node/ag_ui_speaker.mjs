// One person at `HttpAgent` of AG-UI, with its verifier on.
//
// What a page does besides: it joins the thread again, with /connect, when its connection was lost.
import { randomUUID } from 'node:crypto';

import { HttpAgent } from '@ag-ui/client';

import { cuttingFetch } from './cutting.mjs';

const RELOADS_MAX = 20;

// The client also prints each error that it throws.
console.error = () => {};

class Page extends HttpAgent {
  // The protocol leaves to each agent how a thread is joined again.
  connect(input) {
    return new HttpAgent({ url: `${this.url}/connect`, threadId: this.threadId, fetch: this.fetch }).run(input);
  }
}

export async function makeSpeaker({ url, session }) { return new AgUiSpeaker(url, session); }

class AgUiSpeaker {
  cutAfter = null;

  constructor(url, session) {
    Object.assign(this, { url, session, fetch: cuttingFetch(this) });
    this.open();
  }

  open() {
    this.agent = new Page({ url: this.url, threadId: this.session, fetch: this.fetch });
  }

  begin(method, parameters) {
    // Of this stream alone: those of a page that was left may go on.
    const stream = { hasEnded: false, errors: [] };
    const ended = () => { stream.hasEnded = true; };
    const watcher = { onRunFinishedEvent: ended, onRunErrorEvent: ended };
    stream.done = this.agent[method](parameters, watcher).catch(error => {
      stream.errors.push(String(error?.stack ?? error));
    });
    this.stream = stream;
  }

  run(parameters = {}) { this.begin('runAgent', { tools: this.tools, ...parameters }); }

  say({ text, files, tools }) {
    const parts = files.map(({ media_type, data }) => ({
      type: media_type.startsWith('image/') ? 'image' : 'document',
      source: { type: 'data', value: data, mimeType: media_type },
    }));
    const content = parts.length ? [{ type: 'text', text }, ...parts] : text;
    this.tools = tools.map(name => ({ name, description: '', parameters: { type: 'object' } }));
    this.agent.addMessage({ id: randomUUID(), role: 'user', content });
    this.run();
  }

  results({ results }) {
    for (const [toolCallId, content] of Object.entries(results))
      this.agent.addMessage({ id: randomUUID(), role: 'tool', toolCallId, content });
    this.run();
  }

  answer({ answers }) {
    const resume = Object.entries(answers).map(([interruptId, payload]) => ({
      interruptId, status: 'resolved', payload,
    }));
    this.run({ resume });
  }

  async cancel() {
    const answer = await fetch(`${this.url}/stop/${this.session}`, { method: 'POST' });
    if (!answer.ok) throw new Error(`stop: ${answer.status} ${await answer.text()}`);
  }

  regenerate() {
    const asked = this.agent.messages.findLastIndex(message => message.role === 'user');
    this.agent.setMessages(this.agent.messages.slice(0, asked + 1));
    this.run();
  }

  reload() {
    this.open();
    this.begin('connectAgent', {});
  }

  async settle() {
    for (let round = 0; round < RELOADS_MAX; round += 1) {
      const { stream } = this;
      await stream.done;
      const refused = stream.errors.find(error => error.includes('HTTP '));
      if (refused) throw new Error(refused);
      if (stream.hasEnded || (stream.isJoined && !stream.errors.length)) return;
      this.reload();
      this.stream.isJoined = true;
    }
    throw new Error('never whole');
  }

  cut({ after }) { this.cutAfter = after; }

  was_cut() { return this.cutAfter === null; }

  messages() { return this.agent.messages; }
}
