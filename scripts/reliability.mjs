// docs/reliability.md, from what `npm run faults` found.

/**
 * @param results  docs/reliability.json: what was found of each fault, and its controls
 * @param faults  what each fault is, by its name
 * @returns the page; what failed, or was left out, is said at its top and where it belongs
 */
export function page({ found, controls, machine }, faults) {
  const names = Object.keys(faults).filter((fault) => found[fault]);
  const parts = [
    `# What it withstands

\`npm run faults\` does these things to the embedded store and to a server that uses it, and writes this page. Short forms of all of them are in \`npm test\`. Each has its controls: mistakes that are made in a copy of
the code (\`test/mutations.json\`, \`npm run mutations\`), and settings that exist in the tests only. They must turn the same tests red, or the tests would prove nothing.

Last run on ${machine}.`,
  ];
  const failures = Object.keys(faults).flatMap((fault) =>
    found[fault] ? failuresOf(fault, found[fault], controls[fault] ?? []) : [`${fault}: not run yet.`],
  );
  if (failures.length > 0) parts.push(`**Not all of it is proved:**\n\n${failures.map((line) => `- ${line}`).join("\n")}`);
  for (const fault of names) {
    const { title, text } = faults[fault];
    const { date, commit, rows, passed } = found[fault];
    const did = rows.map(({ what, figures }) => `| ${what} | ${figuresInWords(figures)} |`);
    const red = (controls[fault] ?? []).map((control) => `| ${control.says} | ${control.passed ? control.found : wrongInWords(control)} |`);
    parts.push(`## ${fault} ${title}\n\n${text}`);
    parts.push(`| ${date}, ${commit} | ${passed ? "" : "**failed**"} |\n| --- | --- |\n${did.join("\n")}`);
    if (red.length > 0) parts.push(`| a mistake, made on purpose | turns red |\n| --- | --- |\n${red.join("\n")}`);
  }
  parts.push(`## What this does not show

A disk that says it has synced and has not; a whole disk that is lost (the embedded store is on one: take backups, [operate.md](operate.md)); damage in memory. The power cuts are those of a file system's and a
page cache's memory, on a loop device: they do not know what a drive's own cache does. R2 and R3 as in the project's founding paper RELIABILITY, which took them from the tests of SQLite, LazyFS and ALICE.`);
  return `${parts.join("\n\n")}\n`;
}

function failuresOf(fault, { passed, leftOut = [] }, controls) {
  return [
    ...(passed ? [] : [`${fault}: a test failed.`]),
    ...leftOut.map(({ suite, reason }) => `${fault}: left out, since ${reason}: ${suite}.`),
    ...controls.filter((control) => !control.passed).map((control) => `${fault}: the control "${control.says}": ${wrongInWords(control)}.`),
  ];
}

const wrongInWords = ({ found, expected }) => `**WRONG**: ${found || "nothing turned red"}${expected ? `, and not ${expected}` : ""}`;

function figuresInWords(figures) {
  return Object.entries(figures)
    .map(([name, value]) => `${name} ${typeof value === "number" && name !== "seed" ? value.toLocaleString("en") : value}`)
    .join(", ");
}
