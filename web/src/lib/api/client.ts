// One way to call the hub: same origin, the session's cookie, JSON, errors with their hint.
import { clock } from "../clock.svelte";
import { keyHeader } from "../key";
import type { Calls, ErrorInfo } from "./types";

export type Call = keyof Calls;
type Of<C extends Call, K extends string> = Calls[C] extends Record<K, infer V> ? V : never;
type Needs<C extends Call> = (C extends `${string}{${infer P}}${string}` ? { [K in P]: string } : unknown) &
  ([Of<C, "body">] extends [never] ? unknown : { body: Of<C, "body"> }) &
  ([Of<C, "query">] extends [never] ? unknown : { query?: Of<C, "query"> });

/** What the hub refused or could not do; `status` 0: it could not be reached. */
export class HubError extends Error {
  override name = "HubError";
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint = "",
    readonly data: Record<string, unknown> = {},
  ) {
    super(message);
  }
  get offline(): boolean {
    return this.status === 0;
  }
}

let onLoggedOut: () => void = () => undefined;

/** Say what happens when the hub no longer knows this browser. */
export function whenLoggedOut(then: () => void): void {
  onLoggedOut = then;
}

/** The hub does not know this browser any more. */
export function loggedOut(): void {
  onLoggedOut();
}

const PATIENCE_MS = 60_000;

/**
 * Make a call of the table, e.g. `call("GET /v1/thopters/{name}", { name })`. Rejects with a HubError.
 * A change carries an Idempotency-Key, so that trying again after a lost answer does nothing twice.
 */
export async function call<C extends Call>(
  what: C,
  args: Needs<C>,
  options: { signal?: AbortSignal; key?: string } = {},
): Promise<Of<C, "answer">> {
  const [method, pattern] = what.split(" ") as [string, string];
  const given = args as Record<string, unknown>;
  const path = pattern.replace(/\{(\w+)\}/g, (_all, name: string) => encodeURIComponent(String(given[name])));
  return (await request(method, path + query(given["query"]), given["body"], options)) as Of<C, "answer">;
}

function query(values: unknown): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries((values ?? {}) as Record<string, unknown>))
    if (value !== undefined) found.set(name, String(value));
  const text = found.toString();
  return text && `?${text}`;
}

/** The call below `call`, for paths that the table does not have. */
export async function request(
  method: string,
  path: string,
  body?: unknown,
  options: { signal?: AbortSignal; key?: string } = {},
): Promise<unknown> {
  const headers: Record<string, string> = { Accept: "application/json", ...keyHeader() };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET") headers["Idempotency-Key"] = options.key ?? crypto.randomUUID();
  const timeout = AbortSignal.timeout(PATIENCE_MS);
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      credentials: "same-origin",
      redirect: "error",
      cache: "no-store",
      signal: options.signal ? AbortSignal.any([options.signal, timeout]) : timeout,
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new HubError(0, "unreachable", "The hub can't be reached", "It is tried again as soon as it is back.");
  }
  clock.learn(answer.headers.get("date"));
  if (answer.ok) return answer.status === 204 ? {} : await answer.json();
  throw await refused(answer);
}

async function refused(answer: Response): Promise<HubError> {
  let info: Partial<ErrorInfo> = {};
  try {
    info = ((await answer.json()) as { error?: ErrorInfo }).error ?? {};
  } catch {
    info = { message: `The hub answered ${answer.status}` };
  }
  if (answer.status === 401 && info.data?.["reason"] === "session") onLoggedOut();
  return new HubError(answer.status, info.code ?? "", info.message ?? "", info.hint ?? "", info.data ?? {});
}

/** Any error as a HubError, for showing. */
export function asHubError(error: unknown): HubError {
  if (error instanceof HubError) return error;
  return new HubError(-1, "page", error instanceof Error ? error.message : String(error), "Reload the page.");
}
