// The session's key in memory: every call carries it, since a cookie alone opens nothing.
import { readKey, writeKey } from "./vault";

let key = "";

/** Read it from the vault, once, before the first call. */
export async function loadKey(): Promise<string> {
  key = await readKey().catch(() => "");
  return key;
}

/** Set it ("" forgets it), in the vault too. A browser without storage keeps it as long as the page is open. */
export async function setKey(value: string): Promise<void> {
  key = value;
  await writeKey(value).catch(() => undefined);
}

/** The header that goes with each call. */
export function keyHeader(): Record<string, string> {
  return key ? { "X-Thopter": key } : {};
}
