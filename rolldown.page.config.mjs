/** The part of the SDK for pages, which the classic scripts load: `/handover-page.js`. */
import sdk from "./rolldown.config.mjs";

const { name: _name, ...output } = sdk.output;

export default { ...sdk, input: "src/client/page.ts", output: { ...output, format: "es", file: "dist/client/handover-page.js" } };
