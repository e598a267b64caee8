/**
 * All claims, in the order of the report.
 * @module
 */
import type { Claim } from "./claim.ts";
import { delivered } from "./claims/delivered.ts";

export const CLAIMS: readonly Claim[] = [delivered];
