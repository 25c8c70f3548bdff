// Where in the page we are: the path of the address bar, nothing else. Links are ordinary links.

export interface Place {
  view: string;
  key: string;
  rest: string;
}

const PLAIN = new Set([
  "login", "approvals", "new", "snapshots", "policies", "secrets", "audit", "machines", "settings", "voyages", "peers", "golden",
  "notes", "costs", "logs", "doctor", "sessions",
]);

/** A path's view: "" is the fleet, "t" a thopter (`key` its name, `rest` what of it), "lost" no such place. */
export function parse(path: string): Place {
  const [view = "", key = "", ...rest] = path.replace(/^\/+|\/+$/g, "").split("/");
  if (view === "t" && key) return { view, key: decode(key), rest: rest.join("/") };
  if (view === "" || (PLAIN.has(view) && !rest.length)) return { view, key: decode(key), rest: "" };
  return { view: "lost", key: path, rest: "" };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

class Router {
  path = $state(location.pathname);
  query = $state(location.search);
  place = $derived(parse(this.path));

  constructor() {
    addEventListener("popstate", () => this.#read());
    document.addEventListener("click", (event) => {
      const link = (event.target as Element | null)?.closest?.("a");
      if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      if (link.target || link.origin !== location.origin || link.hasAttribute("download")) return;
      if (/^\/(v1|preview)\//.test(link.pathname)) return;
      event.preventDefault();
      this.go(link.pathname + link.search);
    });
  }

  /** Go to a path of this page. `instead`: going back skips where we are. */
  go(path: string, instead = false): void {
    if (path === location.pathname + location.search) return;
    if (instead) history.replaceState(null, "", path);
    else history.pushState(null, "", path);
    this.#read();
    scrollTo(0, 0);
  }

  #read(): void {
    this.path = location.pathname;
    this.query = location.search;
  }
}

export const router = new Router();
export const thopterPath = (name: string): string => `/t/${encodeURIComponent(name)}`;
