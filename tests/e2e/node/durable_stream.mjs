// Reads the durable stream of argv[2] with the official client in the live mode of argv[3], from the
// offset of argv[4]: `false` reads what there is, again and again. Prints each batch as one line of
// JSON. When the client gives up, it begins again behind its last batch, as a page would. The event
// `custom` named `end` ends it.
import { stream } from "@durable-streams/client";

const [, , url, live, begin] = process.argv;
let offset = begin;
let isOver = false;

while (!isOver) {
  try {
    const response = await stream({ url, offset, live: live === "false" ? false : live });
    response.subscribeJson(({ items, offset: next, upToDate }) => {
      offset = next;
      process.stdout.write(JSON.stringify({ items, offset, upToDate }) + "\n");
      if (items.some((event) => event.type === "custom" && event.name === "end")) {
        isOver = true;
        response.cancel();
      }
    });
    await response.closed;
  } catch (error) {
    process.stderr.write(`${error.code ?? error.name}: ${error.message}\n`);
    // What the gateway refuses stays refused.
    if (error.status >= 400 && error.status < 500) process.exit(1);
  }
  await new Promise((resolve) => setTimeout(resolve, 50));
}
process.exit(0);
