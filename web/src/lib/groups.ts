// Which group of the fleet a thopter is in, and what its state means to a person. Pure.
import type { ThopterView } from "./api/types";

export type Group = "needs" | "working" | "done" | "asleep" | "lost";
export type Tone = "needs" | "work" | "done" | "quiet" | "bad";

export const GROUPS: { id: Group; title: string }[] = [
  { id: "needs", title: "Needs you" },
  { id: "working", title: "Working" },
  { id: "done", title: "Done" },
  { id: "asleep", title: "Asleep" },
  { id: "lost", title: "Lost" },
];

const ASKS = new Set(["permission", "question", "budget"]);
const SLEEPS = new Set(["frozen", "suspended", "stopped"]);

export function groupOf(t: ThopterView): Group {
  if (t.box_state === "lost") return "lost";
  if (SLEEPS.has(t.box_state)) return "asleep";
  if (t.approvals > 0 || (t.state === "waiting" && ASKS.has(t.reason)) || t.state === "failed") return "needs";
  if (t.state === "done" || (t.state === "waiting" && t.reason === "turn_end")) return "done";
  if (t.state === "stopped") return "asleep";
  if (t.state === "unknown") return "lost";
  if (!t.run) return t.box_state === "creating" ? "working" : "done";
  return "working";
}

const WAITS: Record<string, string> = {
  permission: "asks permission",
  question: "asks a question",
  turn_end: "your turn",
  rate_limit: "rate limit",
  budget: "budget used up",
};

/** The state in a person's words. */
export function stateWords(t: ThopterView): string {
  if (t.box_state === "lost" || SLEEPS.has(t.box_state) || t.box_state === "creating") return t.box_state;
  if (t.state === "waiting") return WAITS[t.reason] ?? "waiting";
  return t.state || "ready";
}

export function toneOf(t: ThopterView): Tone {
  const group = groupOf(t);
  if (t.box_state === "lost" || t.state === "failed") return "bad";
  if (group === "needs") return "needs";
  if (group === "working") return t.reason === "rate_limit" ? "quiet" : "work";
  if (group === "done") return "done";
  return "quiet";
}

export interface Filter {
  words: string;
  repo: string;
  group: Group | "";
}

/** Whether a thopter fits: every word is found somewhere in what is shown of it. */
export function fits(t: ThopterView, filter: Filter): boolean {
  if (filter.group && groupOf(t) !== filter.group) return false;
  if (filter.repo && t.repo !== filter.repo) return false;
  const words = filter.words.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const text = [t.name, t.task, t.repo, t.branch, t.last_message, t.owner, t.agent, t.provider, t.note, stateWords(t), t.state]
    .join("\n")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

/** In each group the newest first by when it was made: an order that streaming words don't change. */
export function inGroups(all: ThopterView[]): Map<Group, ThopterView[]> {
  const found = new Map<Group, ThopterView[]>(GROUPS.map((g) => [g.id, []]));
  for (const t of all) found.get(groupOf(t))!.push(t);
  for (const [group, list] of found)
    list.sort((a, b) => (group === "needs" ? a.since_ms - b.since_ms : b.created_ms - a.created_ms) || (a.name < b.name ? -1 : 1));
  return found;
}
