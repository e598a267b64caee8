/**
 * The command and the store's thread, each in few files: loading some six hundred modules took most of the time that a start takes. What is imported as
 * a package (dist/index.js) stays as it was compiled.
 */
const common = {
  platform: "node",
  // Native modules, which find their binaries from where they are; and a package that is there only for who uses that engine.
  external: ["better-sqlite3", "rabbitmq-client", "bufferutil"],
  // Who installs packages by themselves has their licences; here they go with the code.
  output: {
    dir: "dist",
    format: "esm",
    sourcemap: true,
    comments: { legal: true, annotation: false, jsdoc: false },
    chunkFileNames: "command-[name].js",
  },
};

export default [
  { ...common, input: { cli: "dist/cli.js" } },
  // Beside the bundled engine, where it looks for it: engines/sqlite/thread.ts.
  { ...common, input: { worker: "dist/engines/sqlite/worker.js" } },
];
