/**
 * Names that parts of the SDK share and that never leave it: neither an application nor the wire knows them. `test/client/script.test.ts` holds that.
 */
const INTERNAL =
  "abandon acks advance answer become begin changes changeUser check deliver drop flush forget handle http inbox intake isBusy isElsewhere isOnce isReady keep keepAll keeper last mail maxAcks mute nudge off opening outbox over promise renew renews report restMs room settle settledElsewhere swallowed tell timer tries";

/** Those of them that the part for pages, a script of its own, uses too. */
const SHARED =
  "acks advance become begin deliver drop flush inbox intake isElsewhere keep keepAll keeper maxAcks mute nudge outbox over restMs room settle swallowed tell";

/** A to Z, then AA to AZ, … */
const nameAt = (index) => (index < 26 ? "" : nameAt(Math.floor(index / 26) - 1)) + String.fromCharCode(65 + (index % 26));

/** The same in every script. (`ended` and `position` are names of x0's page, too.) */
const cache = Object.fromEntries(SHARED.split(" ").map((name, index) => [name, nameAt(index)]));

/**
 * es2020 has no private members, and imitating them with WeakMaps would make the script a third larger; so here they are ordinary ones with short
 * names, the same ones in each class, the most used first. A `#` before a letter is nothing else in these sources.
 */
function privateNames(code) {
  const uses = new Map();
  for (const [, name] of code.matchAll(/#([a-z]\w*)/g)) uses.set(name, (uses.get(name) ?? 0) + 1);
  const names = [...uses].sort(([, one], [, other]) => other - one).map(([name]) => name);
  // A class and what it extends are one object.
  const first = / extends (BesideWire|Database)\b/.test(code) ? 100 : 0;
  return code.replace(/#([a-z]\w*)/g, (_whole, name) => `_${first + names.indexOf(name)}`);
}

/** The SDK as one classic script: `<script src="/handover.js"></script>` defines `Handover.connect`. */
export default {
  input: "src/client/index.ts",
  plugins: [
    { name: "private-names", transform: (code) => ({ code: privateNames(code) }) },
    { name: "classic-load", resolveId: (id, importer) => (id === "./load.ts" ? importer.replace(/[^/]*$/, "load.classic.ts") : undefined) },
  ],
  // Ours asks for fields by definition, which es2020 has not either.
  tsconfig: false,
  transform: {
    target: "es2020",
    assumptions: { setPublicClassFields: true },
    typescript: { removeClassFieldsWithoutInitializer: true },
  },
  output: {
    file: "dist/client/handover.js",
    format: "iife",
    name: "Handover",
    comments: false,
    generatedCode: { symbols: false },
    minify: { compress: true, codegen: true, mangle: true, mangleProps: { include: new RegExp(`^(_.*|${INTERNAL.replaceAll(" ", "|")})$`), cache } },
  },
};
