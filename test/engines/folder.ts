import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder of a test's own, and the way to be rid of it. */
export function makeFolder(): { readonly dir: string; readonly remove: () => void } {
  const dir = mkdtempSync(join(tmpdir(), "handover-engine-"));
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) };
}
