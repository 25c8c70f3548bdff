// Numbers, times and names as people read them. Pure.

/** An age: "now", "42 s", "5 min", "3 h", "2 d". */
export function age(ms: number, now: number): string {
  if (!ms) return "";
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 5) return "now";
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

/** How long ago: "now", "5 min ago". */
export function ago(ms: number, now: number): string {
  const found = age(ms, now);
  return !found || found === "now" ? found : `${found} ago`;
}

/** Money: "$0.04", "$12.30", "<$0.01"; nothing is guessed: "" when not known. */
export function money(usd: number | null | undefined): string {
  if (usd === null || usd === undefined) return "";
  if (usd > 0 && usd < 0.01) return "<$0.01";
  return `$${usd.toFixed(usd < 1000 ? 2 : 0)}`;
}

/** A count: "950", "12.3k", "4.1M". */
export function count(n: number): string {
  if (n < 1000) return String(n);
  if (n < 1e6) return `${trim(n / 1e3)}k`;
  if (n < 1e9) return `${trim(n / 1e6)}M`;
  return `${trim(n / 1e9)}G`;
}

function trim(n: number): string {
  return n < 100 ? n.toFixed(1).replace(/\.0$/, "") : String(Math.round(n));
}

/** Bytes: "12 KiB"; "" when not known (below 0). */
export function bytes(n: number): string {
  if (n < 0) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${at && n < 100 ? n.toFixed(1).replace(/\.0$/, "") : Math.round(n)} ${units[at]}`;
}

/** A repository by its last two words: "owner/name", or the folder's name of a path. */
export function repoName(source: string): string {
  const parts = source.replace(/\.git$/, "").split(/[/:]/).filter(Boolean);
  return source.startsWith("/") ? (parts.at(-1) ?? source) : parts.slice(-2).join("/");
}

/** A moment with its day where that is not today. */
export function moment(ms: number, now: number): string {
  if (!ms) return "";
  const at = new Date(ms);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (at.toDateString() === new Date(now).toDateString()) return time;
  return `${at.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}
