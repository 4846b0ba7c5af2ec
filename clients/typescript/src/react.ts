/** A React hook over one session. */
import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { BambooClient } from "./client.js";
import type { LiveOptions, LiveSession, LiveSnapshot } from "./live-session.js";

/** The conversation, and what a user can do in it. */
export type UseSession = LiveSnapshot &
  Pick<
    LiveSession,
    | "send"
    | "discard"
    | "cancel"
    | "regenerate"
    | "edit"
    | "select"
    | "answer"
    | "loadOlder"
    | "reload"
  > & {
    /** The same as `cancel`, by the name of its button. */
    stop: LiveSession["cancel"];
  };

/**
 * Show a session, and keep it up to date for as long as the component is mounted. The gateway holds
 * the state: after a reload in mid-answer the same component shows the answer where it is by then.
 *
 * @param client Made once, outside of components.
 * @param sessionId Of a session that need not exist yet: `send` creates it.
 */
export function useSession(
  client: BambooClient,
  sessionId: string,
  options: LiveOptions = {},
): UseSession {
  const { pageSize, onEvent } = options;
  // A function that is written in the component is another one at each render: the last one counts.
  const told = useRef(onEvent);
  useEffect(() => {
    told.current = onEvent;
  });
  const live = useMemo(() => {
    const given: LiveOptions = { onEvent: (event) => told.current?.(event) };
    if (pageSize !== undefined) given.pageSize = pageSize;
    return client.session(sessionId).follow(given);
  }, [client, sessionId, pageSize]);
  useEffect(() => {
    live.start();
    return () => live.stop();
  }, [live]);
  const snapshot = useSyncExternalStore(live.subscribe, live.getSnapshot, live.getSnapshot);
  return useMemo(() => {
    const { send, discard, cancel, regenerate, edit, select, answer, loadOlder, reload } = live;
    const verbs = { send, discard, cancel, regenerate, edit, select, answer, loadOlder, reload };
    return { ...snapshot, ...verbs, stop: cancel };
  }, [live, snapshot]);
}
