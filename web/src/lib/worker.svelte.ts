// The service worker: registered, and a new build of the page is offered, never forced in the middle of work.
import { workerUrl } from "./trusted";

class Worker {
  /** A newer page is ready. */
  newer = $state(false);
  registration: ServiceWorkerRegistration | null = null;

  async begin(): Promise<void> {
    if (!("serviceWorker" in navigator)) return;
    try {
      this.registration = await navigator.serviceWorker.register(workerUrl, { scope: "/", updateViaCache: "none" });
    } catch {
      return; // plain http on another host, or refused: the page works without
    }
    const watch = (worker: ServiceWorker | null) =>
      worker?.addEventListener("statechange", () => {
        if (worker.state === "installed" && navigator.serviceWorker.controller) this.newer = true;
      });
    if (this.registration.waiting && navigator.serviceWorker.controller) this.newer = true;
    this.registration.addEventListener("updatefound", () => watch(this.registration!.installing));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) void this.registration?.update().catch(() => undefined);
    });
  }

  /** Go over to the newer page. */
  take(): void {
    navigator.serviceWorker.addEventListener("controllerchange", () => location.reload(), { once: true });
    this.registration?.waiting?.postMessage("take over");
  }
}

export const worker = new Worker();
