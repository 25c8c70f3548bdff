// A stream of the hub's events: every kind, replay from a number, silence noticed, ended by a signal.
// EventSource can't: it sends no key, and hides unknown kinds, comments and why it was refused.
import { HubError } from "./api/client";
import { keyHeader } from "./key";

export interface HubEvent {
  kind: string;
  at_ms: number;
  seq: number;
  box: string;
  run: string;
  flow: string;
  data: Record<string, unknown>;
}

const SILENCE_MS = 40_000; // the hub sends a comment every 15 s
const LINE_MAX = 16 << 20;

/** Takes events out of text as it comes; a line that can't be read is counted and skipped. */
export class Lines {
  skipped = 0;
  #rest = "";
  #data: string[] = [];

  feed(text: string): HubEvent[] {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    if (this.#rest.length > LINE_MAX) throw new Error("an event without end");
    const found: HubEvent[] = [];
    for (const line of lines) {
      const event = this.#line(line.endsWith("\r") ? line.slice(0, -1) : line);
      if (event) found.push(event);
    }
    return found;
  }

  #line(line: string): HubEvent | null {
    if (line) {
      if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      return null;
    }
    if (!this.#data.length) return null;
    const data = this.#data.join("\n");
    this.#data = [];
    try {
      return JSON.parse(data) as HubEvent;
    } catch {
      this.skipped += 1;
      return null;
    }
  }
}

/**
 * Read the stream after event `after` (null: from now) until it ends; `opened` is called once it flows, then
 * `got` with each batch, `alive` with every byte. Rejects with a HubError when refused (409: `after` is of another history) or silent.
 */
export async function follow(
  after: number | null,
  opened: () => void,
  got: (events: HubEvent[]) => void,
  alive: () => void,
  signal: AbortSignal,
): Promise<void> {
  const quiet = new AbortController();
  const both = AbortSignal.any([signal, quiet.signal]);
  let timer = setTimeout(() => quiet.abort(), SILENCE_MS);
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => quiet.abort(), SILENCE_MS);
  };
  try {
    const headers: Record<string, string> = { Accept: "text/event-stream", ...keyHeader() };
    if (after !== null) headers["Last-Event-ID"] = String(after);
    const answer = await fetch("/v1/events", { headers, credentials: "same-origin", cache: "no-store", signal: both });
    if (!answer.ok || !answer.body) throw new HubError(answer.status, "events", "The hub sends no events");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const lines = new Lines();
    let first = true;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      alive();
      if (first) opened();
      first = false;
      const events = lines.feed(value);
      if (events.length) got(events);
    }
  } finally {
    clearTimeout(timer);
    quiet.abort();
  }
}
