// What agents write, as blocks to be shown: a careful part of Markdown, and never any markup of theirs. Pure.
import { plain, safeUrl } from "../lib/text";

export type Span =
  | { kind: "text" | "code" | "strong" | "em"; text: string }
  | { kind: "link"; text: string; href: string };
export type Block =
  | { kind: "text" | "quote"; spans: Span[] }
  | { kind: "head"; level: number; spans: Span[] }
  | { kind: "list"; ordered: boolean; items: Span[][] }
  | { kind: "code"; lang: string; text: string };

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const ITEM = /^ {0,8}(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const HEAD = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const SPAN = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|(?<![\w*])\*([^*\s][^*\n]*)\*(?!\w)|\[([^\]\n]{1,300})\]\(([^)\s]{1,2000})\)|(https?:\/\/[^\s<>"'`)\]]{1,2000})/g;

/** Spans of one paragraph. A link shows where it really goes when its words say something else. */
export function spans(text: string): Span[] {
  const found: Span[] = [];
  let at = 0;
  for (const m of text.matchAll(SPAN)) {
    if (m.index > at) found.push({ kind: "text", text: text.slice(at, m.index) });
    at = m.index + m[0].length;
    if (m[1] !== undefined) found.push({ kind: "code", text: m[1] });
    else if (m[2] !== undefined) found.push({ kind: "strong", text: m[2] });
    else if (m[3] !== undefined) found.push({ kind: "em", text: m[3] });
    else found.push(link(m[4], m[5] ?? m[6] ?? ""));
  }
  if (at < text.length) found.push({ kind: "text", text: text.slice(at) });
  return found;
}

function link(words: string | undefined, where: string): Span {
  const href = safeUrl(where);
  if (!href) return { kind: "text", text: words === undefined ? where : `${words} (${where})` };
  return { kind: "link", text: words === undefined || words === where ? where : `${words} (${new URL(href).host})`, href };
}

/** The whole text as blocks. */
export function blocks(source: string): Block[] {
  const lines = plain(source).split("\n");
  const found: Block[] = [];
  let words: string[] = [];
  const end = () => {
    if (words.length) found.push({ kind: "text", spans: spans(words.join("\n")) });
    words = [];
  };
  for (let n = 0; n < lines.length; n++) {
    const line = lines[n] as string;
    const fence = FENCE.exec(line);
    const head = HEAD.exec(line);
    const item = ITEM.exec(line);
    if (fence) {
      end();
      const mark = fence[1] as string;
      const from = ++n;
      while (n < lines.length && !(lines[n] as string).trimStart().startsWith(mark)) n++;
      found.push({ kind: "code", lang: fence[2] ?? "", text: lines.slice(from, n).join("\n") });
    } else if (head) {
      end();
      found.push({ kind: "head", level: (head[1] as string).length, spans: spans(head[2] ?? "") });
    } else if (item) {
      end();
      const last = found.at(-1);
      const ordered = item[2] !== undefined;
      const one = spans(item[3] ?? "");
      if (last?.kind === "list" && last.ordered === ordered && !(lines[n - 1] ?? "").match(/^\s*$/)) last.items.push(one);
      else found.push({ kind: "list", ordered, items: [one] });
    } else if (/^ {0,3}>/.test(line)) {
      end();
      found.push({ kind: "quote", spans: spans(line.replace(/^ {0,3}> ?/, "")) });
    } else if (!line.trim()) end();
    else words.push(line);
  }
  end();
  return found;
}
