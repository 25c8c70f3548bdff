// All thopters as the page knows them: looked at once, then kept current by events.
import { call } from "./api/client";
import type { ThopterView } from "./api/types";
import { live } from "./live.svelte";
import { line } from "./text";
import type { HubEvent } from "./sse";

const LOOK_SOON_MS = 250; // after an event that says only that something changed
const LOOK_LATER_MS = 5000; // after words: their cost and tokens are in no event
const STRUCTURE = /^(run\.created|box\.|flow\.done|label|message|run\.budget|approval\.|hub\.started|run\.told)/;

class Fleet {
  all = $state<ThopterView[]>([]);
  /** False until the first look has succeeded. */
  known = $state(false);
  problem = $state<unknown>(null);
  #at = new Map<string, ThopterView>(); // by box
  #timer: ReturnType<typeof setTimeout> | undefined;
  #due = Infinity;
  #looking = false;
  #began = 0;

  constructor() {
    live.onResync(() => this.soon(0));
    live.on((events) => {
      for (const event of events) this.#hear(event);
    });
  }

  get(name: string): ThopterView | undefined {
    return this.all.find((t) => t.name === name);
  }

  byBox(box: string): ThopterView | undefined {
    return this.#at.get(box);
  }

  /** Look at all anew within `ms`. Several asks make one look. */
  soon(ms = LOOK_SOON_MS): void {
    const due = Date.now() + ms;
    if (due >= this.#due && !this.#looking) return;
    clearTimeout(this.#timer);
    this.#due = due;
    this.#timer = setTimeout(() => void this.#look(), ms);
  }

  async #look(): Promise<void> {
    if (this.#looking) {
      this.#due = Infinity;
      this.soon(LOOK_SOON_MS);
      return;
    }
    this.#looking = true;
    this.#due = Infinity;
    this.#began = Date.now();
    try {
      const { thopters } = await call("GET /v1/thopters", {});
      this.#settle(thopters);
      this.known = true;
      this.problem = null;
    } catch (error) {
      this.problem = error;
      if (live.status === "live") this.soon(2000);
    } finally {
      this.#looking = false;
    }
  }

  /** Take what was seen; what did not change keeps its place and its identity, so nothing is drawn anew. */
  #settle(seen: ThopterView[]): void {
    const now = new Set(seen.map((t) => t.id));
    for (const t of seen) {
      const old = this.#at.get(t.id);
      if (old) Object.assign(old, t);
    }
    const fresh = seen.filter((t) => !this.#at.has(t.id));
    if (fresh.length || this.all.some((t) => !now.has(t.id))) {
      this.all = [...this.all.filter((t) => now.has(t.id)), ...fresh];
    }
    this.#at = new Map(this.all.map((t) => [t.id, t]));
  }

  #hear(event: HubEvent): void {
    const t = event.box ? this.#at.get(event.box) : undefined;
    const data = event.data as Record<string, string & number>;
    if (event.kind === "run.state" && t) {
      t.state = data["state"] ?? t.state;
      t.reason = data["reason"] ?? "";
      t.since_ms = data["since_ms"] || event.at_ms;
      this.soon();
    } else if (event.kind === "box.state" && t && data["state"]) {
      t.box_state = data["state"];
      this.soon();
    } else if (event.kind === "box.destroyed" && t) {
      this.all = this.all.filter((other) => other.id !== event.box);
      this.#at.delete(event.box);
    } else if (event.kind === "entry") {
      if (t && data["role"] === "assistant" && data["summary"]) {
        t.last_message = line(data["summary"]);
        t.last_message_ms = data["entry_ms"] || event.at_ms;
      }
      this.soon(LOOK_LATER_MS);
    } else if (event.kind === "run.state" || STRUCTURE.test(event.kind)) {
      this.soon();
    }
  }

  /** When the newest look began, ms. */
  get looked(): number {
    return this.#began;
  }
}

export const fleet = new Fleet();
