// A question to the hub whose answer a view shows: loading, there, or failed and asked again.
import { untrack } from "svelte";
import { live } from "./live.svelte";
import type { HubEvent } from "./sse";

export class Load<T> {
  value = $state.raw<T | null>(null);
  problem = $state.raw<unknown>(null);
  busy = $state(false);
  #turn = 0;

  /** `ask` is asked at once, again with `again()`, and after events that `when` fits (not more often than 4/s). */
  constructor(
    private readonly ask: () => Promise<T>,
    when?: (event: HubEvent) => boolean,
  ) {
    $effect(() => {
      untrack(() => void this.again());
      let timer: ReturnType<typeof setTimeout> | undefined;
      const soon = () => {
        timer ??= setTimeout(() => {
          timer = undefined;
          void this.again();
        }, 250);
      };
      const stops = when
        ? [live.on((events) => events.some(when) && soon()), live.onResync(soon)]
        : [];
      return () => {
        stops.forEach((stop) => stop());
        clearTimeout(timer);
      };
    });
  }

  again = async (): Promise<void> => {
    const turn = ++this.#turn;
    this.busy = true;
    try {
      const found = await this.ask();
      if (turn !== this.#turn) return;
      this.value = found;
      this.problem = null;
    } catch (error) {
      if (turn === this.#turn) this.problem = error;
    } finally {
      if (turn === this.#turn) this.busy = false;
    }
  };
}
