/**
 * In the classic script in place of load.ts: its other part is a file of the server's.
 * @module
 */

/** @param base  the server's address */
export const loadPage = (base: string): Promise<typeof import("./page.ts")> => import(`${base}/handover-page.js`);
