// A conversation by ranges: its end first, what was before on demand, what comes as it comes.
import { untrack } from "svelte";
import { call } from "../lib/api/client";
import type { Entry } from "../lib/api/types";
import { live } from "../lib/live.svelte";

const PAGE = 100;
const AT_ONCE = 500;
const KEPT = 3000; // entries in the page at once; what was first goes first

/** One entry with its number in the conversation, from 1. */
export interface Line extends Entry {
  n: number;
}

export class Transcript {
  lines = $state.raw<Line[]>([]);
  known = $state(false);
  total = $state(0);
  problem = $state.raw<unknown>(null);
  busy = $state(false);
  #name: string;
  #asked = false;

  /** To be made while a view is: it follows the thopter until that goes. */
  constructor(name: string, box: () => string | undefined) {
    this.#name = name;
    $effect(() => {
      untrack(() => void this.begin());
      let timer: ReturnType<typeof setTimeout> | undefined;
      const stops = [
        live.on((events) => {
          if (timer || !events.some((e) => e.kind === "entry" && e.box === untrack(box))) return;
          timer = setTimeout(() => {
            timer = undefined;
            void this.#later();
          }, 120);
        }),
        live.onResync(() => void this.begin()),
      ];
      return () => {
        stops.forEach((stop) => stop());
        clearTimeout(timer);
      };
    });
  }

  /** True when there are earlier entries than those that are here. */
  get more(): boolean {
    return (this.lines[0]?.n ?? 1) > 1;
  }

  begin = async (): Promise<void> => {
    this.busy = true;
    try {
      const page = await call("GET /v1/thopters/{name}/transcript", { name: this.#name, query: { last: PAGE } });
      this.lines = numbered(page.entries, page.next);
      this.total = page.total;
      this.known = true;
      this.problem = null;
    } catch (error) {
      this.problem = error;
    } finally {
      this.busy = false;
    }
  };

  earlier = async (): Promise<void> => {
    const first = this.lines[0]?.n ?? 1;
    if (this.busy || first <= 1) return;
    this.busy = true;
    try {
      const after = Math.max(first - 1 - PAGE, 0);
      const page = await call("GET /v1/thopters/{name}/transcript", { name: this.#name, query: { after, limit: first - 1 - after } });
      this.lines = [...numbered(page.entries, page.next), ...this.lines].slice(0, KEPT);
      this.problem = null;
    } catch (error) {
      this.problem = error;
    } finally {
      this.busy = false;
    }
  };

  async #later(): Promise<void> {
    if (this.#asked) return;
    this.#asked = true;
    try {
      for (let full = true; full; ) {
        const after = this.lines.at(-1)?.n ?? 0;
        const page = await call("GET /v1/thopters/{name}/transcript", { name: this.#name, query: { after, limit: AT_ONCE } });
        if (page.entries.length) this.lines = [...this.lines, ...numbered(page.entries, page.next)].slice(-KEPT);
        this.total = page.total;
        full = page.entries.length === AT_ONCE;
      }
      this.problem = null;
    } catch (error) {
      this.problem = error;
    } finally {
      this.#asked = false;
    }
  }
}

function numbered(entries: Entry[], next: number): Line[] {
  return entries.map((e, i) => ({ ...e, n: next - entries.length + 1 + i }));
}
