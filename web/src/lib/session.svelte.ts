// Who we are to the hub: nobody yet, logged in with a role, or logged out (and why).
import { HubError, request, whenLoggedOut } from "./api/client";
import { loadKey, setKey } from "./key";
import { live } from "./live.svelte";

export type Standing = "asking" | "in" | "out" | "away";
export type Why = "" | "link" | "ended" | "throttled" | "left" | "elsewhere";

export interface Me {
  role: string;
  scopes: string[];
  kinds: string[]; // what notes can be about
}

const RETRY_MS = 1500;
const NOBODY: Me = { role: "", scopes: [], kinds: [] };

class Session {
  standing = $state<Standing>("asking");
  why = $state<Why>("");
  me = $state<Me>(NOBODY);
  #knows = $derived(new Set(this.me.scopes));

  constructor() {
    whenLoggedOut(() => this.#out("ended"));
  }

  may(scope: "read" | "operate" | "approve" | "admin"): boolean {
    return this.#knows.has(scope);
  }

  /** Find out who we are; with a login link's code in the address, trade it in first. */
  async begin(): Promise<void> {
    const code = location.pathname === "/login" ? location.hash.slice(1) : "";
    if (code) {
      history.replaceState(null, "", "/login");
      await this.enter(code, "");
      return;
    }
    if (!(await loadKey())) {
      this.#out("");
      return;
    }
    live.start(); // at once, beside asking who we are: the fleet is shown a round trip earlier
    await this.#look();
  }

  /** Trade a code for a session. */
  async enter(code: string, device: string): Promise<void> {
    this.standing = "asking";
    try {
      const found = (await request("POST", "/v1/sessions", { code, device })) as { key: string };
      await setKey(found.key);
      await this.#look();
    } catch (error) {
      if (error instanceof HubError && error.offline) this.standing = "away";
      else this.#out(error instanceof HubError && error.status === 429 ? "throttled" : "link");
    }
  }

  /** End this session here and at the hub. */
  async leave(): Promise<void> {
    await request("DELETE", "/v1/sessions/current");
    await this.forget("left");
  }

  /** Forget the key: the hub has ended this session. */
  async forget(why: Why): Promise<void> {
    await setKey("");
    this.#out(why);
  }

  async #look(): Promise<void> {
    for (;;) {
      try {
        this.me = await whoAmI();
        this.standing = "in";
        this.why = "";
        live.start();
        return;
      } catch (error) {
        if (!(error instanceof HubError) || !(error.offline || error.status === 503)) {
          this.#out("ended");
          return;
        }
        this.standing = "away";
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    }
  }

  #out(why: Why): void {
    if (this.standing === "out") return;
    this.standing = "out";
    this.why = why;
    this.me = NOBODY;
    live.stop();
  }
}

async function whoAmI(): Promise<Me> {
  const found = (await request("GET", "/v1/page")) as { session: { role: string } | null; scopes: string[]; kinds: string[] };
  return { role: found.session?.role ?? "", scopes: found.scopes, kinds: found.kinds };
}

export const session = new Session();
