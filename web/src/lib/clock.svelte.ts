// What time it is at the hub, for everything that shows an age: one ticker, still while nobody looks.

const TRUSTED_MS = 3000; // the Date header knows seconds, and took its way here

class Clock {
  now = $state(Date.now());
  #skew = 0; // how far the hub's clock is ahead of this machine's

  /** Learn the hub's time from the Date header of an answer. */
  learn(date: string | null): void {
    const ahead = Date.parse(date ?? "") - Date.now();
    if (Number.isNaN(ahead)) return;
    if (Math.abs(ahead - this.#skew) > TRUSTED_MS) this.#skew = Math.abs(ahead) > TRUSTED_MS ? ahead : 0;
  }

  #tick(): void {
    this.now = Date.now() + this.#skew;
  }

  constructor() {
    setInterval(() => {
      if (!document.hidden) this.#tick();
    }, 1000);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#tick();
    });
  }
}

export const clock = new Clock();
