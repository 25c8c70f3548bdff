// The keyboard: single keys and two-key sequences, never while somebody types, listed by `?`.

import { untrack } from "svelte";

export interface Key {
  keys: string; // "j", "g f", "Ctrl+K"
  what: string;
  where: string;
  run: (event: KeyboardEvent) => void;
}

const SEQUENCE_MS = 1200;

function typing(target: EventTarget | null): boolean {
  const element = target as HTMLElement | null;
  return !!element?.closest?.("input, textarea, select, [contenteditable], .xterm, [data-own-keys]");
}

class Keys {
  all = $state.raw<Key[]>([]);
  #first = "";
  #since = 0;

  constructor() {
    addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** Take keys on; returns how to take them off (give that to $effect). */
  add(where: string, list: [keys: string, what: string, run: (event: KeyboardEvent) => void][]): () => void {
    const mine = list.map(([keys, what, run]) => ({ keys, what, where, run }));
    untrack(() => (this.all = [...this.all, ...mine]));
    return () => {
      this.all = this.all.filter((k) => !mine.some((m) => m.run === k.run && m.keys === k.keys));
    };
  }

  #pressed(event: KeyboardEvent): void {
    if (event.defaultPrevented || event.isComposing || event.altKey) return;
    const command = event.ctrlKey || event.metaKey;
    if (command ? event.shiftKey : typing(event.target)) return;
    if (document.querySelector("dialog[open]") && !command) return;
    const key = command ? `Ctrl+${event.key.toUpperCase()}` : event.key;
    const sequence = this.#first && Date.now() - this.#since < SEQUENCE_MS ? `${this.#first} ${key}` : "";
    const found = this.#find(sequence) ?? this.#find(key);
    this.#first = "";
    if (found) {
      event.preventDefault();
      found.run(event);
    } else if (this.all.some((k) => k.keys.startsWith(`${key} `))) {
      this.#first = key;
      this.#since = Date.now();
    }
  }

  #find(keys: string): Key | undefined {
    return keys ? this.all.findLast((k) => k.keys === keys) : undefined;
  }
}

export const keys = new Keys();
