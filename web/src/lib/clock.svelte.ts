// What time it is for everything that shows an age: one ticker, still while nobody looks.

class Clock {
  now = $state(Date.now());
  constructor() {
    setInterval(() => {
      if (!document.hidden) this.now = Date.now();
    }, 1000);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.now = Date.now();
    });
  }
}

export const clock = new Clock();
