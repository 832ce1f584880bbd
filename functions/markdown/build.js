// Builds the component: one script of src/ and its packages, then that script with a JavaScript engine around it.

import { mkdir, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";
import { build } from "esbuild";

await mkdir("build", { recursive: true });
await build({ entryPoints: ["src/index.js"], bundle: true, format: "esm", outfile: "build/bundle.js" });
const { component } = await componentize({
  sourcePath: "build/bundle.js",
  witPath: "wit",
  worldName: "function",
});
await writeFile("build/markdown.wasm", component);
