/**
 * All claims, in the order of the report.
 * @module
 */
import type { Claim } from "./claim.ts";
import { browser } from "./claims/browser.ts";
import { days } from "./claims/days.ts";
import { delivered } from "./claims/delivered.ts";
import { fanOut } from "./claims/fan-out.ts";
import { floor } from "./claims/floor.ts";
import { idleReceivers } from "./claims/idle.ts";
import { latency } from "./claims/latency.ts";
import { mailboxes } from "./claims/mailboxes.ts";
import { restart } from "./claims/restart.ts";
import { sends } from "./claims/sends.ts";
import { x0 } from "./claims/x0.ts";

export const CLAIMS: readonly Claim[] = [delivered, sends, latency, floor, idleReceivers, fanOut, restart, mailboxes, days, browser, x0];
