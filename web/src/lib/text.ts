// Text from a box is hostile: what may be shown of it. It is always put into the page as text, never as markup.

// Controls (but tab and newline), and what turns, hides or forges letters: bidi marks, zero-width, tags.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

/** The text with everything that can't be seen shown as a box (\u25af), so that what is read is what is there. */
export function plain(text: string): string {
  return text.replace(/\r\n?/g, "\n").replace(UNSEEN, "\u25af");
}

/** The same on one line, at most `most` characters. */
export function line(text: string, most = 400): string {
  const flat = plain(text.slice(0, most * 4)).replace(/\s+/g, " ").trim();
  return flat.length > most ? flat.slice(0, most - 1) + "\u2026" : flat;
}

/** A link that may be followed: http(s) without a name or password in it, or null. */
export function safeUrl(text: string): string | null {
  try {
    const url = new URL(text);
    if ((url.protocol !== "https:" && url.protocol !== "http:") || url.username || url.password) return null;
    return url.href;
  } catch {
    return null;
  }
}
