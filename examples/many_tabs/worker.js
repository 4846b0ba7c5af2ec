// The SharedWorker: all tabs of one origin have this one, and it ends with the last of them.
import { Hub } from "./hub.js";

const hub = new Hub(new URL(self.location).searchParams.get("gateway"));

self.onconnect = ({ ports: [port] }) => {
  const tab = hub.join((message) => port.postMessage(message));
  port.onmessage = ({ data: { call, session, lock } }) => {
    if (call === "watch") tab.watch(session);
    if (call === "unwatch") tab.unwatch(session);
    // No event says that a tab was closed or has crashed. It holds a lock as long as it lives.
    if (call === "join") navigator.locks.request(lock, tab.leave);
  };
};
