/**
 * What goes wrong:
 *
 *     BambooError
 *     ├── ConnectionError          no gateway answered, or the answer was cut
 *     ├── ProtocolError            what answered is no gateway: waiting does not help
 *     ├── RunFailedError           the run that was waited for did not complete
 *     └── ApiError                 the gateway refused: `status`, `code`, `detail`
 *         ├── UnauthorizedError    401
 *         ├── ForbiddenError       403
 *         ├── NotFoundError        404
 *         ├── ConflictError        409, 412
 *         ├── GoneError            410
 *         ├── InvalidError         400, 413, 415, 422
 *         ├── RateLimitedError     429
 *         └── ServerError          5xx
 *
 * An aborted call throws the `reason` of its AbortSignal, as `fetch` does.
 */
import type { Problem, RunWaited } from "./types.js";

export class BambooError extends Error {
  override name = "BambooError";
  /** Whether the same call may succeed later. */
  readonly retryable: boolean = false;
}

/** No gateway answered, or the connection was lost before the whole answer was there. */
export class ConnectionError extends BambooError {
  override name = "ConnectionError";
  override readonly retryable = true;
}

/** What answers at the address does not answer like a gateway. */
export class ProtocolError extends BambooError {
  override name = "ProtocolError";
}

/** The run has ended otherwise than `completed`. */
export class RunFailedError extends BambooError {
  override name = "RunFailedError";
  /** The error's code, or the status of a run without an error (`cancelled`). */
  readonly code: string;

  constructor(readonly run: RunWaited) {
    super(run.error?.message ?? `The run ${run.run_id} is ${run.status}.`);
    this.code = run.error?.code ?? run.status;
  }
}

/** The gateway refused a request. `code` is stable, `detail` is for people. */
export class ApiError extends BambooError {
  override name = "ApiError";
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  override readonly retryable: boolean;

  constructor(
    /** The whole answer; further members depend on its `code`. */
    readonly problem: Problem,
    /** How long the gateway asks to wait, from `Retry-After`. */
    readonly retryAfterMs?: number,
  ) {
    super(`${problem.code}: ${problem.detail}`);
    this.status = problem.status;
    this.code = problem.code;
    this.detail = problem.detail;
    this.retryable = problem.retryable || RETRYABLE.has(problem.status);
  }
}

export class UnauthorizedError extends ApiError {
  override name = "UnauthorizedError";
}
export class ForbiddenError extends ApiError {
  override name = "ForbiddenError";
}
export class NotFoundError extends ApiError {
  override name = "NotFoundError";
}
export class ConflictError extends ApiError {
  override name = "ConflictError";
}
export class GoneError extends ApiError {
  override name = "GoneError";
}
export class InvalidError extends ApiError {
  override name = "InvalidError";
}
export class RateLimitedError extends ApiError {
  override name = "RateLimitedError";
}
export class ServerError extends ApiError {
  override name = "ServerError";
}

/** Statuses that proxies answer while a gateway starts, and those that ask for patience. */
const RETRYABLE = new Set([408, 425, 429, 502, 503, 504]);

const CLASSES: Record<number, typeof ApiError> = {
  400: InvalidError,
  401: UnauthorizedError,
  403: ForbiddenError,
  404: NotFoundError,
  409: ConflictError,
  410: GoneError,
  412: ConflictError,
  413: InvalidError,
  415: InvalidError,
  422: InvalidError,
  429: RateLimitedError,
};

/** Make the error of a refusal; of an answer that is no problem document (a proxy's), a plain one. */
export async function errorOf(response: Response): Promise<ApiError> {
  const { status } = response;
  let found: Partial<Problem> = {};
  try {
    found = ((await response.json()) as Partial<Problem> | null) ?? {};
  } catch {
    // Not JSON, or cut: the status says enough.
  }
  const problem: Problem = {
    type: "about:blank",
    title: response.statusText,
    detail: `The server answered ${status}.`,
    instance: "",
    code: `http-${status}`,
    retryable: false,
    ...found,
    status,
  };
  const Class = CLASSES[status] ?? (status >= 500 ? ServerError : ApiError);
  return new Class(problem, retryAfterOf(response));
}

function retryAfterOf(response: Response): number | undefined {
  const value = response.headers.get("Retry-After");
  if (value === null) return undefined;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}
