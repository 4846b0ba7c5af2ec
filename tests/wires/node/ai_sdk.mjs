// Speaks conversations with the AI SDK's own client, unchanged, and prints what its messages are.
//
// node ai_sdk.mjs BASE_URL < JOBS
// JOBS: a JSON array of {name, version, api, session, texts, cuts?, body?, headers?, approve?}.
// `cuts`: the connections of the first answers are cut after so many frames; after each the page is
// loaded again, and resumes. A text is one that the user sends, or `#regenerate`, or `#edit TEXT`
// (of the last message of the user's), or an object for `sendMessage`.
// Prints one line of JSON for each job: {name, session, messages, loaded, errors, requests}.
import { readFileSync } from 'node:fs';

const base = process.argv[2];
const jobs = JSON.parse(readFileSync(0, 'utf8'));
const AT_ONCE = 16;
const ROUNDS_MAX = 20;
const modules = {};
for (const { version } of jobs) modules[version] ??= await import(version);

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

function page(job, sdk, messages, fetch) {
  class Chat extends sdk.AbstractChat {}
  const done = sdk.lastAssistantMessageIsCompleteWithToolCalls;
  const approved = sdk.lastAssistantMessageIsCompleteWithApprovalResponses;
  const errors = [];
  const state = new State(messages);
  const chat = new Chat({
    id: job.session,
    state,
    transport: new sdk.DefaultChatTransport({
      api: base + job.api, fetch, headers: job.headers, body: job.body,
      prepareReconnectToStreamRequest: ({ id }) => ({
        api: `${base}${job.api}/${id}/stream${job.after ? `?after=${job.after}` : ''}`,
        headers: job.headers,
      }),
    }),
    sendAutomaticallyWhen: given => {
      const last = given.messages.at(-1);
      if (!last || last.role !== 'assistant' || !asked(last)) return false;
      return Boolean(done?.(given) || approved?.(given));
    },
    onError: error => errors.push(String(error.message ?? error)),
  });
  return { chat, errors, state };
}

// Whether the last step has a call that the client answers, and not the agent.
const OURS = new Set(['tool-ask_page', 'tool-remove']);
const asked = message => {
  const start = message.parts.findLastIndex(part => part.type === 'step-start');
  return message.parts.slice(start + 1).some(part => OURS.has(part.type) && !part.answered);
};

function cutting(job, log) {
  const cuts = [...(job.cuts ?? [])];
  return async (url, init) => {
    const response = await fetch(url, init);
    log.push(`${init?.method ?? 'GET'} ${response.status}`);
    if (!cuts.length || response.status !== 200) return response;
    const after = cuts.shift();
    let frames = 0;
    const reader = response.body.getReader();
    const body = new ReadableStream({
      async pull(controller) {
        if (frames >= after) { await reader.cancel(); controller.error(new TypeError('network')); return; }
        const { done, value } = await reader.read();
        if (done) { controller.close(); return; }
        const text = new TextDecoder().decode(value);
        const parts = text.split('\n\n').filter(Boolean);
        const kept = parts.slice(0, after - frames);
        frames += parts.length;
        controller.enqueue(new TextEncoder().encode(kept.map(part => part + '\n\n').join('')));
      },
    });
    return new Response(body, { status: 200, headers: response.headers });
  };
}

const load = async job => {
  const response = await fetch(`${base}${job.api}/${job.session}/messages?limit=1000`, { headers: job.headers });
  job.after = response.headers.get('stream-after');
  return response.status === 200 ? response.json() : [];
};

async function settle(job, chat) {
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    while (['submitted', 'streaming'].includes(chat.status)) await new Promise(setImmediate);
    const last = chat.messages.at(-1);
    const call = last?.parts.find(part => OURS.has(part.type) && part.state === 'input-available' && part.type === 'tool-ask_page');
    const approval = last?.parts.find(part => part.state === 'approval-requested');
    if (call) {
      await chat.addToolResult({ tool: 'ask_page', toolCallId: call.toolCallId, output: { answer: 42 } });
    } else if (approval) {
      await chat.addToolApprovalResponse({ id: approval.approval.id, approved: job.approve !== false, reason: 'because' });
    } else if (round > 0 || !call) {
      return;
    }
    await new Promise(resolve => setTimeout(resolve, 5));
  }
}

async function speak(job) {
  const sdk = modules[job.version];
  const requests = [];
  const net = cutting(job, requests);
  let { chat, errors } = page(job, sdk, job.messages ?? [], net);
  const all = [];
  for (const text of job.texts) {
    if (text === '#regenerate') await chat.regenerate();
    else if (text.startsWith?.('#edit ')) {
      const user = chat.messages.findLast(one => one.role === 'user');
      await chat.sendMessage({ text: text.slice(6), messageId: user.id });
    } else if (typeof text === 'object') await chat.sendMessage(text);
    else await chat.sendMessage({ text });
    await settle(job, chat);
    if (errors.some(one => one.includes('network'))) {
      // The page is loaded again.
      for (let round = 0; round < ROUNDS_MAX; round += 1) {
        const next = page(job, sdk, await load(job), net);
        await next.chat.resumeStream();
        ({ chat } = next);
        all.push(...next.errors);
        await settle(job, chat);
        if (!next.errors.length) break;
        if (!next.errors.some(one => one.includes('network'))) break;
      }
      errors = [];
    }
  }
  all.push(...errors);
  return { name: job.name, session: job.session, messages: chat.messages, loaded: await load(job),
    errors: all, status: chat.status, requests };
}

const waiting = [...jobs];
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  while (waiting.length) {
    const job = waiting.shift();
    let result;
    try { result = await speak(job); } catch (error) { result = { name: job.name, failure: String(error.stack ?? error) }; }
    process.stdout.write(JSON.stringify(result) + '\n');
  }
}));
