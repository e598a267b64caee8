// Writes docs/config.md from the table of settings, as it was built: npm run build && node scripts/config-doc.mjs
import { writeFileSync } from "node:fs";
import { writeConfigDoc } from "../dist/config.js";

const file = new URL("../docs/config.md", import.meta.url);
writeFileSync(file, writeConfigDoc());
console.log(`wrote ${file.pathname}`);
