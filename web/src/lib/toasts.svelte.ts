// Short words about what has just happened, read out by screen readers; they go by themselves, errors stay longer.
import { asHubError } from "./api/client";

export interface Toast {
  id: number;
  tone: "ok" | "bad";
  text: string;
  hint: string;
  action: { label: string; run: () => void } | null;
}

class Toasts {
  list = $state<Toast[]>([]);
  #next = 1;

  say(text: string, action: Toast["action"] = null, ms = 6000): void {
    this.#add({ id: this.#next++, tone: "ok", text, hint: "", action }, ms);
  }

  fail(error: unknown, what = ""): void {
    const found = asHubError(error);
    const text = what ? `${what}: ${found.message}` : found.message;
    this.#add({ id: this.#next++, tone: "bad", text, hint: found.hint, action: null }, 12_000);
  }

  drop(id: number): void {
    this.list = this.list.filter((t) => t.id !== id);
  }

  #add(toast: Toast, ms: number): void {
    this.list = [...this.list.slice(-3), toast];
    setTimeout(() => this.drop(toast.id), ms);
  }
}

export const toasts = new Toasts();
