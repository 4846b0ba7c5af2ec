/** Names for the shapes of the API. They are made of the gateway's OpenAPI document. */
import type { components, operations } from "./openapi.js";

type Schemas = components["schemas"];

/** The query parameters of an operation. */
export type Query<Operation extends keyof operations> = NonNullable<
  operations[Operation]["parameters"]["query"]
>;

/** One event of a session's log, told apart by `type`. */
export type LogEvent = Schemas["Event"];
/** What a stream hands out: events of the log, and `open`, `reset` and `goodbye` of the stream itself. */
export type StreamEvent = Exclude<Schemas["StreamEvent"], Schemas["HeartbeatEvent"]>;
/** An event of a stream of several sessions. */
export type JointEvent = StreamEvent & { session_id: string };
/** What a stream of changes hands out. */
export type ChangeEvent = Exclude<Schemas["ChangeEvent"], Schemas["HeartbeatEvent"]>;
export type EventType = StreamEvent["type"];
/** The event of one type: `EventOf<"token">`. */
export type EventOf<Type extends EventType> = Extract<StreamEvent, { type: Type }>;

export type Message = Schemas["Message"];
export type MessageInput = Schemas["MessageInput"];
/** What is said: a text, or a message with parts, or several messages (results of tools). */
export type Said = Schemas["ChatInput"]["message"];
export type Content = Schemas["MessageInput"]["content"];
export type MessagePage = Schemas["MessagePage"];
export type EventPage = Schemas["EventPage"];
export type PostedEvent = Schemas["PostedEvent"];
export type Session = Schemas["Session"];
export type SessionInput = Schemas["SessionInput"];
export type SessionPatch = Schemas["SessionPatch"];
export type SessionPage = Schemas["SessionPage"];
export type Run = Schemas["Run"];
export type RunPage = Schemas["RunPage"];
export type RunWaited = Schemas["RunWaited"];
export type RunCancelled = Schemas["RunCancelled"];
export type ChatInput = Schemas["ChatInput"];
export type ChatAccepted = Schemas["ChatAccepted"];
export type RegenerateInput = Schemas["RegenerateInput"];
export type InputsAccepted = Schemas["InputsAccepted"];
export type OpenInput = Schemas["OpenInput"];
export type Branch = Schemas["Branch"];
export type Connection = Schemas["Connection"];
export type GatewayFile = Schemas["File"];
export type FilePage = Schemas["FileList"];
export type Share = Schemas["Share"];
export type ShareInput = Schemas["ShareInput"];
export type NewShare = Schemas["NewShareAnswer"];
export type ForkInput = Schemas["ForkInput"];
export type Ticket = Schemas["Ticket"];
export type Agent = Schemas["AgentInfo"];
export type ChangePage = Schemas["ChangePage"];
export type SearchResults = Schemas["SearchResults"];
export type SearchResult = Schemas["SearchResult"];
export type Problem = Schemas["Problem"];
