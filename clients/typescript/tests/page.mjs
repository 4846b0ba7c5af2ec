// The page that tests/clients shows in a browser: a chat made with the hook, and nothing else.
// Its address says which session of which gateway: ?gateway=…&session=…&token=…
import { createElement as h, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { BambooClient, textOf } from "../dist/index.js";
import { useSession } from "../dist/react.js";

const asked = new URLSearchParams(location.search);
const options = { baseUrl: asked.get("gateway"), credentials: "include" };
if (asked.has("token")) options.token = asked.get("token");
const client = new BambooClient({ ...options, backoff: { minMs: 10, maxMs: 100 } });

function Chat() {
  const session = useSession(client, asked.get("session"), {
    pageSize: 4,
    onEvent: (event) => (window.events = [...(window.events ?? []), event.type]),
  });
  window.chat = session;
  window.renders = (window.renders ?? 0) + 1;
  const { messages, status, connection, error, inputs, lastRun, title, hasOlder } = session;
  return h(
    "main",
    { id: "chat", "data-status": status, "data-connection": connection, "data-older": hasOlder },
    h("h1", null, title),
    h(
      "ol",
      null,
      messages.map((message) =>
        h(
          "li",
          {
            key: message.id,
            "data-id": message.id,
            "data-role": message.role,
            "data-status": message.status,
            "data-siblings": message.siblings?.length ?? 1,
          },
          textOf(message),
        ),
      ),
    ),
    h("output", { id: "error" }, error ? (error.code ?? error.name) : ""),
    h("output", { id: "run" }, lastRun ? lastRun.status : ""),
    inputs.map((input) => h("p", { key: input.request_id, className: "input" }, input.prompt)),
  );
}

if (asked.has("login")) {
  await new BambooClient({ ...options, token: asked.get("login") }).logIn();
}
createRoot(document.body.appendChild(document.createElement("div"))).render(
  h(StrictMode, null, h(Chat)),
);
