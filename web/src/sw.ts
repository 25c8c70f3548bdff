// The service worker: the shell from the cache, notes with buttons, answers given from the note itself.
// What the hub answers below /v1 is never cached: a status from a cache would be a lie.
import { readKey } from "./lib/vault";

declare const __SHELL__: string[];
declare const __BUILD__: string;
declare const self: ServiceWorkerGlobalScope;

interface Told {
  id?: string;
  kind?: string;
  title?: string;
  body?: string;
  path?: string;
  urgent?: boolean;
  approval?: { id: string; digest: string };
}

const CACHE = `shell-${__BUILD__}`;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(__SHELL__)));
});

self.addEventListener("activate", (event) => {
  const old = async () => {
    for (const name of await caches.keys()) if (name !== CACHE) await caches.delete(name);
    await self.clients.claim();
  };
  event.waitUntil(old());
});

self.addEventListener("message", (event) => {
  if (event.data === "take over") void self.skipWaiting();
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin || url.pathname.startsWith("/v1/")) return;
  if (event.request.mode === "navigate") event.respondWith(fromCache("/", event.request));
  else if (__SHELL__.includes(url.pathname)) event.respondWith(fromCache(url.pathname, event.request));
});

async function fromCache(path: string, request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  return (await cache.match(path)) ?? fetch(request);
}

self.addEventListener("push", (event) => {
  event.waitUntil(show(told(event.data)));
});

function told(data: PushMessageData | null): Told {
  try {
    const found: unknown = data?.json();
    return found && typeof found === "object" ? (found as Told) : {};
  } catch {
    return {};
  }
}

async function show(note: Told): Promise<void> {
  const options: NotificationOptions & { actions?: { action: string; title: string }[] } = {
    body: String(note.body ?? ""),
    icon: "/icon-192.png",
    badge: "/badge-96.png",
    tag: tagOf(note),
    requireInteraction: note.urgent === true,
    data: note,
  };
  if (note.approval)
    options.actions = [
      { action: "approve", title: "Approve" },
      { action: "deny", title: "Deny" },
    ];
  await self.registration.showNotification(String(note.title ?? "thopter"), options);
}

/** A note about the same thing takes the place of the one before. */
function tagOf(note: Told): string {
  return String(note.approval?.id ?? note.id ?? "");
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const note = (event.notification.data ?? {}) as Told;
  if (event.action === "approve" || event.action === "deny") event.waitUntil(answer(note, event.action === "approve"));
  else event.waitUntil(openAt(note.path));
});

async function answer(note: Told, allow: boolean): Promise<void> {
  let problem = "the hub can't be reached";
  try {
    const done = await fetch(`/v1/approvals/${encodeURIComponent(note.approval?.id ?? "")}`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        "X-Thopter": await readKey(),
        "Idempotency-Key": crypto.randomUUID(),
      },
      body: JSON.stringify({ digest: note.approval?.digest ?? "", allow }),
      credentials: "same-origin",
    });
    if (done.ok) return;
    const said = (await done.json()) as { error?: { message?: string } };
    problem = said.error?.message ?? `the hub answered ${done.status}`;
  } catch {
    // told below, where the person looks
  }
  const title = allow ? "Not approved" : "Not denied";
  await self.registration.showNotification(title, {
    body: problem,
    icon: "/icon-192.png",
    tag: tagOf(note),
    data: { path: "/approvals" },
  });
}

async function openAt(wanted: string | undefined): Promise<void> {
  let url = new URL("/", location.origin);
  try {
    const asked = new URL(wanted ?? "/", location.origin);
    if (asked.origin === location.origin) url = asked;
  } catch {
    // not an address: the fleet is shown
  }
  for (const client of await self.clients.matchAll({ type: "window" })) {
    if ("navigate" in client) {
      await client.focus();
      await client.navigate(url.href);
      return;
    }
  }
  await self.clients.openWindow(url.href);
}
