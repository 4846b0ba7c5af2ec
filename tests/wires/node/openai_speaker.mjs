// One person at the official Node.js client of OpenAI.
//
// What a program does besides: it keeps the id of its last response, and retrieves that from where
// it was when its connection is lost. It does what `tests/wires/clients/openai_speaker.py` does.
import OpenAI from 'openai';

import { cuttingFetch } from './cutting.mjs';

const RETRIES_MAX = 20;
const ENDED = ['response.completed', 'response.failed', 'response.incomplete', 'response.cancelled'];

export async function makeSpeaker({ base_url, conversation }) {
  const speaker = new OpenAISpeaker(base_url);
  speaker.conversation = conversation ?? (await speaker.client.conversations.create()).id;
  return speaker;
}

class OpenAISpeaker {
  cutAfter = null;
  items = [];
  responses = [];
  response = null;
  tools = [];
  view = {};
  done = Promise.resolve();

  constructor(baseURL) {
    this.client = new OpenAI({ baseURL, apiKey: 'none', fetch: cuttingFetch(this) });
  }

  name() { return this.conversation; }

  say({ content, tools }) {
    this.tools = tools.map(name => ({
      type: 'function', name, parameters: { type: 'object' }, strict: false,
    }));
    this.begin([{ role: 'user', content }]);
  }

  results({ results }) {
    this.begin(Object.entries(results).map(([call_id, output]) => ({
      type: 'function_call_output', call_id, output,
    })));
  }

  approve({ answers }) {
    const asked = this.items.filter(item => item.type === 'mcp_approval_request');
    this.begin(Object.entries(answers).map(([name, { approved, reason }]) => ({
      type: 'mcp_approval_response',
      approval_request_id: asked.find(item => item.id.endsWith(name)).id,
      approve: approved,
      ...(reason === undefined ? {} : { reason }),
    })));
  }

  edit({ content, before }) {
    const previous = this.responses[before];
    const end = this.items.findIndex(item => item.response === previous);
    this.items = this.items.slice(0, end + 1);
    this.responses = this.responses.slice(0, before + 1);
    this.begin([{ role: 'user', content }], { previous_response_id: previous });
  }

  async cancel() { await this.client.responses.cancel(this.response); }

  reload() {
    const { response } = this;
    const view = this.leave();
    this.run(view, async () => {
      if (response) await this.follow(view, response);
      const items = [];
      const pages = this.client.conversations.items.list(this.conversation, { order: 'asc', limit: 100 });
      for await (const item of pages) items.push(item);
      this.items = items;
    });
  }

  async settle() {
    await this.done;
    if (this.view.failure) throw this.view.failure;
  }

  shown() { return this.items.filter(item => !('response' in item)); }

  cut({ after }) { this.cutAfter = after; }

  was_cut() { return this.cutAfter === null; }

  // -- streams ------------------------------------------------------------------------------------

  begin(input, place = { conversation: this.conversation }) {
    this.items.push(...input);
    const view = this.leave();
    this.response = null;
    this.run(view, async () => {
      try {
        const stream = await this.client.responses.create({
          model: 'default', input, tools: this.tools, stream: true, ...place,
        });
        if (await this.read(view, stream)) return;
      } catch (error) {
        if (!isLost(error) || !this.response) throw error;
      }
      await this.follow(view, this.response);
    });
  }

  leave() {
    this.view.isLeft = true;
    this.view = { number: -1, texts: new Map() };
    return this.view;
  }

  run(view, work) { this.done = work().catch(error => { view.failure = error; }); }

  async follow(view, response) {
    for (let round = 0; round < RETRIES_MAX; round += 1) {
      try {
        const after = view.number >= 0 ? { starting_after: view.number } : {};
        const stream = await this.client.responses.retrieve(response, { stream: true, ...after });
        if (await this.read(view, stream)) return;
      } catch (error) {
        if (!isLost(error)) throw error;
      }
    }
    throw new Error('never whole');
  }

  async read(view, stream) {
    for await (const event of stream) {
      if (view.isLeft) return true;
      if (event.sequence_number <= view.number)
        throw new Error(`${event.sequence_number} behind ${view.number}`);
      view.number = event.sequence_number;
      const place = `${event.output_index} ${event.content_index}`;
      if (event.type === 'response.output_text.delta') {
        view.texts.set(place, (view.texts.get(place) ?? '') + event.delta);
      } else if (event.type === 'response.output_text.done') {
        const said = view.texts.get(place) ?? event.text;
        if (said !== event.text) throw new Error(`deltas said ${said} and not ${event.text}`);
      } else if (ENDED.includes(event.type)) {
        this.items.push(...event.response.output, { response: event.response.id });
        this.responses.push(event.response.id);
        return true;
      } else if (event.response) {
        this.response = event.response.id;
      }
    }
    return false;
  }
}

// A lost connection, whether the client says so itself or lets the error of `fetch` through.
const isLost = error => error instanceof OpenAI.APIConnectionError || error instanceof TypeError;
