// Follows the stream of argv[2] with the npm package that argv[3] names, which reconnects by itself,
// and prints each message as one line of JSON. The event `custom` named `end` ends it.
const found = await import(process.argv[3]);
const EventSource = found.EventSource ?? found.default.EventSourcePolyfill;

const source = new EventSource(process.argv[2]);

source.onmessage = (message) => {
  process.stdout.write(JSON.stringify({ id: message.lastEventId, data: message.data }) + "\n");
  const event = JSON.parse(message.data);
  if (event.type === "custom" && event.name === "end") source.close();
};

source.onerror = (error) => {
  // CLOSED: it has given up, which a client of this gateway never has to.
  if (source.readyState === EventSource.CLOSED) {
    process.stderr.write(`gave up: ${error.code} ${error.message}\n`);
    process.exitCode = 1;
  }
};
