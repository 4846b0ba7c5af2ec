// What the official Node.js clients of OpenAI do with a gateway: `node openai.mjs BASE_URL`.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { generateText, streamText, tool, stepCountIs } from "ai-7.0.173";
import { z } from "zod";

const [baseURL] = process.argv.slice(2);
const client = new OpenAI({ apiKey: "key", baseURL, maxRetries: 0 });

const plain = await client.responses.create({ model: "default", input: "Hello there" });
assert.equal(plain.output_text, "Hello there ");
const numbers = [];
let text = "";
let id;
for await (const event of await client.responses.create({
  model: "default",
  input: "tools",
  stream: true,
})) {
  numbers.push(event.sequence_number);
  if (event.type === "response.created") id = event.response.id;
  if (event.type === "response.output_text.delta") text += event.delta;
}
assert.equal((await client.responses.retrieve(id)).output_text, text);
const half = numbers[Math.floor(numbers.length / 2)];
const rest = [];
for await (const event of await client.responses.retrieve(id, {
  stream: true,
  starting_after: half,
})) {
  rest.push(event.sequence_number);
}
assert.deepEqual(rest, numbers.filter((number) => number > half));
const helper = client.responses.stream({ model: "default", input: "tools" });
const kinds = [];
helper.on("event", (event) => kinds.push(event.type));
const final = await helper.finalResponse();
assert.equal(final.output_text, text);
assert.equal(kinds.at(-1), "response.completed");
const conversation = await client.conversations.create({ metadata: { a: "b" } });
const named = await client.responses.create({
  model: "default",
  input: "one",
  conversation: conversation.id,
});
assert.equal(named.conversation.id, conversation.id);
const items = [];
for await (const item of client.conversations.items.list(conversation.id, { limit: 1 })) {
  items.push(item.type);
}
assert.deepEqual(items, ["message", "message"]);
await assert.rejects(
  client.responses.create({ model: "default", input: "x", top_logprobs: 3 }),
  (error) => error.status === 400 && error.param === "top_logprobs",
);

const provider = createOpenResponses({ name: "bamboo", url: `${baseURL}/responses`, apiKey: "key" });
const model = provider("default");
assert.equal((await generateText({ model, prompt: "Hello there" })).text, "Hello there ");
const stream = streamText({ model, prompt: "Hello there" });
let streamed = "";
for await (const part of stream.textStream) streamed += part;
assert.equal(streamed, "Hello there ");
const asked = [];
const result = await generateText({
  model,
  prompt: "weather",
  tools: {
    get_weather: tool({
      description: "The weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => {
        asked.push(city);
        return "sun";
      },
    }),
  },
  stopWhen: stepCountIs(3),
});
assert.deepEqual(asked.sort(), ["Oslo", "Rome"]);
console.log(JSON.stringify({ text, ai: result.text }));
