// Folds events for tests/clients: each line is a list of steps, each step a list of events; it answers
// with what is shown after each step. `page` begins with loaded messages instead of nothing.
import { createInterface } from "node:readline";
import { Conversation } from "../dist/index.js";

for await (const line of createInterface({ input: process.stdin })) {
  const { page, steps } = JSON.parse(line);
  const conversation = new Conversation(page ?? {});
  const shown = steps.map((events) => {
    for (const event of events) conversation.apply(event);
    const { messages, needsReload, activeRunId, inputs, queuedRunIds } = conversation;
    return structuredClone({ messages, needsReload, activeRunId, inputs, queuedRunIds });
  });
  process.stdout.write(`${JSON.stringify(shown)}\n`);
}
