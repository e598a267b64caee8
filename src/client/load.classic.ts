/**
 * In the classic script in place of load.ts: its other part is a file of the server's.
 * @module
 */

let tries = 0;

/** @param base  the server's address. A browser does not ask again for what it could not load: each time it has another name */
export const loadPage = (base: string): Promise<typeof import("./page.ts")> => import(`${base}/handover-page.js?${tries++}`);
