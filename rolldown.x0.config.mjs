/** The script for x0's pages, SDK included: `<script src="/x0/handover.js"></script>`, which defines nothing. */
import sdk from "./rolldown.config.mjs";

const { name: _name, minify, ...output } = sdk.output;

export default {
  ...sdk,
  input: "src/client/x0/index.ts",
  // Here the names that the SDK keeps to itself are x0's and the page's, too.
  output: { ...output, file: "dist/client/x0.js", minify: { ...minify, mangleProps: { include: /^_/ } } },
};
