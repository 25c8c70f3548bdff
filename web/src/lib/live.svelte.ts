// The one stream of events of this page, kept alive: backoff, replay, and a fresh start where replay can't help.
import { HubError, loggedOut } from "./api/client";
import { follow, type HubEvent } from "./sse";

type Listener = (events: HubEvent[]) => void;

const STALE_MS = 10 * 60_000; // away for longer: looking anew is quicker than being told everything
const SUSPECT_MS = 20_000; // the hub says something every 15 s
const BACKOFF_MS = [250, 500, 1000, 2000, 5000, 10_000, 15_000];

class Live {
  /** connecting: not yet; live: events flow; away: the hub can't be reached and is tried again. */
  status = $state<"connecting" | "live" | "away">("connecting");
  /** When the last thing was heard, ms. */
  heard = $state(0);
  #last: number | null = null;
  #listeners = new Set<Listener>();
  #resyncs = new Set<() => void>();
  #stop: AbortController | null = null;
  #wake: (() => void) | null = null;
  #drop: AbortController | null = null;

  /** Hear of every batch of events, in order, each once. Returns how to stop. */
  on(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Be told to look anew: at each beginning that no replay leads to. Returns how to stop. */
  onResync(then: () => void): () => void {
    this.#resyncs.add(then);
    return () => this.#resyncs.delete(then);
  }

  start(): void {
    if (this.#stop) return;
    this.#stop = new AbortController();
    void this.#run(this.#stop.signal);
    addEventListener("online", this.#anew);
    addEventListener("offline", this.#anew);
    document.addEventListener("visibilitychange", this.#seen);
  }

  stop(): void {
    this.#stop?.abort();
    this.#stop = null;
    this.#last = null;
    this.status = "connecting";
    removeEventListener("online", this.#anew);
    removeEventListener("offline", this.#anew);
    document.removeEventListener("visibilitychange", this.#seen);
  }

  /** The network is another one now: a line that was open through the old one may be dead without a word. */
  #anew = (): void => {
    this.#drop?.abort();
    this.#wake?.();
  };
  #seen = (): void => {
    if (document.hidden) return;
    if (Date.now() - this.heard > SUSPECT_MS) this.#anew();
    else this.#wake?.();
  };

  async #run(signal: AbortSignal): Promise<void> {
    let tries = 0;
    while (!signal.aborted) {
      try {
        if (this.#last !== null && Date.now() - this.heard > STALE_MS) this.#last = null;
        const fresh = this.#last === null;
        this.#drop = new AbortController();
        await follow(
          this.#last,
          () => {
            tries = 0;
            this.status = "live";
            this.heard = Date.now();
            if (fresh) for (const then of this.#resyncs) then();
          },
          (events) => this.#take(events),
          () => (this.heard = Date.now()),
          AbortSignal.any([signal, this.#drop.signal]),
        );
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof HubError && error.status === 401) return loggedOut();
        if (error instanceof HubError && error.status === 409) this.#last = null;
      }
      if (signal.aborted) return;
      this.status = "away";
      await this.#pause(BACKOFF_MS[Math.min(tries, BACKOFF_MS.length - 1)]!, signal);
      tries += 1;
    }
  }

  #take(events: HubEvent[]): void {
    this.heard = Date.now();
    const last = events[events.length - 1]!;
    if (last.seq) this.#last = last.seq;
    for (const listener of this.#listeners) listener(events);
  }

  #pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((done) => {
      const end = () => {
        clearTimeout(timer);
        this.#wake = null;
        signal.removeEventListener("abort", end);
        done();
      };
      const timer = setTimeout(end, ms * (0.8 + Math.random() * 0.4));
      this.#wake = end;
      signal.addEventListener("abort", end);
    });
  }
}

export const live = new Live();
