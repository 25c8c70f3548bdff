// Hosts that thopters wait to reach: the gateway holds a connection for a minute, a person may let it out.
import { call } from "./api/client";
import { live } from "./live.svelte";
import type { HubEvent } from "./sse";

export interface Reach {
  key: string;
  box: string;
  name: string;
  host: string;
  port: number;
  method: string;
  path: string;
  at_ms: number;
}

const WAITS_MS = 60_000; // how long the gateway holds it

class Reaches {
  open = $state<Reach[]>([]);

  constructor() {
    live.on((events) => {
      for (const event of events) this.#hear(event);
    });
  }

  #hear(event: HubEvent): void {
    const data = event.data as Record<string, string & number>;
    const host = String(data["host"] ?? "");
    const port = Number(data["port"]) || 443;
    const key = `${event.box} ${host} ${port}`;
    if (event.kind === "egress.asked") {
      const left = event.at_ms + WAITS_MS - Date.now();
      if (!host || left <= 0) return;
      const one = { key, box: event.box, name: String(data["name"] ?? ""), host, port,
        method: String(data["method"] ?? ""), path: String(data["path"] ?? ""), at_ms: event.at_ms };
      this.open = [...this.open.filter((r) => r.key !== key), one];
      setTimeout(() => this.#drop(key, event.at_ms), left);
    } else if (event.kind === "egress.allowed") {
      this.#drop(key, Infinity);
    }
  }

  #drop(key: string, asked: number): void {
    this.open = this.open.filter((r) => r.key !== key || r.at_ms > asked);
  }

  /** Let it out: the next connection, or as long as the box lives. */
  async allow(r: Reach, name: string, scope: "once" | "run"): Promise<void> {
    await call("POST /v1/thopters/{name}/egress/allow", { name, body: { host: r.host, port: r.port, scope } });
    this.#drop(r.key, Infinity);
  }

  /** Let it wait no longer in sight; the gateway refuses it by itself. */
  ignore(r: Reach): void {
    this.#drop(r.key, Infinity);
  }
}

export const reaches = new Reaches();
