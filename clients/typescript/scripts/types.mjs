// Writes src/openapi.ts: the schemas and query parameters of openapi/openapi.json as TypeScript.
// Answers and paths stay out: the client names them itself, and they would be six times as long.
// With `--print` it prints them instead; the repository's tests compare that with the committed file.
import { readFile, writeFile } from "node:fs/promises";
import openapiTS, { astToString } from "openapi-typescript";

const METHODS = ["get", "put", "post", "delete", "patch"];
const here = (path) => new URL(path, import.meta.url);
const document = JSON.parse(await readFile(here("../../../openapi/openapi.json"), "utf8"));

const isQuery = (parameter) => parameter.in === "query";
const paths = {};
for (const [path, item] of Object.entries(document.paths)) {
  for (const method of METHODS) {
    const operation = item[method];
    const query = operation?.parameters?.filter(isQuery) ?? [];
    if (query.length === 0) continue;
    const { operationId } = operation;
    paths[path] = { ...paths[path], [method]: { operationId, parameters: query, responses: {} } };
  }
}
const { schemas } = document.components;
const nodes = await openapiTS({
  openapi: document.openapi,
  info: document.info,
  paths,
  components: { schemas },
});
const wanted = nodes.filter((node) => ["components", "operations"].includes(node.name?.text));
const text = `// Made of openapi/openapi.json by \`npm run types\`. Do not edit.\n${astToString(wanted)}`;
if (process.argv.includes("--print")) process.stdout.write(text);
else await writeFile(here("../src/openapi.ts"), text);
