// What an agent asks for, as parts that are shown whole: an approval binds to exactly these words. Pure.
import { plain } from "../lib/text";

export type Part =
  | { kind: "command"; text: string }
  | { kind: "file"; text: string }
  | { kind: "diff"; removed: string[]; added: string[] }
  | { kind: "text"; name: string; text: string }
  | { kind: "field"; name: string; text: string };

const LONG = 80;

/** Every field of the input, none left out; the tool's main ones in their own form. */
export function parts(tool: string, input: Record<string, unknown>): Part[] {
  const left = new Map(Object.entries(input));
  const found: Part[] = [];
  const take = (name: string): string | null => {
    const value = left.get(name);
    if (typeof value !== "string") return null;
    left.delete(name);
    return value;
  };
  const command = take("command");
  if (command !== null) found.push({ kind: "command", text: plain(command) });
  const path = take("file_path") ?? take("notebook_path");
  if (path !== null) found.push({ kind: "file", text: plain(path) });
  if (typeof left.get("old_string") === "string" && typeof left.get("new_string") === "string")
    found.push(diff(take("old_string")!, take("new_string")!));
  if (tool === "MultiEdit" && Array.isArray(left.get("edits"))) found.push(...edits(left));
  const content = take("content") ?? take("new_source");
  if (content !== null) found.push({ kind: "diff", removed: [], added: lines(content) });
  for (const [name, value] of left) found.push(field(name, value));
  return found;
}

function edits(left: Map<string, unknown>): Part[] {
  const list = left.get("edits") as unknown[];
  const known = (e: unknown): e is { old_string: string; new_string: string } =>
    !!e && typeof e === "object" && typeof (e as Record<string, unknown>)["old_string"] === "string" &&
    typeof (e as Record<string, unknown>)["new_string"] === "string" && Object.keys(e).length === 2;
  if (!list.every(known)) return [];
  left.delete("edits");
  return list.map((e) => diff(e.old_string, e.new_string));
}

function field(name: string, value: unknown): Part {
  const text = typeof value === "string" ? plain(value) : plain(JSON.stringify(value, null, 1));
  return { kind: text.length > LONG || text.includes("\n") ? "text" : "field", name: plain(name), text };
}

/** Two texts as lines removed and lines added. */
export function diff(before: string, after: string): Part {
  const [a, b] = [lines(before), lines(after)];
  return { kind: "diff", removed: a, added: b };
}

function lines(text: string): string[] {
  const found = plain(text).split("\n");
  if (found.at(-1) === "") found.pop();
  return found;
}
