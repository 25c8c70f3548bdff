// The service worker: one file without imports, built after the page because it names the page's files.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

const OUT = process.env["THOPTER_WEB_OUT"] ?? join(import.meta.dirname, "../src/thopter/hub/web");

function shellFiles(): string[] {
  const assets = readdirSync(join(OUT, "assets")).map((name) => `/assets/${name}`);
  return ["/", "/theme.js", "/icon.svg", "/manifest.webmanifest", ...assets.sort()];
}

function digest(): string {
  const sum = createHash("sha256");
  for (const name of shellFiles()) sum.update(name).update(readFileSync(join(OUT, name === "/" ? "index.html" : name)));
  return sum.digest("hex").slice(0, 16);
}

/** Puts a packed file beside each, so that the hub packs nothing. */
function packed(): Plugin {
  return {
    name: "packed",
    closeBundle() {
      for (const name of readdirSync(OUT, { recursive: true, encoding: "utf-8" })) {
        if (!/\.(js|css|html|svg|webmanifest)$/.test(name)) continue;
        const text = readFileSync(join(OUT, name));
        if (text.length < 512) continue;
        writeFileSync(join(OUT, `${name}.gz`), gzipSync(text, { level: 9 }));
        writeFileSync(join(OUT, `${name}.br`), brotliCompressSync(text));
      }
    },
  };
}

export default defineConfig({
  plugins: [packed()],
  publicDir: false,
  define: { __SHELL__: JSON.stringify(shellFiles()), __BUILD__: JSON.stringify(digest()) },
  build: {
    outDir: OUT,
    emptyOutDir: false,
    target: "es2022",
    reportCompressedSize: false,
    rollupOptions: { input: { sw: "src/sw.ts" }, output: { entryFileNames: "[name].js" } },
  },
});
