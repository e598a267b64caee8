/**
 * In the classic script in place of load.ts: its other part is a file beside it.
 * @module
 */

/** Known only while the script itself runs. */
const src = (globalThis.document?.currentScript as HTMLScriptElement | null | undefined)?.src;

/** @param base  the server's address: where the part is when the script was not loaded from a file of its own */
export const loadPage = (base: string): Promise<typeof import("./page.ts")> => import(`${src ? new URL(src).origin : base}/handover-page.js`);
