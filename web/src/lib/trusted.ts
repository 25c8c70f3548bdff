// The page's one policy for Trusted Types: only the service worker's own address becomes a script's.

interface Policy {
  createScriptURL(url: string): string;
}
interface Factory {
  createPolicy(name: string, rules: { createScriptURL: (url: string) => string }): Policy;
}

const factory = (globalThis as { trustedTypes?: Factory }).trustedTypes;
const policy = factory?.createPolicy("thopter", {
  createScriptURL: (url) => {
    if (url !== "/sw.js") throw new TypeError("only the service worker");
    return url;
  },
});

/** The address of the service worker, as browsers with Trusted Types want it. */
export const workerUrl: string = policy ? policy.createScriptURL("/sw.js") : "/sw.js";
