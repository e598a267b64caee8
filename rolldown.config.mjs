/** The SDK as one classic script: `<script src="/handover.js"></script>` defines `Handover.connect`. Its part for pages is a file of its own. */
export default {
  input: "src/client/index.ts",
  plugins: [
    // es2020 has no private members, and imitating them with WeakMaps would make the script a third larger; so here they are ordinary ones
    // with short names. A `#` before a letter is nothing else in these sources.
    { name: "private-names", transform: (code) => ({ code: code.replace(/#(?=[a-z])/g, "_") }) },
    {
      name: "classic-load",
      resolveId: (id, importer) => (id === "./load.ts" ? importer.replace(/[^/]*$/, "load.classic.ts") : undefined),
    },
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
    minify: { compress: true, codegen: true, mangle: true, mangleProps: { include: /^_/ } },
  },
};
