/**
 * The part of the SDK that only pages need, loaded when a page connects.
 * @module
 */

/** @param _base  the server's address; the classic script loads its part from there (load.classic.ts) */
export const loadPage = (_base: string): Promise<typeof import("./page.ts")> => import("./page.ts");
