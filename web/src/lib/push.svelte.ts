// Notes on this device by web push: asked for by the person, told to the hub, ended at both ends.
import { request } from "./api/client";
import { worker } from "./worker.svelte";

export interface Quiet {
  start: number; // minute of the day
  end: number;
  zone: string;
  urgent: boolean;
}
export interface Device {
  id: string;
  target: string;
  device: string;
  service: string;
  created_ms: number;
  kinds: string[];
  quiet: Quiet | null;
  current: boolean;
}
/** insecure: the browser wants HTTPS; none: it has no push; denied: this person said no to the browser. */
export type Standing = "insecure" | "none" | "denied" | "off" | "on";

class Push {
  standing = $state<Standing>("off");
  mine = $state.raw<Device | null>(null);

  /** Find out how it stands here and at the hub. */
  async look(): Promise<void> {
    if (!isSecureContext) this.standing = "insecure";
    else if (!("serviceWorker" in navigator) || !("PushManager" in globalThis)) this.standing = "none";
    else if (Notification.permission === "denied") this.standing = "denied";
    else {
      const { devices } = (await request("GET", "/v1/push/subscriptions")) as { devices: Device[] };
      const here = await worker.registration?.pushManager.getSubscription();
      this.mine = here ? (devices.find((d) => d.current) ?? null) : null;
      this.standing = this.mine ? "on" : "off";
    }
  }

  /** Begin, or change what is wanted. Asks the person for the browser's permission; rejects with why not. */
  async begin(kinds: string[], quiet: Quiet | null): Promise<void> {
    if ((await Notification.requestPermission()) !== "granted") {
      await this.look();
      return;
    }
    const { key } = (await request("GET", "/v1/push/key")) as { key: string };
    const registration = worker.registration ?? (await navigator.serviceWorker.ready);
    const wanted = { userVisibleOnly: true, applicationServerKey: key };
    let found = await registration.pushManager.getSubscription();
    try {
      found ??= await registration.pushManager.subscribe(wanted);
    } catch {
      throw new Error("This browser's push service can't be reached. ntfy brings notes without it.");
    }
    const { endpoint, keys } = found.toJSON();
    await request("POST", "/v1/push/subscriptions", { endpoint, keys, kinds, quiet });
    await this.look();
  }

  /** No more notes here. */
  async end(): Promise<void> {
    if (this.mine) await request("DELETE", `/v1/push/subscriptions/${encodeURIComponent(this.mine.id)}`);
    await (await worker.registration?.pushManager.getSubscription())?.unsubscribe();
    await this.look();
  }
}

export const push = new Push();
