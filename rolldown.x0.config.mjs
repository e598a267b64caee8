/** The script for x0's pages, SDK included: `<script src="/x0/handover.js"></script>`, which defines nothing. */
import sdk, { INTERNAL, mangled } from "./rolldown.config.mjs";

const { name: _name, minify, ...output } = sdk.output;
// Here two of the names are the page's, too: `style.position`, and the attribute `data-ended`.
const names = INTERNAL.replace(/ (ended|position)\b/g, "");

export default {
  ...sdk,
  input: "src/client/x0/index.ts",
  output: { ...output, file: "dist/client/x0.js", minify: { ...minify, mangleProps: { include: mangled(names) } } },
};
