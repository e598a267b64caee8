#!/usr/bin/env node
/**
 * The command. It looks at the version of Node before it loads anything that would crash on an old one.
 * @module
 */
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 14)) {
  process.stderr.write(
    `Handover needs Node 22.14 or later; this is ${process.version}. In the project's folder \`npm start\` brings its own, and \`npx handover\` uses it.\n`,
  );
  process.exitCode = 1;
} else {
  const { run } = await import("./commands.ts");
  await run(process.argv);
}

export {};
