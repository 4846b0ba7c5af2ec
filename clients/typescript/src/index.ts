export { BambooClient } from "./client.js";
export type { CallOptions, ChangeOptions, ChatOptions } from "./client.js";
export { Conversation, foldMessages, textOf } from "./conversation.js";
export type { RunEnd, ShownMessage, ToolProgress } from "./conversation.js";
export {
  ApiError,
  BambooError,
  ConflictError,
  ConnectionError,
  ForbiddenError,
  GoneError,
  InvalidError,
  NotFoundError,
  ProtocolError,
  RateLimitedError,
  RunFailedError,
  ServerError,
  UnauthorizedError,
} from "./errors.js";
export { EventStream } from "./event-stream.js";
export type { ConnectionState, StreamOptions } from "./event-stream.js";
export { FrameParser } from "./frames.js";
export type { Frame } from "./frames.js";
export { LiveSession } from "./live-session.js";
export type { LiveOptions, LiveSnapshot, LiveStatus, SendOptions } from "./live-session.js";
export { SessionHandle } from "./session.js";
export type { ClientOptions, Credential } from "./transport.js";
export type * from "./types.js";
