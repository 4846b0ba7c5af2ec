// The official client of AG-UI, unchanged and with its verifier on, as the tests of the wire use it.
//
//     node ag_ui.mjs cut URL THREAD        cuts the connection behind each frame, and connects again
//     node ag_ui.mjs follow URL THREAD     reads until the connection is lost; connects at each line of stdin
//     node ag_ui.mjs talk URL THREAD       a conversation: client tools, interrupts
//
// Each prints one line of JSON. A warning of the client is a failure.

import { createInterface } from "node:readline";
import { HttpAgent } from "@ag-ui/client";

const [mode, url, thread] = process.argv.slice(2);
const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));
console.error = () => {};
// Of a connection that breaks the client rethrows the error a second time, when it cancels the reader.
process.on("unhandledRejection", () => {});
const TOOLS = [{ name: "look", description: "Looks.", parameters: { type: "object" } }];

class Thread extends HttpAgent {
  // What the protocol has no route for: the gateway's `/connect`.
  connect(input) {
    const again = new HttpAgent({ url: `${this.url}/connect` });
    again.fetch = this.fetch;
    return again.run(input);
  }
}

function thread_of(name, path = "default") {
  const agent = new Thread({ url: `${url}/${path}`, threadId: name });
  agent.seen = [];
  agent.subscribe({ onEvent: ({ event }) => void agent.seen.push(event) });
  return agent;
}

function say(agent, id, content) {
  agent.messages.push({ id, role: "user", content });
}

// A fetch whose response ends after so many frames: cleanly, or as a broken connection does.
function cut_after(frames, breaks) {
  return async (where, init) => {
    const response = await fetch(where, init);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let left = frames;
    const body = new ReadableStream({
      async pull(controller) {
        for (;;) {
          const at = rest.indexOf("\n\n");
          if (at >= 0 && left > 0) {
            controller.enqueue(new TextEncoder().encode(rest.slice(0, at + 2)));
            rest = rest.slice(at + 2);
            left -= 1;
            return;
          }
          if (left <= 0) {
            await reader.cancel();
            return breaks ? controller.error(new TypeError("terminated")) : controller.close();
          }
          const { value, done } = await reader.read();
          if (done) return controller.close();
          rest += value;
        }
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  };
}

async function cut() {
  const whole = thread_of(`${thread}-0`);
  say(whole, "u1", "How are you?");
  await whole.runAgent({ runId: "run-0" });
  const frames = whole.seen.length;
  const threads = { [`${thread}-0`]: whole.messages };
  for (let frame = 1; frame <= frames; frame += 1) {
    const name = `${thread}-${frame}`;
    const agent = thread_of(name);
    say(agent, "u1", "How are you?");
    const { fetch: real } = agent;
    agent.fetch = cut_after(frame, frame % 2 === 0);
    await agent.runAgent({ runId: `run-${frame}` }).catch(() => {});
    agent.fetch = real;
    await agent.connectAgent();
    threads[name] = agent.messages;
  }
  return { frames, threads };
}

async function follow() {
  const agent = thread_of(thread);
  say(agent, "u1", "How are you?");
  let told = false;
  agent.subscribe({
    onTextMessageContentEvent: () => {
      if (!told) console.log(JSON.stringify({ reading: true }));
      told = true;
    },
  });
  await agent.runAgent({ runId: "run-1" }).catch(() => {});
  console.log(JSON.stringify({ lost: true }));
  for await (const _ of createInterface({ input: process.stdin })) {
    agent.seen.length = 0;
    await agent.connectAgent();
    const last = agent.seen.at(-1);
    console.log(JSON.stringify({ messages: agent.messages, last }));
  }
  return { ended: true };
}

async function talk() {
  const agent = thread_of(thread, "tool");
  say(agent, "u1", "Look outside");
  await agent.runAgent({ tools: TOOLS });
  const [call] = agent.messages.at(-1).toolCalls;
  agent.messages.push({ id: "t1", role: "tool", toolCallId: call.id, content: "sunny" });
  await agent.runAgent({ tools: TOOLS });
  const asking = thread_of(`${thread}-ask`, "ask");
  say(asking, "u1", "Ask me");
  await asking.runAgent();
  const [interrupt] = asking.pendingInterrupts;
  const reloaded = thread_of(`${thread}-ask`, "ask");
  await reloaded.connectAgent();
  const pending = reloaded.pendingInterrupts.map((one) => one.id);
  const entry = { interruptId: interrupt.id, status: "resolved", payload: { approved: true } };
  await reloaded.runAgent({ resume: [entry] });
  let shown = "";
  const refused = thread_of(thread, "nobody");
  say(refused, "u9", "x");
  await refused.runAgent().catch((error) => (shown = error.payload.message));
  return {
    threads: { [thread]: agent.messages, [`${thread}-ask`]: reloaded.messages },
    pending,
    interrupt: interrupt.id,
    shown,
  };
}

const result = await { cut, follow, talk }[mode]();
console.log(JSON.stringify({ ...result, warnings }));
