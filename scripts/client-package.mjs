// Makes packages/client, which is `@handover/client`, from what was built: `npm pack ./packages/client` is then a package for strangers. And writes
// docs/sdk-api.txt, the public types without their comments, which a test compares.
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { rolldown } from "rolldown";
import { declarationsOf, reportOf } from "./declarations.mjs";

const root = new URL("..", import.meta.url).pathname;
const dist = `${root}packages/client/dist`;
rmSync(dist, { recursive: true, force: true });
mkdirSync(dist, { recursive: true });
const entries = { index: `${root}dist/client/index.js`, service: `${root}dist/client/service.js` };
const bundle = await rolldown({ input: entries });
await bundle.write({ dir: dist, chunkFileNames: "[name].js" });
await bundle.close();
for (const name of Object.keys(entries)) writeFileSync(`${dist}/${name}.d.ts`, declarationsOf(`${root}dist/client/${name}.d.ts`));
copyFileSync(`${root}dist/client/handover.js`, `${dist}/handover.js`);
copyFileSync(`${root}LICENSE`, `${dist}/../LICENSE`);
writeFileSync(`${root}docs/sdk-api.txt`, reportOf(root));
