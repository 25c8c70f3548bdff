// How the page is built: every file of its own origin, nothing inline, names that change with the content.
import { gzipSync } from "node:zlib";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** Writes down what a first visit loads before it shows the fleet, in bytes as they are sent. */
function firstLoad(): Plugin {
  return {
    name: "first-load",
    apply: "build",
    generateBundle: {
      order: "post",
      handler(_options, bundle) {
        const chunks = Object.values(bundle).filter((f) => f.type === "chunk");
        const start = chunks.filter((f) => f.isEntry || f.facadeModuleId?.endsWith("/Fleet.svelte"));
        const first = new Set(start.map((f) => f.fileName));
        for (const name of first) {
          const chunk = bundle[name];
          if (chunk?.type !== "chunk") continue;
          for (const next of chunk.imports) first.add(next);
          for (const style of chunk.viteMetadata?.importedCss ?? []) first.add(style);
        }
        first.add("index.html");
        const sizes: Record<string, number> = {};
        for (const name of [...first].sort()) {
          const file = bundle[name];
          if (file) sizes[name] = gzipSync(file.type === "chunk" ? file.code : file.source).length;
        }
        this.emitFile({ type: "asset", fileName: "first-load.json", source: JSON.stringify(sizes, null, 1) });
      },
    },
  };
}

export default defineConfig({
  plugins: [svelte(), firstLoad()],
  build: {
    outDir: process.env["THOPTER_WEB_OUT"] ?? "../src/thopter/hub/web",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
});
