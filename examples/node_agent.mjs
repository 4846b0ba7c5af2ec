// An agent in Node.js, over HTTP, without dependencies: the turn comes as one POST, the events go
// back as NDJSON, one JSON object a line.
//
//     node examples/node_agent.mjs                                     (PORT, default 9000)
//     .venv/bin/bamboo serve --agent default=http://127.0.0.1:9000/
//
// The conversation stands in `messages`, its end is what is to be answered. Closing the request
// means that the run was cancelled.

import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const textOf = (message) =>
  typeof message.content === "string"
    ? message.content
    : message.content.filter((part) => part.type === "text").map((part) => part.text).join("");

async function* answer(turn) {
  const question = textOf(turn.messages.findLast((message) => message.role === "user"));
  const call = { tool_call_id: `call_${turn.run_id}`, tool_name: "reverse" };
  yield { type: "tool_start", ...call, arguments: { text: question } };
  const reversed = [...question].reverse().join("");
  yield { type: "tool_complete", ...call, tool_name: undefined, result: { success: true, content: reversed } };
  for (const word of `Backwards that reads: ${reversed}`.split(/(?<= )/)) {
    yield { type: "token", content: word };
    await sleep(10);
  }
  yield { type: "complete", finish_reason: "stop" };
}

const server = createServer(async (request, response) => {
  if (request.method !== "POST") {
    response.writeHead(405, { allow: "POST" }).end();
    return;
  }
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  for await (const event of answer(JSON.parse(body))) {
    if (response.destroyed) return; // cancelled
    response.write(`${JSON.stringify(event)}\n`);
  }
  response.end();
});

server.listen(Number(process.env.PORT ?? 9000), "127.0.0.1", () => {
  console.log(`an agent listens on http://127.0.0.1:${server.address().port}/`);
});
