// A unified diff as git writes it, taken apart for showing. Pure; every name and line of it is hostile text.

export interface DiffLine {
  kind: "add" | "del" | "same" | "note";
  old: number; // 0: not in the old file
  new: number; // 0: not in the new file
  text: string;
}
export interface Hunk {
  head: string;
  lines: DiffLine[];
}
/** What somebody said about a line, and the line. */
export interface Comment {
  path: string;
  number: number;
  gone: boolean; // of the old file
  line: string;
  words: string;
}
export interface ChangedFile {
  path: string;
  was: string; // the old path where it is another one
  what: "added" | "deleted" | "renamed" | "changed" | "binary";
  added: number;
  deleted: number;
  hunks: Hunk[];
}

const HUNK = /^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)$/;

/** All files of the diff, in its order. What can't be read is left out. */
export function parse(diff: string): ChangedFile[] {
  const files: ChangedFile[] = [];
  let file: ChangedFile | null = null;
  let hunk: Hunk | null = null;
  let left = [0, 0]; // lines of the old and the new file that this hunk still has
  let at = [0, 0];
  for (const raw of diff.split("\n")) {
    if (hunk && (left[0]! > 0 || left[1]! > 0 || raw.startsWith("\\"))) {
      const sign = raw[0] ?? " ";
      const text = raw.slice(1);
      if (sign === "+") {
        hunk.lines.push({ kind: "add", old: 0, new: at[1]!, text });
        file!.added++;
        at[1]!++, left[1]!--;
      } else if (sign === "-") {
        hunk.lines.push({ kind: "del", old: at[0]!, new: 0, text });
        file!.deleted++;
        at[0]!++, left[0]!--;
      } else if (sign === "\\") hunk.lines.push({ kind: "note", old: 0, new: 0, text: raw.slice(2) });
      else {
        hunk.lines.push({ kind: "same", old: at[0]!, new: at[1]!, text });
        at = [at[0]! + 1, at[1]! + 1];
        left = [left[0]! - 1, left[1]! - 1];
      }
      continue;
    }
    const m = HUNK.exec(raw);
    if (raw.startsWith("diff --git ")) {
      file = { path: named(raw), was: "", what: "changed", added: 0, deleted: 0, hunks: [] };
      hunk = null;
      files.push(file);
    } else if (!file) continue;
    else if (m) {
      hunk = { head: (m[5] ?? "").trim(), lines: [] };
      left = [Number(m[2] ?? 1), Number(m[4] ?? 1)];
      at = [Number(m[1]), Number(m[3])];
      file.hunks.push(hunk);
    } else if (raw.startsWith("new file mode")) file.what = "added";
    else if (raw.startsWith("deleted file mode")) file.what = "deleted";
    else if (raw.startsWith("rename from ")) (file.was = unquote(raw.slice(12))), (file.what = "renamed");
    else if (raw.startsWith("rename to ")) file.path = unquote(raw.slice(10));
    else if (raw.startsWith("+++ ") && raw !== "+++ /dev/null") file.path = side(raw.slice(4), "b/");
    else if (raw.startsWith("--- ") && raw !== "--- /dev/null" && !file.was) file.path = side(raw.slice(4), "a/");
    else if (raw.startsWith("Binary files ") || raw === "GIT binary patch") file.what = "binary";
  }
  return files;
}

/** Rows of two columns: what was removed beside what was put in its place. */
export function sideBySide(lines: DiffLine[]): [DiffLine | null, DiffLine | null][] {
  const rows: [DiffLine | null, DiffLine | null][] = [];
  let gone: DiffLine[] = [];
  let come: DiffLine[] = [];
  const pair = () => {
    for (let n = 0; n < Math.max(gone.length, come.length); n++) rows.push([gone[n] ?? null, come[n] ?? null]);
    gone = [];
    come = [];
  };
  for (const line of lines) {
    if (line.kind === "del") gone.push(line);
    else if (line.kind === "add") come.push(line);
    else {
      pair();
      if (line.kind === "same") rows.push([line, line]);
    }
  }
  pair();
  return rows;
}

function named(head: string): string {
  const rest = head.slice("diff --git ".length);
  if (rest.startsWith('"')) return side(/^"(?:[^"\\]|\\.)*"/.exec(rest)?.[0] ?? rest, "a/");
  const half = (rest.length - 1) / 2; // both names alike: a/NAME b/NAME
  return side(rest.slice(0, half), "a/");
}

function side(text: string, prefix: string): string {
  const name = unquote(text.replace(/\t$/, ""));
  return name.startsWith(prefix) ? name.slice(prefix.length) : name;
}

/** Names with odd characters are written in quotes, bytes as octal. */
function unquote(text: string): string {
  if (!text.startsWith('"') || !text.endsWith('"')) return text;
  const bytes: number[] = [];
  const SHORT: Record<string, number> = { n: 10, t: 9, r: 13, a: 7, b: 8, v: 11, f: 12, '"': 34, "\\": 92 };
  const utf8 = new TextEncoder();
  for (const m of text.slice(1, -1).matchAll(/\\([0-7]{3})|\\(.)|([^\\]+)/gs)) {
    if (m[1] !== undefined) bytes.push(parseInt(m[1], 8) & 255);
    else if (m[2] !== undefined) bytes.push(SHORT[m[2]] ?? m[2].charCodeAt(0) & 127);
    else bytes.push(...utf8.encode(m[3]));
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
}
