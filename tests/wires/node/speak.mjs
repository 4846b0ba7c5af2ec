// Runs the speakers of one official client, as one process for many conversations.
//
// node speak.mjs MODULE [ARGUMENT…]
// MODULE exports `makeSpeaker(options, ...arguments)`; what it returns has a method for each verb.
// stdin: lines of {id, speaker, method, options}; `speaker` names a speaker, `make` makes it.
// stdout: for each line, when it is done, {id, result} or {id, failure}.
import { createInterface } from 'node:readline';

const [module, ...given] = process.argv.slice(2);
const { makeSpeaker } = await import(module);
const speakers = new Map();

// A client may throw a lost connection into nowhere; in a page that is a line in the console.
process.on('uncaughtException', error => {
  if (error instanceof TypeError || error?.cause?.code) return;
  console.error(error);
  process.exit(1);
});

const tell = answer => process.stdout.write(JSON.stringify(answer) + '\n');

for await (const line of createInterface({ input: process.stdin })) {
  const { id, speaker, method, options } = JSON.parse(line);
  (async () => {
    if (method === 'make') speakers.set(speaker, await makeSpeaker(options, ...given));
    else if (method === 'drop') speakers.delete(speaker);
    else return speakers.get(speaker)[method](options);
  })().then(
    result => tell({ id, result: result ?? null }),
    error => tell({ id, failure: String(error?.stack ?? error) }),
  );
}
process.exit(0);
