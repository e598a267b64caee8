/** The script for x0's pages, SDK included: `<script src="/x0/handover.js"></script>`, which defines nothing. */
import sdk from "./rolldown.config.mjs";

const { name: _name, ...output } = sdk.output;

export default { ...sdk, input: "src/client/x0/index.ts", output: { ...output, file: "dist/client/x0.js" } };
