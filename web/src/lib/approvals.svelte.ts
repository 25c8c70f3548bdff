// What agents ask a person, over all thopters: open ones, and how to answer them.
import { call, HubError } from "./api/client";
import type { AnswerRequest, Approval } from "./api/types";
import { live } from "./live.svelte";

class Approvals {
  open = $state<Approval[]>([]);
  known = $state(false);
  problem = $state<unknown>(null);
  /** Ids whose answer is on its way from this page. */
  sending = $state<Record<string, boolean>>({});
  #timer: ReturnType<typeof setTimeout> | undefined;
  #turn = 0;

  constructor() {
    live.onResync(() => this.soon(0));
    live.on((events) => {
      if (events.some((e) => e.kind.startsWith("approval.") || e.kind === "box.destroyed")) this.soon(50);
    });
  }

  of(name: string): Approval[] {
    return this.open.filter((a) => a.name === name);
  }

  soon(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look(), ms);
  }

  async #look(): Promise<void> {
    const turn = ++this.#turn;
    try {
      const { approvals } = await call("GET /v1/approvals", {});
      if (turn !== this.#turn) return; // a newer look is under way
      this.open = approvals;
      this.known = true;
      this.problem = null;
    } catch (error) {
      this.problem = error;
      if (live.status === "live") this.soon(2000);
    }
  }

  /** Give an answer to exactly what was shown. Rejects when it was answered elsewhere or is another one now. */
  async answer(a: Approval, reply: Omit<AnswerRequest, "digest">): Promise<Approval> {
    this.sending[a.id] = true;
    try {
      const found = await call("POST /v1/approvals/{id}", { id: a.id, body: { ...reply, digest: a.digest } });
      this.open = this.open.filter((other) => other.id !== a.id);
      return found;
    } catch (error) {
      if (error instanceof HubError && !error.offline) this.soon(0);
      throw error;
    } finally {
      delete this.sending[a.id];
    }
  }
}

export const approvals = new Approvals();
