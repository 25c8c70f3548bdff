// What can be done with one thopter or with many at once, and saying how that went.
import { call } from "../lib/api/client";
import type { ThopterView } from "../lib/api/types";
import { fleet } from "../lib/fleet.svelte";
import { toasts } from "../lib/toasts.svelte";

export type Act = "interrupt" | "suspend" | "resume" | "stop" | "destroy";

const DOES: Record<Act, (name: string) => Promise<unknown>> = {
  interrupt: (name) => call("POST /v1/thopters/{name}/interrupt", { name }),
  suspend: (name) => call("POST /v1/thopters/{name}/suspend", { name, body: {} }),
  resume: (name) => call("POST /v1/thopters/{name}/resume", { name, body: {} }),
  stop: (name) => call("POST /v1/thopters/{name}/stop", { name }),
  destroy: (name) => call("DELETE /v1/thopters/{name}", { name }),
};
const DID: Record<Act, string> = {
  interrupt: "interrupted",
  suspend: "put to sleep",
  resume: "woken",
  stop: "stopped",
  destroy: "being destroyed",
};

/** Do it with each; what fails is said by name, the others are done all the same. */
export async function act(what: Act, names: string[]): Promise<void> {
  const results = await Promise.allSettled(names.map((name) => DOES[what](name)));
  const good = names.filter((_name, n) => results[n]!.status === "fulfilled");
  results.forEach((result, n) => {
    if (result.status === "rejected") toasts.fail(result.reason, names[n]!);
  });
  if (good.length === 1) toasts.say(`${good[0]} is ${DID[what]}`);
  else if (good.length) toasts.say(`${good.length} thopters are ${DID[what]}`);
  fleet.soon();
}

const ASLEEP = new Set(["frozen", "suspended", "stopped"]);

/** Which actions make sense for a thopter now. */
export function actionsFor(t: ThopterView): Act[] {
  if (ASLEEP.has(t.box_state)) return ["resume", "destroy"];
  if (t.box_state !== "ready") return ["destroy"];
  return t.state === "working" ? ["interrupt", "suspend", "stop", "destroy"] : ["suspend", "stop", "destroy"];
}
