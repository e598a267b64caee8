// The public types of the SDK in one text: what an entry's declarations (as `tsc` wrote them) need of each other's files, and nothing else.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** Reads a `.d.ts` of tsc's: what it declares, imports, and lists as exported. */
function read(file) {
  const declared = new Map();
  const imported = new Map();
  const exported = new Map();
  let comment = [];
  const lines = readFileSync(file, "utf8").split("\n");
  const blockFrom = (at, isEnd) => {
    let end = at;
    while (!isEnd(lines[end])) end += 1;
    return end;
  };
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    if (line.startsWith("/**")) {
      const end = blockFrom(at, (each) => each.endsWith("*/"));
      comment = lines.slice(at, end + 1);
      at = end;
      continue;
    }
    const list = /^(import|export) (type )?\{([^}]*)\}(?: from "([^"]+)")?;$/.exec(line);
    const declaration = /^(export )?(?:declare )?(?:abstract )?(class|interface|type|const|function) (\w+)/.exec(line);
    if (list) {
      const [, kind, type, names, from] = list;
      for (const each of names.split(",").filter((name) => name.trim() !== "")) {
        const [, itsType, name] = /^\s*(type )?(\w+)\s*$/.exec(each);
        if (from !== undefined) imported.set(name, join(dirname(file), from.replace(/\.ts$/, ".d.ts")));
        if (kind === "export") exported.set(name, type || itsType ? "type " : "");
      }
    } else if (declaration) {
      const [, isExported, kind, name] = declaration;
      const end = blockFrom(at, (each) => /^(?!\s).*[;}]$/.test(each) && !(each === line && line.endsWith("{")));
      const text = lines
        .slice(at, end + 1)
        .join("\n")
        .replace(/^export /, "");
      const own = { text: text.startsWith("declare") || /^(interface|type) /.test(text) ? text : `declare ${text}`, comment: comment.join("\n") };
      declared.set(name, [...(declared.get(name) ?? []), own]);
      if (isExported) exported.set(name, /^(interface|type)$/.test(kind) ? "type " : "");
      at = end;
    }
    comment = [];
  }
  return { declared, imported, exported };
}

/** @returns the declarations of an entry in one text. @throws Error when two files that it needs declare the same name */
export function declarationsOf(entry) {
  const files = new Map();
  const open = (file) => {
    if (!files.has(file)) files.set(file, read(file));
    return files.get(file);
  };
  /** The names in a table as a type of their own: what else the table says is nobody's matter. */
  const keysOf = (table, file) => {
    const { declared } = open(file);
    const [{ text }] = declared.get(table);
    return [...text.matchAll(/^ {4}readonly "?([\w-]+)"?:/gm)].map(([, key]) => `"${key}"`).join(" | ");
  };
  const taken = new Map();
  const take = (name, file) => {
    const { declared, imported } = open(file);
    if (!declared.has(name)) {
      const from = imported.get(name);
      if (from !== undefined) take(name, from);
      return;
    }
    if (taken.has(name) && taken.get(name).file !== file) throw new Error(`${name} is declared in ${file} and in ${taken.get(name).file}`);
    if (taken.has(name)) return;
    const declarations = declared.get(name);
    taken.set(name, { file, declarations });
    for (const each of declarations) {
      each.text = each.text.replace(/keyof typeof (\w+)/g, (_whole, table) => keysOf(table, file));
      const words = each.text.replace(/\/\*.*?\*\/|"[^"]*"/gs, "").matchAll(/[A-Za-z_]\w*/g);
      for (const [word] of words) take(word, file);
    }
  };
  const { exported } = open(entry);
  for (const name of exported.keys()) take(name, entry);
  const texts = [...taken.values()].flatMap(({ declarations }) => declarations.map(({ text, comment }) => (comment ? `${comment}\n${text}` : text)));
  const names = [...exported].map(([name, type]) => `${type}${name}`).sort((one, other) => one.localeCompare(other));
  return `${texts.join("\n")}\nexport { ${names.join(", ")} };\n`;
}

/** The API report: the public types of every entry, without comments. */
export function reportOf(root) {
  return ["index", "service"]
    .map((entry) => {
      const text = declarationsOf(join(root, `dist/client/${entry}.d.ts`)).replace(/^ *\/\*\*.*?\*\/\n/gms, "");
      return `// ${entry === "index" ? "@handover/client" : `@handover/client/${entry}`}\n\n${text}`;
    })
    .join("\n");
}
