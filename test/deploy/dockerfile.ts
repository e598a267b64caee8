/**
 * deploy/Dockerfile, read: what it would do, for a machine without a container engine.
 * @module
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

interface Copy {
  readonly sources: readonly string[];
  readonly to: string;
}

/** One stage, its instructions by kind, in order. */
interface Stage {
  readonly base: string;
  readonly name: string | undefined;
  readonly steps: readonly (
    | ({ readonly kind: "copy"; readonly from: string | undefined } & Copy)
    | { readonly kind: "run"; readonly command: string }
  )[];
  readonly environment: Readonly<Record<string, string>>;
  readonly user: string | undefined;
  readonly volumes: readonly string[];
  readonly healthCheck: readonly string[];
  /** ENTRYPOINT and CMD. */
  readonly command: readonly string[];
}

/** The stages of the file. @throws Error at an instruction that is not understood here */
export function readDockerfile(): Stage[] {
  const text = readFileSync(`${ROOT}deploy/Dockerfile`, "utf8").replaceAll("\\\n", " ");
  const stages: { -readonly [K in keyof Stage]: Stage[K] }[] = [];
  for (const line of text.split("\n")) {
    const [, instruction = "", rest = ""] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? [];
    if (line.trim() === "" || line.startsWith("#")) continue;
    if (instruction === "FROM") {
      const [base = "", , name] = rest.split(/\s+/);
      stages.push({ base, name, steps: [], environment: {}, user: undefined, volumes: [], healthCheck: [], command: [] });
      continue;
    }
    const stage = stages.at(-1);
    if (!stage) throw new Error(`before the first FROM: ${line}`);
    if (instruction === "COPY") {
      const from = /^--from=(\S+)\s+/.exec(rest)?.[1];
      const paths = rest.replace(/^--from=\S+\s+/, "").split(/\s+/);
      stage.steps = [...stage.steps, { kind: "copy", from, sources: paths.slice(0, -1), to: paths.at(-1) ?? "" }];
    } else if (instruction === "RUN") stage.steps = [...stage.steps, { kind: "run", command: rest }];
    else if (instruction === "ENV") stage.environment = Object.fromEntries(rest.split(/\s+/).map((pair) => pair.split("=", 2) as [string, string]));
    else if (instruction === "USER") stage.user = rest;
    else if (instruction === "VOLUME") stage.volumes = [...stage.volumes, rest];
    else if (instruction === "HEALTHCHECK") stage.healthCheck = JSON.parse(rest.slice(rest.indexOf("CMD") + 3));
    else if (instruction === "ENTRYPOINT") stage.command = JSON.parse(rest);
    else if (instruction === "CMD") stage.command = [...stage.command, ...JSON.parse(rest)];
    else if (!["WORKDIR", "EXPOSE"].includes(instruction)) throw new Error(`not understood here: ${line}`);
  }
  return stages;
}
